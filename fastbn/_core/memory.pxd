cimport numpy as cnp


cpdef cnp.ndarray empty(tuple shape, kind)
cdef void* take(size_t bytes) noexcept nogil
cdef void give(void* data) noexcept nogil

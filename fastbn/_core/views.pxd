cimport numpy as cnp


cdef class View:
    cdef str name                   # what errors call the array
    cdef cnp.ndarray source         # the caller's array
    cdef readonly object array      # what the kernels walk: the caller's array, or a packed copy of it
    cdef object target              # where a packed result goes in the end, or None
    cdef object result              # what the caller gets: None is the array, True a tensor of it, else `out`
    cdef readonly bint tensor       # whether the caller's array is a tensor
    cdef object order               # the axes as memory has them, outermost first; None: as the array has them
    cdef cnp.ndarray chosen         # intp, which rows count, rising; None for all; n is then how many
    cdef Py_ssize_t rows            # of the array, where some are chosen
    cdef bint broadcast             # whether narrow rows may be one row in memory
    cdef int outer                  # how many of them come before the channel
    cdef char* p
    cdef int type                   # of the elements, as in sizes.pxi
    cdef Py_ssize_t itemsize
    cdef Py_ssize_t n, c, s         # the two shapes: planes (n, c, s), and rows (n, c) with s == 1
    cdef Py_ssize_t step_n, step_c  # in elements; along s it is 1
    cdef readonly Py_ssize_t size   # n * c * s

    cpdef finish(self)


cpdef View view(x, axis, channels=*, str name=*, arrangement=*, bint statistics=*)
cpdef View like(View x, a, str name)
cpdef bint choose(View x, cnp.ndarray index) except -1
cpdef View output(View x, out=*, View other=*)
cdef int load_vector(object a, double* out, Py_ssize_t c, double missing, str name) except -1
cdef bint same_vector(object a, const double* b, Py_ssize_t c, double missing) noexcept

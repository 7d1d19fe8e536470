cimport numpy as cnp


cdef cnp.ndarray new_array(int ndim, const cnp.npy_intp* shape, cnp.dtype kind)
cpdef cnp.ndarray empty(tuple shape, cnp.dtype kind)

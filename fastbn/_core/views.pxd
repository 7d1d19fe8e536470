cimport numpy as cnp


cdef class Merge:
    cdef tuple shape                # of the arrays of the caller
    cdef tuple order                # their axes, those of the channels side by side; None if they are so already
    cdef tuple parts                # the shape in this order
    cdef tuple whole                # the shape with one channel axis
    cdef int axis                   # the channel axis of a merged array

    cdef cnp.ndarray merge(self, cnp.ndarray a)
    cdef bint fits(self, cnp.ndarray a)
    cdef cnp.ndarray split(self, cnp.ndarray a)


cdef class View:
    cdef str name                   # of the array, in errors
    cdef cnp.ndarray source         # the caller's array
    cdef readonly object array      # the array that the kernels walk: the caller's, or a packed copy
    cdef object target              # the array that a packed result is copied to, or None
    cdef object result              # what finish() returns: None for the array, True for a tensor of it, or `out`
    cdef readonly bint tensor       # whether the caller's array is a tensor
    cdef object order               # the axes in order of memory, outermost first; None for the order of the array
    cdef int outer                  # the number of axes before the channel axis in this order
    cdef cnp.ndarray chosen         # intp, the increasing numbers of the rows that count; None for all
    cdef Py_ssize_t rows            # rows of the array if some are chosen; n is then their number
    cdef Merge merge                # how several channel axes became one; None for one axis
    cdef bint broadcast             # whether narrow rows may be one row that is repeated
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

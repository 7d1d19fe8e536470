# Checks that an output can be written, and that it overlaps no input in part.


cpdef int check_writable(cnp.ndarray a) except -1:
    """Raise an error if `out` is read-only or has elements that share memory."""
    refuse_none(a, "out")
    if not cnp.PyArray_ISWRITEABLE(a):
        raise ValueError("out is read-only")
    if not cnp.PyArray_IS_C_CONTIGUOUS(a) and overlaps_itself(a):
        raise ValueError("out has elements that share memory")
    return 0


cdef bint same_shape(cnp.ndarray a, cnp.ndarray b) noexcept:
    cdef int i
    if cnp.PyArray_NDIM(a) != cnp.PyArray_NDIM(b):
        return False
    for i in range(cnp.PyArray_NDIM(a)):
        if cnp.PyArray_DIMS(a)[i] != cnp.PyArray_DIMS(b)[i]:
            return False
    return True


cdef bint overlaps_itself(cnp.ndarray a):
    # Sorted by stride, every axis must step over the reach of the shorter ones. This also refuses some unusual strides
    # that would be valid.
    reach = <Py_ssize_t> cnp.PyArray_ITEMSIZE(a)
    for stride, length in sorted((abs(s), n) for s, n in zip((<object> a).strides, (<object> a).shape) if n > 1):
        if stride < reach:
            return True
        reach = stride * (length - 1) + reach
    return False


cdef int refuse_overlap(cnp.ndarray a, View other) except -1:
    cdef cnp.ndarray b = other.source
    cdef int i
    cdef bint same = cnp.PyArray_DATA(a) == cnp.PyArray_DATA(b) and same_shape(a, b)
    if same:
        for i in range(cnp.PyArray_NDIM(a)):
            if cnp.PyArray_STRIDES(a)[i] != cnp.PyArray_STRIDES(b)[i] and cnp.PyArray_DIMS(a)[i] > 1:
                same = False
    if same:
        return 0
    if cnp.PyArray_IS_C_CONTIGUOUS(a) and cnp.PyArray_IS_C_CONTIGUOUS(b):
        if (cnp.PyArray_BYTES(a) + cnp.PyArray_NBYTES(a) <= cnp.PyArray_BYTES(b)
                or cnp.PyArray_BYTES(b) + cnp.PyArray_NBYTES(b) <= cnp.PyArray_BYTES(a)):
            return 0
    elif not np.may_share_memory(a, b):
        return 0
    if overlap(a, b):
        raise ValueError(f"out overlaps {other.name} without being the same array; pass the same array, or one that "
                         "shares no memory")
    return 0


def same_memory(a, b):
    """Return whether `a`, an output that was checked, is the memory of the input `b`."""
    return cnp.PyArray_DATA(array_of(a, "a")) == cnp.PyArray_DATA(array_of(b, "b"))

# How an array is walked: the order of its axes in memory, and its shape and steps as (n, c, s).


cdef inline bint plain(cnp.ndarray a) noexcept:
    return cnp.PyArray_ISALIGNED(a) and cnp.PyArray_ISNOTSWAPPED(a)


cdef inline bint narrow(Py_ssize_t channels) noexcept:
    # Rows that do not fill tiles are read several at once (schedule/rows.pxi), which needs rows without gaps. This
    # holds for every array of that shape, so that the bits do not depend on strides.
    return channels % TILE != 0 and 2 * channels <= SLAB


cdef bint walk(View v, cnp.ndarray a, int axis) noexcept:
    # Sets shape and steps for the order of axes of v. Returns False if no single step covers the outer axes, or the
    # inner axes are not contiguous.
    cdef cnp.npy_intp* shape = cnp.PyArray_DIMS(a)
    cdef cnp.npy_intp* strides = cnp.PyArray_STRIDES(a)
    cdef Py_ssize_t itemsize = cnp.PyArray_ITEMSIZE(a)
    cdef Py_ssize_t n = 1, s = 1, step_n = 0, step_c
    cdef int ndim = cnp.PyArray_NDIM(a), i, k
    cdef bint nothing = cnp.PyArray_SIZE(a) == 0        # its strides mean nothing
    if not (plain(a) or nothing):
        return False
    for i in range(ndim - 1, -1, -1):
        k = i if v.order is None else v.order[i]
        if k == axis or shape[k] == 1:
            continue
        if i > v.outer:
            if strides[k] != itemsize * s and not nothing:
                return False
            s *= shape[k]
        else:
            if n == 1:
                step_n = strides[k]
            elif strides[k] != step_n * n and not nothing:
                return False
            n *= shape[k]
    step_c = strides[axis] if shape[axis] > 1 else itemsize * s
    if n == 1:
        step_n = step_c * shape[axis]
    if s == 1 and n > 1 and step_n != step_c * shape[axis] and narrow(shape[axis]):
        if step_n != 0 or not v.broadcast:
            return False
    if not nothing and (step_n % itemsize or step_c % itemsize or (s == 1 and step_c != itemsize)):
        return False
    v.array = a
    v.p = cnp.PyArray_BYTES(a)
    v.type = type_of(a)
    v.itemsize = itemsize
    v.n = n
    v.c = shape[axis]
    v.s = s
    v.step_n = step_n // itemsize
    v.step_c = step_c // itemsize
    v.size = n * v.c * s
    return True


cdef void find_order(View v, cnp.ndarray a, int axis):
    # The axes by decreasing stride. A broadcast axis (stride 0) repeats all elements, so it is outermost.
    cdef int ndim = cnp.PyArray_NDIM(a)
    reach = [abs(a.strides[k]) if a.strides[k] else 1 << 62 for k in range(ndim)]
    rest = [k for k in range(ndim) if k != axis]
    if a.shape[axis] == 1:
        # The stride of a single channel means nothing, so the channel axis keeps its place.
        is_outer = [k < axis for k in range(ndim)]
    else:
        is_outer = [reach[k] > reach[axis] for k in range(ndim)]
    outer = sorted((k for k in rest if is_outer[k]), key=lambda k: -reach[k])
    inner = sorted((k for k in rest if not is_outer[k]), key=lambda k: -reach[k])
    v.order = (*outer, axis, *inner)
    v.outer = len(outer)


cdef bint settle(View v, cnp.ndarray a, int axis):
    # Walks an array in the order of its memory. Returns False if the kernels cannot.
    v.outer = axis
    if cnp.PyArray_IS_C_CONTIGUOUS(a) and walk(v, a, axis):
        return True
    find_order(v, a, axis)
    return walk(v, a, axis)


cdef cnp.ndarray arranged(View v, cnp.ndarray a, bint empty):
    # A contiguous array in v's order of axes: a copy of a, or an empty array of its shape and type.
    cdef cnp.ndarray moved = a if v.order is None else a.transpose(v.order)
    cdef cnp.ndarray out
    dtype = a.dtype if cnp.PyArray_ISNOTSWAPPED(a) else a.dtype.newbyteorder("=")
    out = new_array(cnp.PyArray_NDIM(moved), cnp.PyArray_DIMS(moved), dtype)
    if not empty:
        np.copyto(out, moved)
    return out if v.order is None else out.transpose(np.argsort(v.order))

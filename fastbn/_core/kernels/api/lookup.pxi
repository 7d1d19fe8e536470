# uint8 images: collapses the axes of both arrays to lines of pixels, and distributes them to threads.


cdef bint collapse(Lookup* walk, cnp.ndarray x, int axis, cnp.ndarray y, int out_axis) noexcept:
    # Sets the steps of both arrays. Returns False if more than LOOKUP_AXES axes remain.
    cdef int i, a, b, used = 0
    cdef Py_ssize_t x_step, y_step, length
    walk.itemsize = cnp.PyArray_ITEMSIZE(y)
    walk.channels = cnp.PyArray_DIMS(x)[axis]
    walk.x_channel = cnp.PyArray_STRIDES(x)[axis]
    walk.y_channel = cnp.PyArray_STRIDES(y)[out_axis] // walk.itemsize
    for i in range(LOOKUP_AXES):
        walk.length[i] = 1
        walk.x_step[i] = 0
        walk.y_step[i] = 0
    for i in range(cnp.PyArray_NDIM(x) - 2, -1, -1):
        a = i + (i >= axis)
        b = i + (i >= out_axis)
        length = cnp.PyArray_DIMS(x)[a]
        x_step = cnp.PyArray_STRIDES(x)[a]
        y_step = cnp.PyArray_STRIDES(y)[b] // walk.itemsize
        if length == 1:
            continue
        if (used and walk.x_step[used - 1] * walk.length[used - 1] == x_step
                and walk.y_step[used - 1] * walk.length[used - 1] == y_step):
            walk.length[used - 1] *= length
            continue
        if used == LOOKUP_AXES:
            return False
        walk.length[used] = length
        walk.x_step[used] = x_step
        walk.y_step[used] = y_step
        used += 1
    return True


cdef bint fits(cnp.ndarray x, int axis, cnp.ndarray table, cnp.ndarray y, int out_axis) noexcept:
    # Whether the arrays are as lookup() expects them, apart from shared memory.
    cdef int i, ndim = cnp.PyArray_NDIM(x)
    if cnp.PyArray_NDIM(y) != ndim or cnp.PyArray_NDIM(table) != 2 or not (0 <= axis < ndim and 0 <= out_axis < ndim):
        return False
    for i in range(ndim - 1):
        if cnp.PyArray_DIMS(x)[i + (i >= axis)] != cnp.PyArray_DIMS(y)[i + (i >= out_axis)]:
            return False
    return (cnp.PyArray_DIMS(x)[axis] == cnp.PyArray_DIMS(y)[out_axis] == cnp.PyArray_DIMS(table)[0]
            and cnp.PyArray_DIMS(table)[1] == 256 and cnp.PyArray_ISCARRAY_RO(table) and cnp.PyArray_ISBEHAVED(y)
            and cnp.PyArray_TYPE(x) == cnp.NPY_UBYTE and cnp.PyArray_TYPE(y) == cnp.PyArray_TYPE(table)
            and cnp.PyArray_ITEMSIZE(y) <= 8)


def lookup(
    cnp.ndarray x not None, int axis, cnp.ndarray table not None, cnp.ndarray y not None, int out_axis, num_threads,
):
    """Write ``table[c, x]`` into `y`, with the channel axis moved from `axis` to `out_axis`.

    Parameters
    ----------
    x : ndarray of uint8
    axis, out_axis : int
        Not negative.
    table : ndarray, shape (C, 256)
        C-contiguous, of y's dtype.
    y : ndarray
        Aligned; it shares no memory with `x`.
    num_threads : int or None

    Returns
    -------
    bool
        False, with nothing written, if the arrays do not collapse to LOOKUP_AXES axes.
    """
    cdef Lookup walk
    cdef Job job
    cdef Py_ssize_t traffic
    if not fits(x, axis, table, y, out_axis):
        raise ValueError("x, table and y do not fit each other")
    if not cnp.PyArray_SIZE(x):
        return True
    if not collapse(&walk, x, axis, y, out_axis):
        return False
    memset(&job, 0, sizeof(Job))
    walk.x = <const uint8_t*> cnp.PyArray_DATA(x)
    walk.y = cnp.PyArray_BYTES(y)
    walk.table = cnp.PyArray_BYTES(table)
    walk.pieces = parts(walk.length[0], LOOKUP_PIXELS)
    job.lookup = &walk
    add_phase(&job, LOOKUP_LINES, walk.pieces * walk.length[1] * walk.length[2])
    traffic = cnp.PyArray_SIZE(x) * (1 + walk.itemsize)
    job.watch = traffic >= WATCH_BYTES
    if traffic >= SERIAL_BYTES_ROWS:
        run_job(&job, num_threads)
    else:
        run(&job, 1)
    return True

# The call that Python makes for uint8 images: walks both arrays, and hands lines of pixels to threads.


cdef bint collapse(Lookup* walk, cnp.ndarray x, int axis, cnp.ndarray y, int out_axis) noexcept:
    # Fill in the steps of both arrays; False where more axes remain than are counted.
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


def lookup(cnp.ndarray x, int axis, cnp.ndarray table, cnp.ndarray y, int out_axis, num_threads):
    """Write ``table[c, x]`` into `y`, with the channel axis moved from `axis` to `out_axis`.

    Parameters
    ----------
    x : ndarray of uint8
    axis, out_axis : int
        Not negative.
    table : ndarray, shape (C, 256)
        C-contiguous, of y's dtype.
    y : ndarray
        Aligned and apart from `x`.

    Returns
    -------
    bool
        False, and nothing done, where one of the arrays has too many gaps to be walked.
    """
    cdef Lookup walk
    cdef Job job
    cdef int threads = 1
    cdef bint large
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
    large = cnp.PyArray_SIZE(x) * (1 + walk.itemsize) >= SERIAL_BYTES_ROWS
    job.watch = cnp.PyArray_SIZE(x) * (1 + walk.itemsize) >= WATCH_BYTES
    if not large:
        run(&job, 1)
        return True
    threads = enter_team(num_threads)
    try:
        run_team(&job, threads)
    finally:
        leave_team()
    return True

# The forward's elementwise pass as the drivers call it: straight from array to array, or, where an activation other
# than ReLU follows, in pieces through local arrays that stay in the first-level cache.


cdef inline Py_ssize_t piece_of(Py_ssize_t length) noexcept nogil:
    # Elements of a run that a piece takes; a whole run if several fit, so that small planes go together.
    return length if length <= STAGE else STAGE


cdef void forward(
    Job* job, const char* x, Py_ssize_t x_step, const char* r, Py_ssize_t r_step,       # IN  (runs, length)
    char* y, Py_ssize_t y_step,                                                         # OUT (runs, length)
    uint16_t* bits, Py_ssize_t bits_step, Py_ssize_t runs, Py_ssize_t length, bint four,
    const real* coef, int spread,
) noexcept nogil:
    cdef float x_room[STAGE + APART]
    cdef float r_room[STAGE + APART]
    cdef real t[STAGE + APART]
    cdef const real* x_here
    cdef const real* r_here = NULL
    cdef Py_ssize_t x_packed, r_packed, i = 0, w, k, width
    cdef Py_ssize_t size = job.itemsize
    if job.activation <= RELU:
        affine(job.type, x, x_step * size, r, r_step * size, y, y_step * size, bits, bits_step, runs, length, four,
               coef, job.coef_step, spread, job.activation == RELU, job.stream)
        return
    while i < runs:
        w = 0
        k = least(runs - i, STAGE // piece_of(length))
        while w < length:
            width = least(piece_of(length), length - w)
            x_packed = x_step
            r_packed = r_step
            x_here = loaded(job.type, x + (i * x_step + w) * job.itemsize, &x_packed, k, width, x_room, coef)
            if r != NULL:
                r_here = loaded(job.type, r + (i * r_step + w) * job.itemsize, &r_packed, k, width, r_room, coef)
            affine(FLOAT32 if real is float else FLOAT64, <const char*> x_here, x_packed * <Py_ssize_t> sizeof(real),
                   <const char*> r_here, r_packed * <Py_ssize_t> sizeof(real),
                   <char*> t, width * <Py_ssize_t> sizeof(real), NULL, 0, k, width, False,
                   coef + (w if spread else i), job.coef_step, spread, False, False)
            activate(job.activation, <real> job.slope, t, k * width)
            stored(job.type, job.stream, <const real*> t, k, width, y + (i * y_step + w) * job.itemsize, y_step)
            w += width
        i += k

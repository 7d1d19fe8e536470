# The elementwise passes as the drivers call them: straight from array to array, or in pieces through local arrays that
# stay in the first-level cache, where the elements are halves or an activation other than ReLU follows.


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
    cdef uint16_t* bits_here = NULL
    cdef Py_ssize_t x_packed, r_packed, i = 0, w, k, width
    if job.activation <= RELU and not is_half(job.type):
        affine(<const real*> x, x_step, <const real*> r, r_step, <real*> y, y_step, bits, bits_step, runs, length, four,
               coef, job.coef_step, spread, job.activation == RELU)
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
            if bits != NULL:
                bits_here = bits + i * bits_step + w // LANES
            affine(x_here, x_packed, r_here, r_packed, t, width, bits_here, bits_step, k, width, False,
                   coef + (w if spread else i), job.coef_step, spread, job.activation == RELU)
            activate(job.activation, <real> job.slope, t, k * width)
            stored(job.type, <const real*> t, k, width, y + (i * y_step + w) * job.itemsize, y_step)
            w += width
        i += k


cdef void backward_of(
    Job* job, const char* g, Py_ssize_t g_step, const char* x, Py_ssize_t x_step,       # IN  (runs, length)
    const uint16_t* bits, Py_ssize_t bits_step,
    char* dx, Py_ssize_t dx_step, char* dr, Py_ssize_t dr_step,                         # OUT (runs, length)
    Py_ssize_t runs, Py_ssize_t length, bint four, const real* coef, int spread,
) noexcept nogil:
    cdef float x_room[STAGE + APART]
    cdef float g_room[STAGE + APART]
    cdef real t[STAGE + APART]
    cdef real u[STAGE + APART]
    cdef const real* x_here
    cdef const real* g_here
    cdef const uint16_t* bits_here = NULL
    cdef real* u_here = NULL
    cdef Py_ssize_t x_packed, g_packed, i = 0, w, k, width
    if not is_half(job.type):
        gradient(<const real*> g, g_step, <const real*> x, x_step, bits, bits_step, <real*> dx, dx_step,
                 <real*> dr, dr_step, runs, length, four, coef, job.coef_step, spread, job.gate, job.frozen)
        return
    if dr != NULL:
        u_here = u
    while i < runs:
        w = 0
        k = least(runs - i, STAGE // piece_of(length))
        while w < length:
            width = least(piece_of(length), length - w)
            x_packed = x_step
            g_packed = g_step
            x_here = loaded(job.type, x + (i * x_step + w) * job.itemsize, &x_packed, k, width, x_room, coef)
            g_here = loaded(job.type, g + (i * g_step + w) * job.itemsize, &g_packed, k, width, g_room, coef)
            if bits != NULL:
                bits_here = bits + i * bits_step + w // LANES
            gradient(g_here, g_packed, x_here, x_packed, bits_here, bits_step, t, width,
                     u_here, width, k, width, False,
                     coef + (w if spread else i), job.coef_step, spread, job.gate, job.frozen)
            stored(job.type, <const real*> t, k, width, dx + (i * dx_step + w) * job.itemsize, dx_step)
            if dr != NULL:
                stored(job.type, <const real*> u, k, width, dr + (i * dr_step + w) * job.itemsize, dr_step)
            w += width
        i += k

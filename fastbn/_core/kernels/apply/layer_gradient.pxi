# The elementwise pass of the backward of layer norm and RMS norm, with the sums of the parameters' gradients.
#
# a) dx = r * ((gamma * dy + b * (x - m)) + c), with the constants of row_coefs.pxi.
# b) dgamma and dbeta are sums of dy * xhat and of dy over columns, in `real` and in the order of the rows. The schedule
#    adds them to sums in double after every SUM_ROWS rows.
# c) Only two rows at once: more, of a power of two of bytes, exceed the associativity of the first-level cache.

cdef enum:
    PAIR = 2            # rows that share the loads of the parameters and of their sums


cdef inline void layer_gradient_block(
    LayerMode mode, GradientRuns a,                     # (rows, width); without bits and dresidual
    const real* gamma,                                  # IN  (width,)
    const real* row,                                    # IN  (rows, ROW_COEFS)
    real* sums, Py_ssize_t step,                        # OUT (2, width): those of dgamma and dbeta, added to
    Py_ssize_t ahead,                                   # rows to what is prefetched
    int rows, int width, int lanes,
) noexcept nogil:
    cdef real dgamma[STEP]
    cdef real dbeta[STEP]
    cdef real t[PAIR * STEP]
    cdef float dy_room[STEP]
    cdef float x_room[STEP]
    cdef const real* w
    cdef const real* u
    cdef real d, v
    cdef const real* k
    cdef int i, j
    if mode.gain:
        for j in range(lanes):
            dgamma[j] = sums[j] if j < width else 0
            dbeta[j] = sums[step + j] if j < width else 0
    for i in range(rows):
        prefetch(a.dy.p + (i + ahead) * a.dy.step, lanes * size_of(mode.type))
        prefetch(a.x.p + (i + ahead) * a.x.step, lanes * size_of(mode.type))
        w = load_block(mode.type, False, a.dy.p + i * a.dy.step, width, dy_room, row)
        u = load_block(mode.type, False, a.x.p + i * a.x.step, width, x_room, row)
        k = row + i * ROW_COEFS
        for j in range(lanes):
            if j < width:
                d = u[j] if mode.from_zero else u[j] - k[ROW_M]
                if mode.gain:
                    dgamma[j] += w[j] * (d * k[ROW_R] if mode.from_zero else d * k[ROW_R] + k[ROW_S])
                    dbeta[j] += w[j]
                v = (w[j] * gamma[j] if mode.gain else w[j]) + k[ROW_B] * d
                t[i * lanes + j] = k[ROW_R] * (v if mode.from_zero else v + k[ROW_C])
    for i in range(rows):
        store_block(mode.type, False, mode.stream, t + i * lanes, width, lanes, a.dx.p + i * a.dx.step)
    if mode.gain:
        for j in range(lanes):
            if j < width:
                sums[j] = dgamma[j]
                sums[step + j] = dbeta[j]


cdef inline void layer_gradient_some(
    LayerMode mode, GradientRuns a, Coefs coefs, const real* rows, real* sums, Py_ssize_t ahead, int count,
) noexcept nogil:
    cdef real row[PAIR * ROW_COEFS]     # local, so that they stay in registers although dx is written
    cdef const real* gamma = coef_row(coefs, GAMMA, rows)
    cdef Py_ssize_t w = 0, step = coefs.step, size = size_of(mode.type)
    cdef int i, k
    for i in range(count):
        for k in range(ROW_COEFS):
            row[i * ROW_COEFS + k] = rows[k * ROWS_ABREAST + i]
    while w + STEP <= a.length:
        layer_gradient_block(mode, gradient_at(a, w * size, 0), gamma + w, <const real*> row, sums + w, step, ahead,
                             count, STEP, STEP)
        w += STEP
    if w + LANES <= a.length:
        layer_gradient_block(mode, gradient_at(a, w * size, 0), gamma + w, <const real*> row, sums + w, step, ahead,
                             count, LANES, LANES)
        w += LANES
    if w < a.length:
        layer_gradient_block(mode, gradient_at(a, w * size, 0), gamma + w, <const real*> row, sums + w, step, ahead,
                             count, <int> (a.length - w), LANES)


cdef inline void layer_gradient_rows(
    LayerMode mode, GradientRuns a, Coefs coefs, const real* rows, real* sums,
) noexcept nogil:
    cdef Py_ssize_t i = 0
    while i + PAIR <= a.runs:
        layer_gradient_some(mode, gradient_next(a, i), coefs, rows + i, sums, a.runs, PAIR)
        i += PAIR
    if i < a.runs:
        layer_gradient_some(mode, gradient_next(a, i), coefs, rows + i, sums, a.runs, 1)


cdef inline void layer_gradient_with(
    LayerMode mode, GradientRuns a, Coefs coefs, const real* rows, real* sums,
) noexcept nogil:
    cdef LayerMode m = mode
    if mode.gain:
        m.gain = True
        layer_gradient_rows(m, a, coefs, rows, sums)
    else:
        m.gain = False
        layer_gradient_rows(m, a, coefs, rows, sums)


cdef inline void layer_gradient_of(
    LayerMode mode, GradientRuns a, Coefs coefs, const real* rows, real* sums,
) noexcept nogil:
    # The type is a literal already; every branch sets two more.
    cdef LayerMode m = mode
    if mode.from_zero:
        m.from_zero = True
        layer_gradient_with(m, a, coefs, rows, sums)
    else:
        m.from_zero = False
        layer_gradient_with(m, a, coefs, rows, sums)


cdef void layer_gradient(
    LayerMode mode, GradientRuns a, Coefs coefs,
    const real* rows,                                   # IN  (ROW_COEFS, ROWS_ABREAST)
    real* sums,                                         # OUT (2, step): of dgamma and dbeta, added to
) noexcept nogil:
    if real is double:
        mode.type = FLOAT64
        layer_gradient_of(mode, a, coefs, rows, sums)
    elif mode.type == FLOAT16:
        mode.type = FLOAT16
        layer_gradient_of(mode, a, coefs, rows, sums)
    elif mode.type == BFLOAT16:
        mode.type = BFLOAT16
        layer_gradient_of(mode, a, coefs, rows, sums)
    else:
        mode.type = FLOAT32
        layer_gradient_of(mode, a, coefs, rows, sums)

# The elementwise pass of the backward of layer norm and RMS norm, with the sums of the parameters' gradients.
#
# a) dx = r * ((gamma * dy + b * (x - m)) + c), with the constants of row_coefs.pxi.
# b) dgamma and dbeta are sums of dy * xhat and of dy over columns. A block goes down `rows` rows of some columns, adds
#    them in `real`, and then adds the sums of the block to those of the unit, in double.

cdef struct ColumnSums:     # (columns,) of a unit
    double* dgamma
    double* dbeta


cdef inline void layer_gradient_block(
    LayerMode mode, GradientRuns a,                     # (runs, width); without bits and dresidual
    const real* gamma,                                  # IN  (width,)
    const real* row,                                    # IN  (ROW_COEFS, ABREAST)
    ColumnSums sums,                                    # OUT (width,), added to
    int width, int lanes,
) noexcept nogil:
    cdef real g[STEP]
    cdef real dgamma[STEP]
    cdef real dbeta[STEP]
    cdef real t[STEP]
    cdef float dy_room[STEP]
    cdef float x_room[STEP]
    cdef const real* w
    cdef const real* u
    cdef real m, r, s, b, c, d, v
    cdef Py_ssize_t i
    cdef int j
    for j in range(lanes):
        g[j] = gamma[j] if mode.gain and j < width else 0
        dgamma[j] = 0
        dbeta[j] = 0
    for i in range(a.runs):
        w = load_block(mode.type, False, a.dy.p + i * a.dy.step, width, dy_room, row)
        u = load_block(mode.type, False, a.x.p + i * a.x.step, width, x_room, row)
        m = row[ROW_M * ABREAST + i]
        r = row[ROW_R * ABREAST + i]
        s = row[ROW_S * ABREAST + i]
        b = row[ROW_B * ABREAST + i]
        c = row[ROW_C * ABREAST + i]
        for j in range(lanes):
            if j < width:
                d = u[j] if mode.from_zero else u[j] - m
                if mode.gain:
                    dgamma[j] += w[j] * (d * r if mode.from_zero else d * r + s)
                    dbeta[j] += w[j]
                v = (w[j] * g[j] if mode.gain else w[j]) + b * d
                t[j] = r * (v if mode.from_zero else v + c)
        store_block(mode.type, False, mode.stream, t, width, lanes, a.dx.p + i * a.dx.step)
    if mode.gain:
        for j in range(lanes):
            if j < width:
                sums.dgamma[j] += dgamma[j]
                sums.dbeta[j] += dbeta[j]


cdef inline void layer_gradient_piece(
    LayerMode mode, GradientRuns a, Py_ssize_t w, Coefs coefs, const real* rows, ColumnSums sums, int width, int lanes,
) noexcept nogil:
    # From column w on.
    layer_gradient_block(mode, gradient_at(a, w * size_of(mode.type), 0), coef_row(coefs, GAMMA, rows) + w, rows,
                         ColumnSums(sums.dgamma + w, sums.dbeta + w), width, lanes)


cdef inline void layer_gradient_rows(
    LayerMode mode, GradientRuns a, Coefs coefs, const real* rows, ColumnSums sums,
) noexcept nogil:
    cdef Py_ssize_t w = 0
    while w + STEP <= a.length:
        layer_gradient_piece(mode, a, w, coefs, rows, sums, STEP, STEP)
        w += STEP
    if w + LANES <= a.length:
        layer_gradient_piece(mode, a, w, coefs, rows, sums, LANES, LANES)
        w += LANES
    if w < a.length:
        layer_gradient_piece(mode, a, w, coefs, rows, sums, <int> (a.length - w), LANES)


cdef inline void layer_gradient_of(
    LayerMode mode, GradientRuns a, Coefs coefs, const real* rows, ColumnSums sums,
) noexcept nogil:
    # The type is a literal already; every branch sets two more.
    cdef LayerMode m = mode
    if mode.from_zero:
        m.from_zero = True
        if mode.gain:
            m.gain = True
            layer_gradient_rows(m, a, coefs, rows, sums)
        else:
            m.gain = False
            layer_gradient_rows(m, a, coefs, rows, sums)
    else:
        m.from_zero = False
        if mode.gain:
            m.gain = True
            layer_gradient_rows(m, a, coefs, rows, sums)
        else:
            m.gain = False
            layer_gradient_rows(m, a, coefs, rows, sums)


cdef void layer_gradient(
    LayerMode mode, GradientRuns a, Coefs coefs,
    const real* rows,                                   # IN  (ROW_COEFS, ABREAST)
    ColumnSums sums,
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

# The elementwise pass of the backward of layer norm and RMS norm: dx = r * ((gamma * dy + b * (x - m)) + c), with the
# constants of row_coefs.pxi. Blocks and modes are those of layer.pxi.


cdef inline void layer_gradient_block(
    LayerMode mode, const char* dy, const char* x, char* dx,
    const real* gamma,                                  # IN  (width,)
    const real* row,                                    # IN  (ROW_COEFS,)
    int width, int lanes,
) noexcept nogil:
    cdef real t[TILE]
    cdef float dy_room[TILE]
    cdef float x_room[TILE]
    cdef const real* w = load_block(mode.type, False, dy, width, dy_room, row)
    cdef const real* u = load_block(mode.type, False, x, width, x_room, row)
    cdef real d, v
    cdef int j
    for j in range(lanes):
        if j < width:
            d = u[j] if mode.from_zero else u[j] - row[ROW_M]
            v = (w[j] * gamma[j] if mode.gain else w[j]) + row[ROW_B] * d
            t[j] = row[ROW_R] * (v if mode.from_zero else v + row[ROW_C])
    store_block(mode.type, False, mode.stream, t, width, lanes, dx)


cdef inline void layer_gradient_rows(LayerMode mode, GradientRuns a, Coefs coefs, const real* rows) noexcept nogil:
    cdef real row[ROW_COEFS]            # local, so that they stay in registers although dx is written
    cdef const real* gamma = coef_row(coefs, GAMMA, rows)
    cdef Py_ssize_t i, w, o, size = size_of(mode.type), ahead = a.runs
    cdef int k
    for i in range(a.runs):
        w = 0
        for k in range(ROW_COEFS):
            row[k] = rows[k * ROWS_ABREAST + i]
        while w + STEP <= a.length:
            o = w * size
            if mode.fetch:
                prefetch_far(a.dy.p + ahead * a.dy.step + o, STEP * size_of(mode.type))
                prefetch_far(a.x.p + ahead * a.x.step + o, STEP * size_of(mode.type))
            layer_gradient_block(mode, a.dy.p + o, a.x.p + o, a.dx.p + o, gamma + w, <const real*> row, STEP, STEP)
            w += STEP
        if w + LANES <= a.length:
            o = w * size
            layer_gradient_block(mode, a.dy.p + o, a.x.p + o, a.dx.p + o, gamma + w, <const real*> row, LANES, LANES)
            w += LANES
        if w < a.length:
            o = w * size
            layer_gradient_block(mode, a.dy.p + o, a.x.p + o, a.dx.p + o, gamma + w, <const real*> row,
                                 <int> (a.length - w), LANES)
        a = gradient_next(a, 1)


cdef inline void layer_gradient_stores(LayerMode mode, GradientRuns a, Coefs coefs, const real* rows) noexcept nogil:
    # As layer_stores().
    cdef LayerMode m = mode
    if mode.stream:
        m.stream = True
        layer_gradient_rows(m, a, coefs, rows)
    else:
        m.stream = False
        layer_gradient_rows(m, a, coefs, rows)


cdef inline void layer_gradient_with(LayerMode mode, GradientRuns a, Coefs coefs, const real* rows) noexcept nogil:
    cdef LayerMode m = mode
    if mode.gain:
        m.gain = True
        layer_gradient_stores(m, a, coefs, rows)
    else:
        m.gain = False
        layer_gradient_stores(m, a, coefs, rows)


cdef inline void layer_gradient_of(LayerMode mode, GradientRuns a, Coefs coefs, const real* rows) noexcept nogil:
    # The type is a literal already; every branch sets three more.
    cdef LayerMode m = mode
    if mode.from_zero:
        m.from_zero = True
        layer_gradient_with(m, a, coefs, rows)
    else:
        m.from_zero = False
        layer_gradient_with(m, a, coefs, rows)


cdef void layer_gradient(
    LayerMode mode, GradientRuns a, Coefs coefs,
    const real* rows,                                   # IN  (ROW_COEFS, ROWS_ABREAST)
) noexcept nogil:
    if real is double:
        mode.type = FLOAT64
        layer_gradient_of(mode, a, coefs, rows)
    elif mode.type == FLOAT16:
        mode.type = FLOAT16
        layer_gradient_of(mode, a, coefs, rows)
    elif mode.type == BFLOAT16:
        mode.type = BFLOAT16
        layer_gradient_of(mode, a, coefs, rows)
    else:
        mode.type = FLOAT32
        layer_gradient_of(mode, a, coefs, rows)

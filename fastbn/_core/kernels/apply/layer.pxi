# The elementwise pass of layer norm and RMS norm: y = ((x - m) * r + s) * gamma + beta, or y = (x * r) * gamma + beta.
#
# a) m, r and s belong to a row, gamma and beta to a column (common/row_coefs.pxi).
# b) A block is `lanes` columns of one row. It is computed into a local array and then stored, because x and y may be
#    the same memory.
# c) It may prefetch the same columns of the next group of rows, so that their reduction does not wait for memory.
# d) A LayerMode holds literals, as a Mode does in affine.pxi.

cdef struct LayerMode:      # literals when a body sees them, except for the last
    int type
    bint from_zero          # RMS norm
    bint gain               # multiply by gamma
    bint shift              # add beta
    bint stream
    bint fetch              # prefetch the next group of rows: the arrays do not fit in the last cache


cdef inline void layer_block(
    LayerMode mode, const char* x, char* y,
    const real* parameters, Py_ssize_t step,            # IN  (PARAMETERS, width)
    const real* row,                                    # IN  (ROW_COEFS,)
    Py_ssize_t ahead,                                   # bytes to what is prefetched
    int width, int lanes,
) noexcept nogil:
    cdef real t[TILE]
    cdef float room[TILE]
    cdef const real* u = load_block(mode.type, False, x, width, room, row)
    cdef real v
    cdef int j
    if mode.fetch:
        prefetch_far(x + ahead, lanes * size_of(mode.type))
    for j in range(lanes):
        if j < width:
            v = u[j] * row[ROW_R] if mode.from_zero else (u[j] - row[ROW_M]) * row[ROW_R] + row[ROW_S]
            if mode.gain:
                v = v * parameters[GAMMA * step + j]
            if mode.shift:
                v = v + parameters[BETA * step + j]
            t[j] = v
    store_block(mode.type, False, mode.stream, t, width, lanes, y)


cdef inline void layer_row(
    LayerMode mode, const char* x, char* y, Py_ssize_t length, Coefs coefs,
    const real* rows,                                   # IN  (ROW_COEFS, ROWS_ABREAST), from the row on
    Py_ssize_t ahead,
) noexcept nogil:
    cdef real row[ROW_COEFS]        # local, so that they stay in registers although y is written
    cdef const real* parameters = coef_row(coefs, 0, rows)
    cdef Py_ssize_t w = 0, step = coefs.step, size = size_of(mode.type)
    cdef int k
    for k in range(ROW_COEFS):
        row[k] = rows[k * ROWS_ABREAST]
    while w + TILE <= length:
        layer_block(mode, x + w * size, y + w * size, parameters + w, step, <const real*> row, ahead, TILE, TILE)
        w += TILE
    while w + LANES <= length:
        layer_block(mode, x + w * size, y + w * size, parameters + w, step, <const real*> row, ahead, LANES, LANES)
        w += LANES
    if w < length:
        layer_block(mode, x + w * size, y + w * size, parameters + w, step, <const real*> row, ahead,
                    <int> (length - w), LANES)


cdef inline void layer_rows(LayerMode mode, ForwardRuns a, Coefs coefs, const real* rows) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(a.runs):
        layer_row(mode, a.x.p + i * a.x.step, a.y.p + i * a.y.step, a.length, coefs, rows + i, a.runs * a.x.step)


cdef inline void layer_stores(LayerMode mode, ForwardRuns a, Coefs coefs, const real* rows) noexcept nogil:
    # Without a literal every block would also be stored into its local array, for fastbn_stream().
    cdef LayerMode m = mode
    if mode.stream:
        m.stream = True
        layer_rows(m, a, coefs, rows)
    else:
        m.stream = False
        layer_rows(m, a, coefs, rows)


cdef inline void layer_with(LayerMode mode, ForwardRuns a, Coefs coefs, const real* rows) noexcept nogil:
    # Layer norm with gamma alone adds a beta of zeros, RMS norm does not.
    cdef LayerMode m = mode
    if mode.shift or (mode.gain and not mode.from_zero):
        m.gain = True
        m.shift = True
        layer_stores(m, a, coefs, rows)
    elif mode.gain:
        m.gain = True
        m.shift = False
        layer_stores(m, a, coefs, rows)
    else:
        m.gain = False
        m.shift = False
        layer_stores(m, a, coefs, rows)


cdef inline void layer_of(LayerMode mode, ForwardRuns a, Coefs coefs, const real* rows) noexcept nogil:
    # The type is a literal already; every branch sets four more.
    cdef LayerMode m = mode
    if mode.from_zero:
        m.from_zero = True
        layer_with(m, a, coefs, rows)
    else:
        m.from_zero = False
        layer_with(m, a, coefs, rows)


cdef void layer(
    LayerMode mode, ForwardRuns a, Coefs coefs,
    const real* rows,                                   # IN  (ROW_COEFS, ROWS_ABREAST)
) noexcept nogil:
    if real is double:
        mode.type = FLOAT64
        layer_of(mode, a, coefs, rows)
    elif mode.type == FLOAT16:
        mode.type = FLOAT16
        layer_of(mode, a, coefs, rows)
    elif mode.type == BFLOAT16:
        mode.type = BFLOAT16
        layer_of(mode, a, coefs, rows)
    else:
        mode.type = FLOAT32
        layer_of(mode, a, coefs, rows)

# The elementwise pass of a backward: dx = a * ((dy + b * (x - m)) + c), or a * dy with frozen statistics. With several
# channels per statistic it is dx = a * ((g * dy + b * (x - m)) + c), where g is gamma.
#
# a) Blocks, runs and modes are those of affine.pxi.
# b) With a gate, dy is first set to zero where the ReLU was closed. That is also the gradient of a residual.
# c) The arrays are dy, x and bits in, dx and dresidual out.

cdef struct GradientRuns:   # (runs, length) of each; an absent array is x or dx, and not used
    Py_ssize_t runs
    Py_ssize_t length
    Runs dy                 # IN
    Runs x                  # IN
    Words bits              # IN
    Runs dx                 # OUT
    Runs dresidual          # OUT


cdef inline GradientRuns gradient_at(GradientRuns a, Py_ssize_t bytes, Py_ssize_t words) noexcept nogil:
    a.dy.p += bytes
    a.x.p += bytes
    a.bits.p += words
    a.dx.p += bytes
    a.dresidual.p += bytes
    return a


cdef inline GradientRuns gradient_next(GradientRuns a, Py_ssize_t runs) noexcept nogil:
    a.dy.p += runs * a.dy.step
    a.x.p += runs * a.x.step
    a.bits.p += runs * a.bits.step
    a.dx.p += runs * a.dx.step
    a.dresidual.p += runs * a.dresidual.step
    return a


cdef inline GradientRuns gradient_pieces(
    GradientRuns a, Py_ssize_t first, Py_ssize_t length, Py_ssize_t size,
) noexcept nogil:
    # The elements of one run from `first` on as runs of `length`.
    a = gradient_at(a, first * size, first // LANES)
    a.dy.step = length * size
    a.x.step = length * size
    a.bits.step = length // LANES
    a.dx.step = length * size
    a.dresidual.step = length * size
    return a


cdef inline void gradient_block(
    Mode mode,
    GradientRuns arrays,                                # (rows, width)
    Coefs coefs,                                        # (BACKWARD_COEFS, width or 1)
    Block block,
    const real* kind,
) noexcept nogil:
    cdef real m_room[TILE]
    cdef real scale[TILE]
    cdef real shift[TILE]
    cdef real a_room[TILE]
    cdef real b_room[TILE]
    cdef real c_room[TILE]
    cdef real g_room[TILE]
    cdef real t[4 * STEP]
    cdef real v[4 * STEP]
    cdef float dy_room[TILE]
    cdef float x_room[TILE]
    cdef const real* row = coef_row(coefs, 0, kind)
    cdef const real* m = m_room
    cdef const real* a = a_room
    cdef const real* b = b_room
    cdef const real* c = c_room
    cdef const real* g = g_room
    cdef const real* w
    cdef const real* u
    cdef const char* dy = arrays.dy.p
    cdef const char* x = arrays.x.p
    cdef const uint16_t* bits = arrays.bits.p
    cdef char* dx = arrays.dx.p
    cdef char* dresidual = arrays.dresidual.p
    cdef Py_ssize_t i = 0, step = coefs.step
    cdef int lanes = block.lanes, spread = 1 if mode.spread else 0, j, k, q, word
    cdef bint there
    cdef bint loose = not mode.spread and mode.gate != BITS
    for j in range(lanes if mode.spread else 1):
        there = not mode.spread or j < block.width
        m_room[j] = row[SUBTRACT * step + j] if there else 0
        scale[j] = row[SCALE * step + j] if there and mode.gate == REPLAY else 0
        shift[j] = row[SHIFT * step + j] if there and mode.gate == REPLAY else 0
        a_room[j] = row[DX_SCALE * step + j] if there else 0
        b_room[j] = row[DX_X * step + j] if there else 0
        c_room[j] = row[DX_1 * step + j] if there else 0
        g_room[j] = row[DX_WEIGHT * step + j] if there and mode.weighted else 0
    if mode.weighted and mode.spread and block.width == lanes:
        # gcc 12 may store the local copies of five constants for every block.
        m = row + SUBTRACT * step
        a = row + DX_SCALE * step
        b = row + DX_X * step
        c = row + DX_1 * step
        g = row + DX_WEIGHT * step
    while i < block.rows:
        for k in range(block.group):
            w = load_block(mode.type, loose, dy + k * arrays.dy.step, block.width, dy_room, kind)
            u = w
            if mode.gate == REPLAY or not mode.frozen:
                u = load_block(mode.type, loose, x + k * arrays.x.step, block.width, x_room, kind)
            if mode.gate == BITS:
                for q in range(lanes // LANES):
                    word = bits[k * arrays.bits.step + q] if q * LANES < block.width else 0
                    for j in range(LANES):
                        v[k * lanes + q * LANES + j] = opened_bit(
                            w[q * LANES + j] if q * LANES + j < block.width else 0, word, j)
            else:
                for j in range(lanes):
                    v[k * lanes + j] = w[j] if j < block.width else 0
            if mode.gate == REPLAY:
                for j in range(lanes):
                    if j < block.width:
                        v[k * lanes + j] = opened(v[k * lanes + j], u[j] - m[j * spread],
                                                  scale[j * spread], shift[j * spread])
            for j in range(lanes):
                if mode.frozen:
                    t[k * lanes + j] = a[j * spread] * v[k * lanes + j]
                else:
                    t[k * lanes + j] = a[j * spread] * (
                        ((g[j * spread] * v[k * lanes + j] if mode.weighted else v[k * lanes + j])
                         + b[j * spread] * (u[j] - m[j * spread])) + c[j * spread]
                    ) if j < block.width else 0
        for k in range(block.group):
            store_block(mode.type, loose, mode.stream, t + k * lanes, block.width, lanes, dx + k * arrays.dx.step)
            if mode.residual:
                store_block(mode.type, loose, mode.stream, v + k * lanes, block.width, lanes,
                            dresidual + k * arrays.dresidual.step)
        dy += block.group * arrays.dy.step
        x += block.group * arrays.x.step
        bits += block.group * arrays.bits.step
        dx += block.group * arrays.dx.step
        dresidual += block.group * arrays.dresidual.step
        i += block.group


cdef inline void gradient_rows(Mode mode, GradientRuns a, Coefs coefs, const real* kind) noexcept nogil:
    # As affine_rows(), but in steps of TILE: with two inputs these are 5 % faster, with one STEP is 20 % faster.
    cdef Py_ssize_t i = 0, w, k, rows = a.runs, width = a.length, size = size_of(mode.type)
    mode.spread = True
    while i < rows:
        w = 0
        k = rows - i if width <= TILE else 1
        if mode.four and i + 4 <= rows:
            k = 4
            while w + STEP <= width:
                gradient_block(mode, gradient_at(a, w * size, w // LANES), coefs_from(coefs, w, kind),
                               Block(4, 4, STEP, STEP), kind)
                w += STEP
        elif k == 1:
            while w + TILE <= width:
                gradient_block(mode, gradient_at(a, w * size, w // LANES), coefs_from(coefs, w, kind),
                               Block(1, 1, TILE, TILE), kind)
                w += TILE
        elif width == TILE:
            gradient_block(mode, a, coefs, Block(k, 1, TILE, TILE), kind)
            w = TILE
        if w < width:
            gradient_block(mode, gradient_at(a, w * size, w // LANES), coefs_from(coefs, w, kind),
                           Block(k, 1, <int> (width - w), TILE), kind)
        a = gradient_next(a, k)
        i += k


cdef inline void gradient_planes(Mode mode, GradientRuns a, Coefs coefs, const real* kind) noexcept nogil:
    # As affine_planes().
    cdef Py_ssize_t length = a.length, i, head = 0, size = size_of(mode.type)
    cdef Plane p = plane_of(0, length)
    mode.spread = False
    for i in range(a.runs):
        if mode.gate != BITS:
            head = head_of(a.dx.p, length, size)
            if head != p.head:
                p = plane_of(head, length)
            if head:
                gradient_block(mode, gradient_pieces(a, 0, 4, size), coefs, Block(head // 4, 1, 4, 4), kind)
        if p.tiles:
            gradient_block(mode, gradient_pieces(a, p.head, TILE, size), coefs, Block(p.tiles, 1, TILE, TILE), kind)
        if p.steps:
            gradient_block(mode, gradient_pieces(a, p.at_steps, LANES, size), coefs, Block(p.steps, 1, LANES, LANES),
                           kind)
        if mode.gate == BITS:
            if p.at_fours < length:
                gradient_block(mode, gradient_pieces(a, p.at_fours, LANES, size), coefs,
                               Block(1, 1, <int> (length - p.at_fours), LANES), kind)
        else:
            if p.fours:
                gradient_block(mode, gradient_pieces(a, p.at_fours, 4, size), coefs, Block(p.fours, 1, 4, 4), kind)
            if p.at_rest < length:
                gradient_block(mode, gradient_pieces(a, p.at_rest, 1, size), coefs, Block(length - p.at_rest, 1, 1, 1),
                               kind)
        a = gradient_next(a, 1)
        coefs = coefs_from(coefs, 1, kind)


cdef inline void gradient_with(Mode mode, GradientRuns a, Coefs coefs, const real* kind) noexcept nogil:
    if mode.spread:
        gradient_rows(mode, a, coefs, kind)
    else:
        gradient_planes(mode, a, coefs, kind)


cdef inline void gradient_gates(Mode mode, GradientRuns a, Coefs coefs, const real* kind) noexcept nogil:
    # A residual with a ReLU has bits, one without an activation an open gate.
    cdef Mode m = mode
    if mode.gate == REPLAY:
        m.gate = REPLAY
        m.residual = False
        gradient_with(m, a, coefs, kind)
    elif mode.gate == BITS:
        m.gate = BITS
        m.residual = True
        gradient_with(m, a, coefs, kind)
    elif mode.residual:
        m.gate = OPEN
        m.residual = True
        gradient_with(m, a, coefs, kind)
    else:
        m.gate = OPEN
        m.residual = False
        gradient_with(m, a, coefs, kind)


cdef inline void gradient_of(Mode mode, GradientRuns a, Coefs coefs, const real* kind) noexcept nogil:
    # The type is a literal already; every branch sets four more.
    cdef Mode m = mode
    if mode.frozen:
        m.frozen = True
        m.weighted = False
        gradient_gates(m, a, coefs, kind)
    elif mode.weighted:
        m.frozen = False
        m.weighted = True
        gradient_gates(m, a, coefs, kind)
    else:
        m.frozen = False
        m.weighted = False
        gradient_gates(m, a, coefs, kind)


cdef void gradient_float16(bint spread, Mode mode, GradientRuns a, Coefs coefs, const float* kind) noexcept nogil:
    mode.spread = spread
    mode.type = FLOAT16
    mode.four = False
    gradient_of(mode, a, coefs, kind)


cdef void gradient_bfloat16(bint spread, Mode mode, GradientRuns a, Coefs coefs, const float* kind) noexcept nogil:
    mode.spread = spread
    mode.type = BFLOAT16
    mode.four = False
    gradient_of(mode, a, coefs, kind)


cdef void gradient_plain(bint spread, Mode mode, GradientRuns a, Coefs coefs, const real* kind) noexcept nogil:
    mode.spread = spread
    mode.type = FLOAT64 if real is double else FLOAT32
    mode.stream = False
    gradient_of(mode, a, coefs, kind)


cdef void gradient_streamed(bint spread, Mode mode, GradientRuns a, Coefs coefs, const real* kind) noexcept nogil:
    mode.spread = spread
    mode.type = FLOAT64 if real is double else FLOAT32
    mode.stream = True
    gradient_of(mode, a, coefs, kind)


cdef void gradient(bint spread, Mode mode, GradientRuns a, Coefs coefs, const real* kind) noexcept nogil:
    # `stream` is a literal of two functions: two bodies in one would take twice the stack.
    if real is float and mode.type == FLOAT16:
        gradient_float16(spread, mode, a, coefs, kind)
    elif real is float and mode.type == BFLOAT16:
        gradient_bfloat16(spread, mode, a, coefs, kind)
    elif mode.stream:
        gradient_streamed(spread, mode, a, coefs, kind)
    else:
        gradient_plain(spread, mode, a, coefs, kind)

# The elementwise pass of a forward: y = (x - m) * scale + shift [+ residual] [then ReLU].
#
# a) A pass goes over `runs` runs of `length` elements. In `rows` a run is a row, and every column has its own constants
#    (mode.spread). In `planes` a run is a plane, and has one of each.
# b) A block is `rows` rows of `lanes` elements, `group` rows at once: some columns of one row; STEP columns of four
#    rows, which share the loads of the constants; or the tiles of a plane.
# c) A group is computed into a local array and then stored, because x and y may be the same memory. The constants are
#    local too, so that they stay in registers although y is written.
# d) Mode and Block hold literals. affine_of() chooses them; forced inlining removes the structs and the branches.
#    Halves are converted block by block, in registers.

cdef enum:
    LEAST_PEELED = 256      # elements of a plane from which y or dx is stored in whole cache lines

cdef struct Block:
    Py_ssize_t rows
    int group
    int width               # elements of a row that count
    int lanes

cdef struct ForwardRuns:    # (runs, length) of each; an absent array is x or y, and not used
    Py_ssize_t runs
    Py_ssize_t length
    Runs x                  # IN
    Runs residual           # IN
    Runs y                  # OUT
    Words bits              # OUT


cdef inline ForwardRuns forward_at(ForwardRuns a, Py_ssize_t bytes, Py_ssize_t words) noexcept nogil:
    a.x.p += bytes
    a.residual.p += bytes
    a.y.p += bytes
    a.bits.p += words
    return a


cdef inline ForwardRuns forward_next(ForwardRuns a, Py_ssize_t runs) noexcept nogil:
    a.x.p += runs * a.x.step
    a.residual.p += runs * a.residual.step
    a.y.p += runs * a.y.step
    a.bits.p += runs * a.bits.step
    return a


cdef inline ForwardRuns forward_pieces(
    ForwardRuns a, Py_ssize_t first, Py_ssize_t length, Py_ssize_t size,
) noexcept nogil:
    # The elements of one run from `first` on as runs of `length`.
    a = forward_at(a, first * size, first // LANES)
    a.x.step = length * size
    a.residual.step = length * size
    a.y.step = length * size
    a.bits.step = length // LANES
    return a


cdef inline void affine_block(
    Mode mode,
    ForwardRuns a,                                      # (rows, width)
    Coefs coefs,                                        # (FORWARD_COEFS, width or 1)
    Block block,
    const real* kind,
) noexcept nogil:
    cdef real m[TILE]
    cdef real scale[TILE]
    cdef real shift[TILE]
    cdef real t[4 * STEP]
    cdef float x_room[TILE]
    cdef float r_room[TILE]
    cdef const real* m_row = coef_row(coefs, SUBTRACT, kind)
    cdef const real* scale_row = coef_row(coefs, SCALE, kind)
    cdef const real* shift_row = coef_row(coefs, SHIFT, kind)
    cdef const real* u
    cdef const real* v
    cdef const char* x = a.x.p
    cdef const char* residual = a.residual.p
    cdef char* y = a.y.p
    cdef uint16_t* bits = a.bits.p
    cdef unsigned int word
    cdef Py_ssize_t i = 0
    cdef int lanes = block.lanes, spread = 1 if mode.spread else 0, j, k, q
    cdef bint loose = not mode.spread and not mode.keep     # neither constants nor bits belong to an element
    for j in range(lanes if mode.spread else 1):
        m[j] = m_row[j] if not mode.spread or j < block.width else 0
        scale[j] = scale_row[j] if not mode.spread or j < block.width else 0
        shift[j] = shift_row[j] if not mode.spread or j < block.width else 0
    while i < block.rows:
        for k in range(block.group):
            u = load_block(mode.type, loose, x + k * a.x.step, block.width, x_room, kind)
            for j in range(lanes):
                t[k * lanes + j] = rectified_if(
                    mode.relu and not mode.residual,
                    (u[j] - m[j * spread]) * scale[j * spread] + shift[j * spread] if j < block.width else 0)
            if mode.residual:
                v = load_block(mode.type, loose, residual + k * a.residual.step, block.width, r_room, kind)
                for j in range(lanes):
                    t[k * lanes + j] = rectified_if(mode.relu, t[k * lanes + j] + (v[j] if j < block.width else 0))
        for k in range(block.group):
            if mode.keep:
                for q in range(lanes // LANES):
                    if q * LANES < block.width:
                        word = 0
                        for j in range(LANES):
                            word |= <unsigned int> (0 if t[k * lanes + q * LANES + j] <= 0 else 1) << j
                        bits[k * a.bits.step + q] = <uint16_t> word
            store_block(mode.type, loose, mode.stream, t + k * lanes, block.width, lanes, y + k * a.y.step)
        x += block.group * a.x.step
        residual += block.group * a.residual.step
        y += block.group * a.y.step
        bits += block.group * a.bits.step
        i += block.group


cdef inline void affine_rows(Mode mode, ForwardRuns a, Coefs coefs, const real* kind) noexcept nogil:
    cdef Py_ssize_t i = 0, w, k, rows = a.runs, width = a.length, size = size_of(mode.type)
    mode.spread = True
    while i < rows:
        w = 0
        k = rows - i if width <= TILE else 1
        if mode.four and i + 4 <= rows:
            k = 4
            while w + STEP <= width:
                affine_block(mode, forward_at(a, w * size, w // LANES), coefs_from(coefs, w, kind),
                             Block(4, 4, STEP, STEP), kind)
                w += STEP
        elif k == 1:
            while w + STEP <= width:
                affine_block(mode, forward_at(a, w * size, w // LANES), coefs_from(coefs, w, kind),
                             Block(1, 1, STEP, STEP), kind)
                w += STEP
        elif width == TILE:
            affine_block(mode, a, coefs, Block(k, 1, TILE, TILE), kind)
            w = TILE
        if w < width:
            affine_block(mode, forward_at(a, w * size, w // LANES), coefs_from(coefs, w, kind),
                         Block(k, 1, <int> (width - w), TILE), kind)
        a = forward_next(a, k)
        i += k


cdef inline Py_ssize_t head_of(const char* p, Py_ssize_t length, Py_ssize_t size) noexcept nogil:
    # Elements of a plane of a result in front of its first whole cache line; 0 if the plane is short, or if these are
    # not whole steps of four. The arrays of NumPy begin 16 bytes past a line.
    cdef Py_ssize_t bytes = -<Py_ssize_t> p & (LINE - 1)
    return bytes // size if length >= LEAST_PEELED and bytes % (4 * size) == 0 else 0


cdef struct Plane:          # how a plane is cut: `head` elements, tiles, steps of LANES, steps of four, single elements
    Py_ssize_t head
    Py_ssize_t tiles
    Py_ssize_t steps
    Py_ssize_t fours
    Py_ssize_t at_steps     # where each begins
    Py_ssize_t at_fours
    Py_ssize_t at_rest


cdef inline Plane plane_of(Py_ssize_t head, Py_ssize_t length) noexcept nogil:
    cdef Plane p
    p.head = head
    p.tiles = (length - head) // TILE
    p.at_steps = head + p.tiles * TILE
    p.steps = (length - p.at_steps) // LANES
    p.at_fours = p.at_steps + p.steps * LANES
    p.fours = (length - p.at_fours) // 4
    p.at_rest = p.at_fours + p.fours * 4
    return p


cdef inline void affine_planes(Mode mode, ForwardRuns a, Coefs coefs, const real* kind) noexcept nogil:
    # A plane is tiles, then steps of LANES, then steps of four and single elements, or with bits one partial step.
    # Steps of four in front of the tiles reach the first whole cache line of y.
    cdef Py_ssize_t length = a.length, i, head = 0, size = size_of(mode.type)
    cdef Plane p = plane_of(0, length)
    mode.spread = False
    for i in range(a.runs):
        if not mode.keep:
            head = head_of(a.y.p, length, size)
            if head != p.head:
                p = plane_of(head, length)
            if head:
                affine_block(mode, forward_pieces(a, 0, 4, size), coefs, Block(head // 4, 1, 4, 4), kind)
        if p.tiles:
            affine_block(mode, forward_pieces(a, p.head, TILE, size), coefs, Block(p.tiles, 1, TILE, TILE), kind)
        if p.steps:
            affine_block(mode, forward_pieces(a, p.at_steps, LANES, size), coefs, Block(p.steps, 1, LANES, LANES), kind)
        if mode.keep:
            if p.at_fours < length:
                affine_block(mode, forward_pieces(a, p.at_fours, LANES, size), coefs,
                             Block(1, 1, <int> (length - p.at_fours), LANES), kind)
        else:
            if p.fours:
                affine_block(mode, forward_pieces(a, p.at_fours, 4, size), coefs, Block(p.fours, 1, 4, 4), kind)
            if p.at_rest < length:
                affine_block(mode, forward_pieces(a, p.at_rest, 1, size), coefs, Block(length - p.at_rest, 1, 1, 1),
                             kind)
        a = forward_next(a, 1)
        coefs = coefs_from(coefs, 1, kind)


cdef inline void affine_with(Mode mode, ForwardRuns a, Coefs coefs, const real* kind) noexcept nogil:
    if mode.spread:
        affine_rows(mode, a, coefs, kind)
    else:
        affine_planes(mode, a, coefs, kind)


cdef inline void affine_of(Mode mode, ForwardRuns a, Coefs coefs, const real* kind) noexcept nogil:
    # The type is a literal already; every branch sets three more.
    cdef Mode m = mode
    if not mode.residual:
        m.residual = False
        m.keep = False
        if mode.relu:
            m.relu = True
            affine_with(m, a, coefs, kind)
        else:
            m.relu = False
            affine_with(m, a, coefs, kind)
        return
    m.residual = True
    if not mode.relu:
        m.relu = False
        m.keep = False
        affine_with(m, a, coefs, kind)
        return
    m.relu = True
    if mode.keep:
        m.keep = True
        affine_with(m, a, coefs, kind)
    else:
        m.keep = False
        affine_with(m, a, coefs, kind)


cdef void affine_float16(bint spread, Mode mode, ForwardRuns a, Coefs coefs, const float* kind) noexcept nogil:
    mode.spread = spread
    mode.type = FLOAT16
    mode.four = False
    affine_of(mode, a, coefs, kind)


cdef void affine_bfloat16(bint spread, Mode mode, ForwardRuns a, Coefs coefs, const float* kind) noexcept nogil:
    mode.spread = spread
    mode.type = BFLOAT16
    mode.four = False
    affine_of(mode, a, coefs, kind)


cdef inline void affine_stores(Mode mode, ForwardRuns a, Coefs coefs, const real* kind) noexcept nogil:
    # Without a literal every block would also be stored into its local array, for fastbn_stream().
    cdef Mode m = mode
    if mode.stream:
        m.stream = True
        affine_of(m, a, coefs, kind)
    else:
        m.stream = False
        affine_of(m, a, coefs, kind)


cdef void affine(bint spread, Mode mode, ForwardRuns a, Coefs coefs, const real* kind) noexcept nogil:
    # `spread` is an argument of its own so that the compiler makes a function for each shape.
    mode.spread = spread
    if real is double:
        mode.type = FLOAT64
        affine_stores(mode, a, coefs, kind)
    elif mode.type == FLOAT16:
        affine_float16(spread, mode, a, coefs, kind)
    elif mode.type == BFLOAT16:
        affine_bfloat16(spread, mode, a, coefs, kind)
    else:
        mode.type = FLOAT32
        affine_stores(mode, a, coefs, kind)

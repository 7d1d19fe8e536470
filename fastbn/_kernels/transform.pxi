# The elementwise passes, for both memory shapes: `runs` runs of `length` elements.
#
# a) In `rows` a run is a row, and every column has constants of its own; in `planes` a run is a plane, and has one.
#    `spread` is 1 or 0, a literal that multiplies the index of the constants.
# b) A block is `rows` rows of `lanes` elements, `group` rows at once: some columns of one row; HALF columns of four
#    rows, which then share what they load of the constants; or the tiles of a plane.
# c) A group is computed into a local array and then stored: x and y may be the same memory, and the compiler need not
#    prove that they are not. Constants are local too, so that they stay in registers although y is written.
# d) The switches are literals; affine() and gradient() choose among them.


cdef inline void affine_block(
    const real* x, Py_ssize_t x_step, const real* r, Py_ssize_t r_step,         # IN  (rows, width), r: residual
    real* y, Py_ssize_t y_step,                                                 # OUT (rows, width)
    uint16_t* bits, Py_ssize_t bits_step,                                       # OUT (rows, parts(width, LANES))
    Py_ssize_t rows, int group, int width, int lanes,
    const real* coef, Py_ssize_t coef_step, int spread,                         # IN  (FORWARD_COEFS, width or 1)
    bint residual, bint relu, bint keep,
) noexcept nogil:
    # y = (x - m) * scale + shift [+ r] [then ReLU, which lets NaN through]
    cdef real m[TILE]
    cdef real a[TILE]
    cdef real b[TILE]
    cdef real t[4 * HALF]
    cdef unsigned int word
    cdef Py_ssize_t i = 0
    cdef int j, k, q
    for j in range(lanes if spread else 1):
        m[j] = coef[SUBTRACT * coef_step + j] if not spread or j < width else 0
        a[j] = coef[SCALE * coef_step + j] if not spread or j < width else 0
        b[j] = coef[SHIFT * coef_step + j] if not spread or j < width else 0
    while i < rows:
        for k in range(group):
            for j in range(lanes):
                t[k * lanes + j] = ((x[k * x_step + j] - m[j * spread]) * a[j * spread] + b[j * spread]
                                    if j < width else 0)
            if residual:
                for j in range(lanes):
                    t[k * lanes + j] += r[k * r_step + j] if j < width else 0
        for k in range(group):
            if keep:
                for q in range(lanes // LANES):
                    if q * LANES < width:
                        word = 0
                        for j in range(LANES):
                            word |= <unsigned int> (0 if t[k * lanes + q * LANES + j] <= 0 else 1) << j
                        bits[k * bits_step + q] = <uint16_t> word
            for j in range(lanes):
                if j < width:
                    if relu:
                        y[k * y_step + j] = 0 if t[k * lanes + j] <= 0 else t[k * lanes + j]
                    else:
                        y[k * y_step + j] = t[k * lanes + j]
        x += group * x_step
        r += group * r_step
        y += group * y_step
        bits += group * bits_step
        i += group


cdef inline void affine_rows(
    const real* x, Py_ssize_t x_step, const real* r, Py_ssize_t r_step, real* y, Py_ssize_t y_step,
    uint16_t* bits, Py_ssize_t bits_step, Py_ssize_t rows, Py_ssize_t width, bint four,
    const real* coef, Py_ssize_t coef_step, bint residual, bint relu, bint keep,
) noexcept nogil:
    cdef Py_ssize_t i = 0, w, k
    while i < rows:
        w = 0
        k = rows - i if width <= TILE else 1
        if four and i + 4 <= rows:
            k = 4
            while w + HALF <= width:
                affine_block(x + w, x_step, r + w, r_step, y + w, y_step, bits + w // LANES, bits_step,
                             4, 4, HALF, HALF, coef + w, coef_step, 1, residual, relu, keep)
                w += HALF
        elif k == 1:
            while w + HALF <= width:
                affine_block(x + w, x_step, r + w, r_step, y + w, y_step, bits + w // LANES, bits_step,
                             1, 1, HALF, HALF, coef + w, coef_step, 1, residual, relu, keep)
                w += HALF
        elif width == TILE:
            affine_block(x, x_step, r, r_step, y, y_step, bits, bits_step, k, 1, TILE, TILE,
                         coef, coef_step, 1, residual, relu, keep)
            w = TILE
        if w < width:
            affine_block(x + w, x_step, r + w, r_step, y + w, y_step, bits + w // LANES, bits_step, k, 1,
                         <int> (width - w), TILE, coef + w, coef_step, 1, residual, relu, keep)
        x += k * x_step
        r += k * r_step
        y += k * y_step
        bits += k * bits_step
        i += k


cdef inline void affine_planes(
    const real* x, Py_ssize_t x_step, const real* r, Py_ssize_t r_step, real* y, Py_ssize_t y_step,
    uint16_t* bits, Py_ssize_t bits_step, Py_ssize_t planes, Py_ssize_t length,
    const real* coef, Py_ssize_t coef_step, bint residual, bint relu, bint keep,
) noexcept nogil:
    cdef Py_ssize_t i, tiles = length // TILE, w = tiles * TILE, steps = (length - w) // LANES
    cdef Py_ssize_t v = w + steps * LANES, fours = (length - v) // 4, u = v + fours * 4
    for i in range(planes):
        if tiles:
            affine_block(x, TILE, r, TILE, y, TILE, bits, TILE // LANES, tiles, 1, TILE, TILE,
                         coef + i, coef_step, 0, residual, relu, keep)
        if steps:
            affine_block(x + w, LANES, r + w, LANES, y + w, LANES, bits + w // LANES, 1, steps, 1, LANES, LANES,
                         coef + i, coef_step, 0, residual, relu, keep)
        if keep:
            if v < length:
                affine_block(x + v, 0, r + v, 0, y + v, 0, bits + v // LANES, 0, 1, 1, <int> (length - v), LANES,
                             coef + i, coef_step, 0, residual, relu, keep)
        else:
            if fours:
                affine_block(x + v, 4, r + v, 4, y + v, 4, bits, 0, fours, 1, 4, 4,
                             coef + i, coef_step, 0, residual, relu, False)
            if u < length:
                affine_block(x + u, 1, r + u, 1, y + u, 1, bits, 0, length - u, 1, 1, 1,
                             coef + i, coef_step, 0, residual, relu, False)
        x += x_step
        r += r_step
        y += y_step
        bits += bits_step


cdef inline void affine_modes(
    const real* x, Py_ssize_t x_step, const real* r, Py_ssize_t r_step, real* y, Py_ssize_t y_step,
    uint16_t* bits, Py_ssize_t bits_step, Py_ssize_t runs, Py_ssize_t length, bint four,
    const real* coef, Py_ssize_t coef_step, int spread, bint residual, bint relu, bint keep,
) noexcept nogil:
    if spread:
        affine_rows(x, x_step, r, r_step, y, y_step, bits, bits_step, runs, length, four, coef, coef_step,
                    residual, relu, keep)
    else:
        affine_planes(x, x_step, r, r_step, y, y_step, bits, bits_step, runs, length, coef, coef_step,
                      residual, relu, keep)


cdef void affine(
    const real* x, Py_ssize_t x_step, const real* r, Py_ssize_t r_step, real* y, Py_ssize_t y_step,
    uint16_t* bits, Py_ssize_t bits_step, Py_ssize_t runs, Py_ssize_t length, bint four,
    const real* coef, Py_ssize_t coef_step, int spread, bint relu,
) noexcept nogil:
    # What is absent is another array of the same steps, and never looked at.
    cdef uint16_t* word = bits if bits != NULL else <uint16_t*> y
    if r == NULL:
        if relu:
            affine_modes(x, x_step, x, x_step, y, y_step, word, bits_step, runs, length, four, coef, coef_step, spread,
                         False, True, False)
        else:
            affine_modes(x, x_step, x, x_step, y, y_step, word, bits_step, runs, length, four, coef, coef_step, spread,
                         False, False, False)
    elif not relu:
        affine_modes(x, x_step, r, r_step, y, y_step, word, bits_step, runs, length, four, coef, coef_step, spread,
                     True, False, False)
    elif bits == NULL:
        affine_modes(x, x_step, r, r_step, y, y_step, word, bits_step, runs, length, four, coef, coef_step, spread,
                     True, True, False)
    else:
        affine_modes(x, x_step, r, r_step, y, y_step, word, bits_step, runs, length, four, coef, coef_step, spread,
                     True, True, True)


cdef inline void gradient_block(
    const real* g, Py_ssize_t g_step, const real* x, Py_ssize_t x_step,         # IN  (rows, width)
    const uint16_t* bits, Py_ssize_t bits_step,                                 # IN  (rows, parts(width, LANES))
    real* dx, Py_ssize_t dx_step, real* dr, Py_ssize_t dr_step,                 # OUT (rows, width), dr: d residual
    Py_ssize_t rows, int group, int width, int lanes,
    const real* coef, Py_ssize_t coef_step, int spread,                         # IN  (BACKWARD_COEFS, width or 1)
    int gate, bint residual, bint frozen,
) noexcept nogil:
    # dx = a * ((dy + b * (x - m)) + c); with frozen statistics dx = a * dy
    cdef real m[TILE]
    cdef real scale[TILE]
    cdef real shift[TILE]
    cdef real a[TILE]
    cdef real b[TILE]
    cdef real c[TILE]
    cdef real t[4 * HALF]
    cdef real v[4 * HALF]
    cdef unsigned int word
    cdef Py_ssize_t i = 0
    cdef int j, k, q
    cdef bint there
    for j in range(lanes if spread else 1):
        there = not spread or j < width
        m[j] = coef[SUBTRACT * coef_step + j] if there else 0
        scale[j] = coef[SCALE * coef_step + j] if there and gate == REPLAY else 0
        shift[j] = coef[SHIFT * coef_step + j] if there and gate == REPLAY else 0
        a[j] = coef[DX_SCALE * coef_step + j] if there else 0
        b[j] = coef[DX_X * coef_step + j] if there else 0
        c[j] = coef[DX_1 * coef_step + j] if there else 0
    while i < rows:
        for k in range(group):
            for j in range(lanes):
                v[k * lanes + j] = g[k * g_step + j] if j < width else 0
            if gate == REPLAY:
                for j in range(lanes):
                    if j < width:
                        v[k * lanes + j] = opened(v[k * lanes + j], x[k * x_step + j] - m[j * spread],
                                                  scale[j * spread], shift[j * spread])
            elif gate == BITS:
                for q in range(lanes // LANES):
                    word = bits[k * bits_step + q] if q * LANES < width else 0
                    for j in range(LANES):
                        if not (word >> j) & 1:
                            v[k * lanes + q * LANES + j] = 0
            for j in range(lanes):
                if frozen:
                    t[k * lanes + j] = a[j * spread] * v[k * lanes + j]
                else:
                    t[k * lanes + j] = a[j * spread] * (
                        (v[k * lanes + j] + b[j * spread] * (x[k * x_step + j] - m[j * spread])) + c[j * spread]
                    ) if j < width else 0
        for k in range(group):
            for j in range(lanes):
                if j < width:
                    dx[k * dx_step + j] = t[k * lanes + j]
            if residual:
                for j in range(lanes):
                    if j < width:
                        dr[k * dr_step + j] = v[k * lanes + j]
        g += group * g_step
        x += group * x_step
        bits += group * bits_step
        dx += group * dx_step
        dr += group * dr_step
        i += group


cdef inline void gradient_rows(
    const real* g, Py_ssize_t g_step, const real* x, Py_ssize_t x_step, const uint16_t* bits, Py_ssize_t bits_step,
    real* dx, Py_ssize_t dx_step, real* dr, Py_ssize_t dr_step, Py_ssize_t rows, Py_ssize_t width, bint four,
    const real* coef, Py_ssize_t coef_step, int gate, bint residual, bint frozen,
) noexcept nogil:
    # As affine_rows, in steps of TILE: with two arrays to read they were 5 % faster, and for one HALF was, by 20 %.
    cdef Py_ssize_t i = 0, w, k
    while i < rows:
        w = 0
        k = rows - i if width <= TILE else 1
        if four and i + 4 <= rows:
            k = 4
            while w + HALF <= width:
                gradient_block(g + w, g_step, x + w, x_step, bits + w // LANES, bits_step, dx + w, dx_step,
                               dr + w, dr_step, 4, 4, HALF, HALF, coef + w, coef_step, 1, gate, residual, frozen)
                w += HALF
        elif k == 1:
            while w + TILE <= width:
                gradient_block(g + w, g_step, x + w, x_step, bits + w // LANES, bits_step, dx + w, dx_step,
                               dr + w, dr_step, 1, 1, TILE, TILE, coef + w, coef_step, 1, gate, residual, frozen)
                w += TILE
        elif width == TILE:
            gradient_block(g, g_step, x, x_step, bits, bits_step, dx, dx_step, dr, dr_step, k, 1, TILE, TILE,
                           coef, coef_step, 1, gate, residual, frozen)
            w = TILE
        if w < width:
            gradient_block(g + w, g_step, x + w, x_step, bits + w // LANES, bits_step, dx + w, dx_step,
                           dr + w, dr_step, k, 1, <int> (width - w), TILE, coef + w, coef_step, 1,
                           gate, residual, frozen)
        g += k * g_step
        x += k * x_step
        bits += k * bits_step
        dx += k * dx_step
        dr += k * dr_step
        i += k


cdef inline void gradient_planes(
    const real* g, Py_ssize_t g_step, const real* x, Py_ssize_t x_step, const uint16_t* bits, Py_ssize_t bits_step,
    real* dx, Py_ssize_t dx_step, real* dr, Py_ssize_t dr_step, Py_ssize_t planes, Py_ssize_t length,
    const real* coef, Py_ssize_t coef_step, int gate, bint residual, bint frozen,
) noexcept nogil:
    # As affine_planes.
    cdef Py_ssize_t i, tiles = length // TILE, w = tiles * TILE, steps = (length - w) // LANES
    cdef Py_ssize_t v = w + steps * LANES, fours = (length - v) // 4, u = v + fours * 4
    for i in range(planes):
        if tiles:
            gradient_block(g, TILE, x, TILE, bits, TILE // LANES, dx, TILE, dr, TILE, tiles, 1, TILE, TILE,
                           coef + i, coef_step, 0, gate, residual, frozen)
        if steps:
            gradient_block(g + w, LANES, x + w, LANES, bits + w // LANES, 1, dx + w, LANES, dr + w, LANES, steps, 1,
                           LANES, LANES, coef + i, coef_step, 0, gate, residual, frozen)
        if gate == BITS:
            if v < length:
                gradient_block(g + v, 0, x + v, 0, bits + v // LANES, 0, dx + v, 0, dr + v, 0,
                               1, 1, <int> (length - v), LANES, coef + i, coef_step, 0, gate, residual, frozen)
        else:
            if fours:
                gradient_block(g + v, 4, x + v, 4, bits, 0, dx + v, 4, dr + v, 4, fours, 1, 4, 4,
                               coef + i, coef_step, 0, gate, residual, frozen)
            if u < length:
                gradient_block(g + u, 1, x + u, 1, bits, 0, dx + u, 1, dr + u, 1, length - u, 1, 1, 1,
                               coef + i, coef_step, 0, gate, residual, frozen)
        g += g_step
        x += x_step
        bits += bits_step
        dx += dx_step
        dr += dr_step


cdef inline void gradient_modes(
    const real* g, Py_ssize_t g_step, const real* x, Py_ssize_t x_step, const uint16_t* bits, Py_ssize_t bits_step,
    real* dx, Py_ssize_t dx_step, real* dr, Py_ssize_t dr_step, Py_ssize_t runs, Py_ssize_t length, bint four,
    const real* coef, Py_ssize_t coef_step, int spread, int gate, bint residual, bint frozen,
) noexcept nogil:
    if spread:
        gradient_rows(g, g_step, x, x_step, bits, bits_step, dx, dx_step, dr, dr_step, runs, length, four,
                      coef, coef_step, gate, residual, frozen)
    else:
        gradient_planes(g, g_step, x, x_step, bits, bits_step, dx, dx_step, dr, dr_step, runs, length,
                        coef, coef_step, gate, residual, frozen)


cdef void gradient(
    const real* g, Py_ssize_t g_step, const real* x, Py_ssize_t x_step, const uint16_t* bits, Py_ssize_t bits_step,
    real* dx, Py_ssize_t dx_step, real* dr, Py_ssize_t dr_step, Py_ssize_t runs, Py_ssize_t length, bint four,
    const real* coef, Py_ssize_t coef_step, int spread, int gate, bint frozen,
) noexcept nogil:
    # A residual without an activation leaves the gate open; with one, it is what the bits are for.
    cdef const uint16_t* word = bits if bits != NULL else <const uint16_t*> x
    if frozen:
        if gate == REPLAY:
            gradient_modes(g, g_step, x, x_step, word, bits_step, dx, dx_step, dx, dx_step, runs, length, four,
                           coef, coef_step, spread, REPLAY, False, True)
        elif gate == BITS:
            gradient_modes(g, g_step, x, x_step, word, bits_step, dx, dx_step, dr, dr_step, runs, length, four,
                           coef, coef_step, spread, BITS, True, True)
        elif dr != NULL:
            gradient_modes(g, g_step, x, x_step, word, bits_step, dx, dx_step, dr, dr_step, runs, length, four,
                           coef, coef_step, spread, OPEN, True, True)
        else:
            gradient_modes(g, g_step, x, x_step, word, bits_step, dx, dx_step, dx, dx_step, runs, length, four,
                           coef, coef_step, spread, OPEN, False, True)
    elif gate == REPLAY:
        gradient_modes(g, g_step, x, x_step, word, bits_step, dx, dx_step, dx, dx_step, runs, length, four,
                       coef, coef_step, spread, REPLAY, False, False)
    elif gate == BITS:
        gradient_modes(g, g_step, x, x_step, word, bits_step, dx, dx_step, dr, dr_step, runs, length, four,
                       coef, coef_step, spread, BITS, True, False)
    elif dr != NULL:
        gradient_modes(g, g_step, x, x_step, word, bits_step, dx, dx_step, dr, dr_step, runs, length, four,
                       coef, coef_step, spread, OPEN, True, False)
    else:
        gradient_modes(g, g_step, x, x_step, word, bits_step, dx, dx_step, dx, dx_step, runs, length, four,
                       coef, coef_step, spread, OPEN, False, False)

# The elementwise passes, for both memory shapes: `runs` runs of `length` elements.
#
# a) In `rows` a run is a row, and every column has constants of its own; in `planes` a run is a plane, and has one.
#    `spread` is 1 or 0, a literal that multiplies the index of the constants.
# b) A block is `rows` rows of `lanes` elements, `group` rows at once: some columns of one row; HALF columns of four
#    rows, which then share what they load of the constants; or the tiles of a plane.
# c) A group is computed into a local array and then stored: x and y may be the same memory, and the compiler need not
#    prove that they are not. Constants are local too, so that they stay in registers although y is written.
# d) The switches are literals, the element type among them; affine() and gradient() choose among them. Halves become
#    float, and float halves, block by block, in registers.
# e) Steps are in bytes.


cdef inline void affine_block(
    int type,                                                                   # of x, r and y
    const char* x, Py_ssize_t x_step, const char* r, Py_ssize_t r_step,         # IN  (rows, width), r: residual
    char* y, Py_ssize_t y_step,                                                 # OUT (rows, width)
    uint16_t* bits, Py_ssize_t bits_step,                                       # OUT (rows, parts(width, LANES))
    Py_ssize_t rows, int group, int width, int lanes,
    const real* coef, Py_ssize_t coef_step, int spread,                         # IN  (FORWARD_COEFS, width or 1)
    bint residual, bint relu, bint keep, bint stream,
) noexcept nogil:
    # y = (x - m) * scale + shift [+ r] [then ReLU, which lets NaN through]
    cdef real m[TILE]
    cdef real a[TILE]
    cdef real b[TILE]
    cdef real t[4 * HALF]
    cdef float x_room[TILE]
    cdef float r_room[TILE]
    cdef const real* u
    cdef const real* v
    cdef unsigned int word
    cdef Py_ssize_t i = 0
    cdef int j, k, q
    cdef bint loose = not spread and not keep       # neither constants nor bits that belong to an element
    for j in range(lanes if spread else 1):
        m[j] = coef[SUBTRACT * coef_step + j] if not spread or j < width else 0
        a[j] = coef[SCALE * coef_step + j] if not spread or j < width else 0
        b[j] = coef[SHIFT * coef_step + j] if not spread or j < width else 0
    while i < rows:
        for k in range(group):
            u = elements(type, loose, x + k * x_step, width, x_room, coef)
            for j in range(lanes):
                t[k * lanes + j] = rectified_if(
                    relu and not residual, (u[j] - m[j * spread]) * a[j * spread] + b[j * spread] if j < width else 0)
            if residual:
                v = elements(type, loose, r + k * r_step, width, r_room, coef)
                for j in range(lanes):
                    t[k * lanes + j] = rectified_if(relu, t[k * lanes + j] + (v[j] if j < width else 0))
        for k in range(group):
            if keep:
                for q in range(lanes // LANES):
                    if q * LANES < width:
                        word = 0
                        for j in range(LANES):
                            word |= <unsigned int> (0 if t[k * lanes + q * LANES + j] <= 0 else 1) << j
                        bits[k * bits_step + q] = <uint16_t> word
            put(type, loose, stream, t + k * lanes, width, lanes, y + k * y_step)
        x += group * x_step
        r += group * r_step
        y += group * y_step
        bits += group * bits_step
        i += group


cdef inline void affine_rows(
    int type, const char* x, Py_ssize_t x_step, const char* r, Py_ssize_t r_step, char* y, Py_ssize_t y_step,
    uint16_t* bits, Py_ssize_t bits_step, Py_ssize_t rows, Py_ssize_t width, bint four,
    const real* coef, Py_ssize_t coef_step, bint residual, bint relu, bint keep, bint stream,
) noexcept nogil:
    cdef Py_ssize_t i = 0, w, k, o, size = size_of(type)
    while i < rows:
        w = 0
        k = rows - i if width <= TILE else 1
        if four and i + 4 <= rows:
            k = 4
            while w + HALF <= width:
                o = w * size
                affine_block(type, x + o, x_step, r + o, r_step, y + o, y_step, bits + w // LANES, bits_step,
                             4, 4, HALF, HALF, coef + w, coef_step, 1, residual, relu, keep, stream)
                w += HALF
        elif k == 1:
            while w + HALF <= width:
                o = w * size
                affine_block(type, x + o, x_step, r + o, r_step, y + o, y_step, bits + w // LANES, bits_step,
                             1, 1, HALF, HALF, coef + w, coef_step, 1, residual, relu, keep, stream)
                w += HALF
        elif width == TILE:
            affine_block(type, x, x_step, r, r_step, y, y_step, bits, bits_step, k, 1, TILE, TILE,
                         coef, coef_step, 1, residual, relu, keep, stream)
            w = TILE
        if w < width:
            o = w * size
            affine_block(type, x + o, x_step, r + o, r_step, y + o, y_step, bits + w // LANES, bits_step, k, 1,
                         <int> (width - w), TILE, coef + w, coef_step, 1, residual, relu, keep, stream)
        x += k * x_step
        r += k * r_step
        y += k * y_step
        bits += k * bits_step
        i += k


cdef inline void affine_planes(
    int type, const char* x, Py_ssize_t x_step, const char* r, Py_ssize_t r_step, char* y, Py_ssize_t y_step,
    uint16_t* bits, Py_ssize_t bits_step, Py_ssize_t planes, Py_ssize_t length,
    const real* coef, Py_ssize_t coef_step, bint residual, bint relu, bint keep, bint stream,
) noexcept nogil:
    cdef Py_ssize_t i, tiles = length // TILE, w = tiles * TILE, steps = (length - w) // LANES
    cdef Py_ssize_t v = w + steps * LANES, fours = (length - v) // 4, u = v + fours * 4
    cdef Py_ssize_t size = size_of(type), tile = TILE * size, step = LANES * size, four = 4 * size
    for i in range(planes):
        if tiles:
            affine_block(type, x, tile, r, tile, y, tile, bits, TILE // LANES, tiles, 1, TILE, TILE,
                         coef + i, coef_step, 0, residual, relu, keep, stream)
        if steps:
            affine_block(type, x + w * size, step, r + w * size, step, y + w * size, step, bits + w // LANES, 1,
                         steps, 1, LANES, LANES, coef + i, coef_step, 0, residual, relu, keep, stream)
        if keep:
            if v < length:
                affine_block(type, x + v * size, 0, r + v * size, 0, y + v * size, 0, bits + v // LANES, 0, 1, 1,
                             <int> (length - v), LANES, coef + i, coef_step, 0, residual, relu, keep, stream)
        else:
            if fours:
                affine_block(type, x + v * size, four, r + v * size, four, y + v * size, four, bits, 0, fours, 1, 4, 4,
                             coef + i, coef_step, 0, residual, relu, False, stream)
            if u < length:
                affine_block(type, x + u * size, size, r + u * size, size, y + u * size, size, bits, 0, length - u, 1,
                             1, 1, coef + i, coef_step, 0, residual, relu, False, stream)
        x += x_step
        r += r_step
        y += y_step
        bits += bits_step


cdef inline void affine_modes(
    int type, const char* x, Py_ssize_t x_step, const char* r, Py_ssize_t r_step, char* y, Py_ssize_t y_step,
    uint16_t* bits, Py_ssize_t bits_step, Py_ssize_t runs, Py_ssize_t length, bint four,
    const real* coef, Py_ssize_t coef_step, int spread, bint residual, bint relu, bint keep, bint stream,
) noexcept nogil:
    if spread:
        affine_rows(type, x, x_step, r, r_step, y, y_step, bits, bits_step, runs, length, four, coef, coef_step,
                    residual, relu, keep, stream)
    else:
        affine_planes(type, x, x_step, r, r_step, y, y_step, bits, bits_step, runs, length, coef, coef_step,
                      residual, relu, keep, stream)


cdef inline void affine_of(
    int type, const char* x, Py_ssize_t x_step, const char* r, Py_ssize_t r_step, char* y, Py_ssize_t y_step,
    uint16_t* bits, Py_ssize_t bits_step, Py_ssize_t runs, Py_ssize_t length, bint four,
    const real* coef, Py_ssize_t coef_step, int spread, bint relu, bint stream,
) noexcept nogil:
    # What is absent is another array of the same steps, and never looked at.
    cdef uint16_t* word = bits if bits != NULL else <uint16_t*> y
    if r == NULL:
        if relu:
            affine_modes(type, x, x_step, x, x_step, y, y_step, word, bits_step, runs, length, four, coef, coef_step,
                         spread, False, True, False, stream)
        else:
            affine_modes(type, x, x_step, x, x_step, y, y_step, word, bits_step, runs, length, four, coef, coef_step,
                         spread, False, False, False, stream)
    elif not relu:
        affine_modes(type, x, x_step, r, r_step, y, y_step, word, bits_step, runs, length, four, coef, coef_step,
                     spread, True, False, False, stream)
    elif bits == NULL:
        affine_modes(type, x, x_step, r, r_step, y, y_step, word, bits_step, runs, length, four, coef, coef_step,
                     spread, True, True, False, stream)
    else:
        affine_modes(type, x, x_step, r, r_step, y, y_step, word, bits_step, runs, length, four, coef, coef_step,
                     spread, True, True, True, stream)


cdef void affine_float16(
    const char* x, Py_ssize_t x_step, const char* r, Py_ssize_t r_step, char* y, Py_ssize_t y_step,
    uint16_t* bits, Py_ssize_t bits_step, Py_ssize_t runs, Py_ssize_t length,
    const float* coef, Py_ssize_t coef_step, int spread, bint relu, bint stream,
) noexcept nogil:
    affine_of(FLOAT16, x, x_step, r, r_step, y, y_step, bits, bits_step, runs, length, False, coef, coef_step, spread,
              relu, stream)


cdef void affine_bfloat16(
    const char* x, Py_ssize_t x_step, const char* r, Py_ssize_t r_step, char* y, Py_ssize_t y_step,
    uint16_t* bits, Py_ssize_t bits_step, Py_ssize_t runs, Py_ssize_t length,
    const float* coef, Py_ssize_t coef_step, int spread, bint relu, bint stream,
) noexcept nogil:
    affine_of(BFLOAT16, x, x_step, r, r_step, y, y_step, bits, bits_step, runs, length, False, coef, coef_step, spread,
              relu, stream)


cdef void affine(
    int type, const char* x, Py_ssize_t x_step, const char* r, Py_ssize_t r_step,       # IN  (runs, length)
    char* y, Py_ssize_t y_step,                                                         # OUT (runs, length)
    uint16_t* bits, Py_ssize_t bits_step, Py_ssize_t runs, Py_ssize_t length, bint four,
    const real* coef, Py_ssize_t coef_step, int spread, bint relu, bint stream,
) noexcept nogil:
    if real is float:
        if type == FLOAT16:
            affine_float16(x, x_step, r, r_step, y, y_step, bits, bits_step, runs, length, coef, coef_step, spread,
                           relu, stream)
        elif type == BFLOAT16:
            affine_bfloat16(x, x_step, r, r_step, y, y_step, bits, bits_step, runs, length, coef, coef_step, spread,
                            relu, stream)
        else:
            affine_of(FLOAT32, x, x_step, r, r_step, y, y_step, bits, bits_step, runs, length, four, coef, coef_step,
                      spread, relu, stream)
    else:
        affine_of(FLOAT64, x, x_step, r, r_step, y, y_step, bits, bits_step, runs, length, four, coef, coef_step,
                  spread, relu, stream)


cdef inline void gradient_block(
    int type,                                                                   # of g, x, dx and dr
    const char* g, Py_ssize_t g_step, const char* x, Py_ssize_t x_step,         # IN  (rows, width)
    const uint16_t* bits, Py_ssize_t bits_step,                                 # IN  (rows, parts(width, LANES))
    char* dx, Py_ssize_t dx_step, char* dr, Py_ssize_t dr_step,                 # OUT (rows, width), dr: d residual
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
    cdef float g_room[TILE]
    cdef float x_room[TILE]
    cdef const real* dy
    cdef const real* u
    cdef unsigned int word
    cdef Py_ssize_t i = 0
    cdef int j, k, q
    cdef bint there
    cdef bint loose = not spread and gate != BITS
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
            dy = elements(type, loose, g + k * g_step, width, g_room, coef)
            u = dy
            if gate == REPLAY or not frozen:
                u = elements(type, loose, x + k * x_step, width, x_room, coef)
            for j in range(lanes):
                v[k * lanes + j] = dy[j] if j < width else 0
            if gate == REPLAY:
                for j in range(lanes):
                    if j < width:
                        v[k * lanes + j] = opened(v[k * lanes + j], u[j] - m[j * spread],
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
                        (v[k * lanes + j] + b[j * spread] * (u[j] - m[j * spread])) + c[j * spread]
                    ) if j < width else 0
        for k in range(group):
            put(type, loose, False, t + k * lanes, width, lanes, dx + k * dx_step)
            if residual:
                put(type, loose, False, v + k * lanes, width, lanes, dr + k * dr_step)
        g += group * g_step
        x += group * x_step
        bits += group * bits_step
        dx += group * dx_step
        dr += group * dr_step
        i += group


cdef inline void gradient_rows(
    int type, const char* g, Py_ssize_t g_step, const char* x, Py_ssize_t x_step,
    const uint16_t* bits, Py_ssize_t bits_step, char* dx, Py_ssize_t dx_step, char* dr, Py_ssize_t dr_step,
    Py_ssize_t rows, Py_ssize_t width, bint four,
    const real* coef, Py_ssize_t coef_step, int gate, bint residual, bint frozen,
) noexcept nogil:
    # As affine_rows, in steps of TILE: with two arrays to read they were 5 % faster, and for one HALF was, by 20 %.
    cdef Py_ssize_t i = 0, w, k, o, size = size_of(type)
    while i < rows:
        w = 0
        k = rows - i if width <= TILE else 1
        if four and i + 4 <= rows:
            k = 4
            while w + HALF <= width:
                o = w * size
                gradient_block(type, g + o, g_step, x + o, x_step, bits + w // LANES, bits_step, dx + o, dx_step,
                               dr + o, dr_step, 4, 4, HALF, HALF, coef + w, coef_step, 1, gate, residual, frozen)
                w += HALF
        elif k == 1:
            while w + TILE <= width:
                o = w * size
                gradient_block(type, g + o, g_step, x + o, x_step, bits + w // LANES, bits_step, dx + o, dx_step,
                               dr + o, dr_step, 1, 1, TILE, TILE, coef + w, coef_step, 1, gate, residual, frozen)
                w += TILE
        elif width == TILE:
            gradient_block(type, g, g_step, x, x_step, bits, bits_step, dx, dx_step, dr, dr_step, k, 1, TILE, TILE,
                           coef, coef_step, 1, gate, residual, frozen)
            w = TILE
        if w < width:
            o = w * size
            gradient_block(type, g + o, g_step, x + o, x_step, bits + w // LANES, bits_step, dx + o, dx_step,
                           dr + o, dr_step, k, 1, <int> (width - w), TILE, coef + w, coef_step, 1,
                           gate, residual, frozen)
        g += k * g_step
        x += k * x_step
        bits += k * bits_step
        dx += k * dx_step
        dr += k * dr_step
        i += k


cdef inline void gradient_planes(
    int type, const char* g, Py_ssize_t g_step, const char* x, Py_ssize_t x_step,
    const uint16_t* bits, Py_ssize_t bits_step, char* dx, Py_ssize_t dx_step, char* dr, Py_ssize_t dr_step,
    Py_ssize_t planes, Py_ssize_t length,
    const real* coef, Py_ssize_t coef_step, int gate, bint residual, bint frozen,
) noexcept nogil:
    # As affine_planes.
    cdef Py_ssize_t i, tiles = length // TILE, w = tiles * TILE, steps = (length - w) // LANES
    cdef Py_ssize_t v = w + steps * LANES, fours = (length - v) // 4, u = v + fours * 4
    cdef Py_ssize_t size = size_of(type), tile = TILE * size, step = LANES * size, four = 4 * size, o
    for i in range(planes):
        if tiles:
            gradient_block(type, g, tile, x, tile, bits, TILE // LANES, dx, tile, dr, tile, tiles, 1, TILE, TILE,
                           coef + i, coef_step, 0, gate, residual, frozen)
        if steps:
            o = w * size
            gradient_block(type, g + o, step, x + o, step, bits + w // LANES, 1, dx + o, step, dr + o, step, steps, 1,
                           LANES, LANES, coef + i, coef_step, 0, gate, residual, frozen)
        o = v * size
        if gate == BITS:
            if v < length:
                gradient_block(type, g + o, 0, x + o, 0, bits + v // LANES, 0, dx + o, 0, dr + o, 0,
                               1, 1, <int> (length - v), LANES, coef + i, coef_step, 0, gate, residual, frozen)
        else:
            if fours:
                gradient_block(type, g + o, four, x + o, four, bits, 0, dx + o, four, dr + o, four, fours, 1, 4, 4,
                               coef + i, coef_step, 0, gate, residual, frozen)
            o = u * size
            if u < length:
                gradient_block(type, g + o, size, x + o, size, bits, 0, dx + o, size, dr + o, size, length - u, 1,
                               1, 1, coef + i, coef_step, 0, gate, residual, frozen)
        g += g_step
        x += x_step
        bits += bits_step
        dx += dx_step
        dr += dr_step


cdef inline void gradient_modes(
    int type, const char* g, Py_ssize_t g_step, const char* x, Py_ssize_t x_step,
    const uint16_t* bits, Py_ssize_t bits_step, char* dx, Py_ssize_t dx_step, char* dr, Py_ssize_t dr_step,
    Py_ssize_t runs, Py_ssize_t length, bint four,
    const real* coef, Py_ssize_t coef_step, int spread, int gate, bint residual, bint frozen,
) noexcept nogil:
    if spread:
        gradient_rows(type, g, g_step, x, x_step, bits, bits_step, dx, dx_step, dr, dr_step, runs, length, four,
                      coef, coef_step, gate, residual, frozen)
    else:
        gradient_planes(type, g, g_step, x, x_step, bits, bits_step, dx, dx_step, dr, dr_step, runs, length,
                        coef, coef_step, gate, residual, frozen)


cdef inline void gradient_of(
    int type, const char* g, Py_ssize_t g_step, const char* x, Py_ssize_t x_step,
    const uint16_t* bits, Py_ssize_t bits_step, char* dx, Py_ssize_t dx_step, char* dr, Py_ssize_t dr_step,
    Py_ssize_t runs, Py_ssize_t length, bint four,
    const real* coef, Py_ssize_t coef_step, int spread, int gate, bint frozen,
) noexcept nogil:
    # A residual without an activation leaves the gate open; with one, it is what the bits are for.
    cdef const uint16_t* word = bits if bits != NULL else <const uint16_t*> x
    if frozen:
        if gate == REPLAY:
            gradient_modes(type, g, g_step, x, x_step, word, bits_step, dx, dx_step, dx, dx_step, runs, length, four,
                           coef, coef_step, spread, REPLAY, False, True)
        elif gate == BITS:
            gradient_modes(type, g, g_step, x, x_step, word, bits_step, dx, dx_step, dr, dr_step, runs, length, four,
                           coef, coef_step, spread, BITS, True, True)
        elif dr != NULL:
            gradient_modes(type, g, g_step, x, x_step, word, bits_step, dx, dx_step, dr, dr_step, runs, length, four,
                           coef, coef_step, spread, OPEN, True, True)
        else:
            gradient_modes(type, g, g_step, x, x_step, word, bits_step, dx, dx_step, dx, dx_step, runs, length, four,
                           coef, coef_step, spread, OPEN, False, True)
    elif gate == REPLAY:
        gradient_modes(type, g, g_step, x, x_step, word, bits_step, dx, dx_step, dx, dx_step, runs, length, four,
                       coef, coef_step, spread, REPLAY, False, False)
    elif gate == BITS:
        gradient_modes(type, g, g_step, x, x_step, word, bits_step, dx, dx_step, dr, dr_step, runs, length, four,
                       coef, coef_step, spread, BITS, True, False)
    elif dr != NULL:
        gradient_modes(type, g, g_step, x, x_step, word, bits_step, dx, dx_step, dr, dr_step, runs, length, four,
                       coef, coef_step, spread, OPEN, True, False)
    else:
        gradient_modes(type, g, g_step, x, x_step, word, bits_step, dx, dx_step, dx, dx_step, runs, length, four,
                       coef, coef_step, spread, OPEN, False, False)


cdef void gradient_float16(
    const char* g, Py_ssize_t g_step, const char* x, Py_ssize_t x_step,
    const uint16_t* bits, Py_ssize_t bits_step, char* dx, Py_ssize_t dx_step, char* dr, Py_ssize_t dr_step,
    Py_ssize_t runs, Py_ssize_t length,
    const float* coef, Py_ssize_t coef_step, int spread, int gate, bint frozen,
) noexcept nogil:
    gradient_of(FLOAT16, g, g_step, x, x_step, bits, bits_step, dx, dx_step, dr, dr_step, runs, length, False,
                coef, coef_step, spread, gate, frozen)


cdef void gradient_bfloat16(
    const char* g, Py_ssize_t g_step, const char* x, Py_ssize_t x_step,
    const uint16_t* bits, Py_ssize_t bits_step, char* dx, Py_ssize_t dx_step, char* dr, Py_ssize_t dr_step,
    Py_ssize_t runs, Py_ssize_t length,
    const float* coef, Py_ssize_t coef_step, int spread, int gate, bint frozen,
) noexcept nogil:
    gradient_of(BFLOAT16, g, g_step, x, x_step, bits, bits_step, dx, dx_step, dr, dr_step, runs, length, False,
                coef, coef_step, spread, gate, frozen)


cdef void gradient(
    int type, const char* g, Py_ssize_t g_step, const char* x, Py_ssize_t x_step,       # IN  (runs, length)
    const uint16_t* bits, Py_ssize_t bits_step,
    char* dx, Py_ssize_t dx_step, char* dr, Py_ssize_t dr_step,                         # OUT (runs, length)
    Py_ssize_t runs, Py_ssize_t length, bint four,
    const real* coef, Py_ssize_t coef_step, int spread, int gate, bint frozen,
) noexcept nogil:
    if real is float:
        if type == FLOAT16:
            gradient_float16(g, g_step, x, x_step, bits, bits_step, dx, dx_step, dr, dr_step, runs, length,
                             coef, coef_step, spread, gate, frozen)
        elif type == BFLOAT16:
            gradient_bfloat16(g, g_step, x, x_step, bits, bits_step, dx, dx_step, dr, dr_step, runs, length,
                              coef, coef_step, spread, gate, frozen)
        else:
            gradient_of(FLOAT32, g, g_step, x, x_step, bits, bits_step, dx, dx_step, dr, dr_step, runs, length, four,
                        coef, coef_step, spread, gate, frozen)
    else:
        gradient_of(FLOAT64, g, g_step, x, x_step, bits, bits_step, dx, dx_step, dr, dr_step, runs, length, four,
                    coef, coef_step, spread, gate, frozen)

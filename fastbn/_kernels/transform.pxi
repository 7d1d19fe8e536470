# The elementwise passes, for both memory shapes: `rows` rows of `width` <= TILE elements.
#
# a) In `rows` a tile is TILE neighbouring channels over some rows, and every column has constants of its own. In
#    `planes` a run of one channel is cut into rows of TILE elements, and one constant serves all: `spread` is 1 or 0,
#    a literal that multiplies the index of the constants.
# b) A row is computed into a local array and then stored: x and y may be the same memory, and the compiler need not
#    prove that they are not.
# c) Constants are copied into local arrays first, so they stay in registers although y is written.
# d) The switches are literals; the `_strip` and `_run` functions choose among them.


cdef inline void affine_rows(
    const real* x, Py_ssize_t x_step, const real* r, Py_ssize_t r_step,         # IN  (rows, width), r: residual
    real* y, Py_ssize_t y_step,                                                 # OUT (rows, width)
    uint64_t* bits, Py_ssize_t bits_step,                                       # OUT (rows,) or NULL
    Py_ssize_t rows, int width, int lanes,
    const real* m, const real* scale, const real* shift, int spread,            # IN  (TILE,) or (1,)
    bint residual, bint relu, bint keep,
) noexcept nogil:
    # y = (x - m) * scale + shift [+ r] [then ReLU, which lets NaN through]
    cdef real mc[TILE]
    cdef real ac[TILE]
    cdef real bc[TILE]
    cdef real t[TILE]
    cdef const real* p
    cdef real* o
    cdef uint64_t word
    cdef Py_ssize_t i
    cdef int j
    cdef bint there
    for j in range(lanes if spread else 1):
        there = not spread or j < width
        mc[j] = m[j] if there else 0
        ac[j] = scale[j] if there else 0
        bc[j] = shift[j] if there else 0
    for i in range(rows):
        p = x + i * x_step
        for j in range(lanes):
            t[j] = (p[j] - mc[j * spread]) * ac[j * spread] + bc[j * spread] if j < width else 0
        if residual:
            p = r + i * r_step
            for j in range(lanes):
                if j < width:
                    t[j] += p[j]
        if keep:
            word = 0
            for j in range(lanes):
                if j < width:
                    word |= <uint64_t> (0 if t[j] <= 0 else 1) << j
            bits[i * bits_step] = word
        o = y + i * y_step
        for j in range(lanes):
            if j < width:
                if relu:
                    o[j] = 0 if t[j] <= 0 else t[j]
                else:
                    o[j] = t[j]


cdef inline void affine_modes(
    const real* x, Py_ssize_t x_step, const real* r, Py_ssize_t r_step, real* y, Py_ssize_t y_step,
    uint64_t* bits, Py_ssize_t bits_step, Py_ssize_t rows, int width, int lanes,
    const real* m, const real* scale, const real* shift, int spread, bint relu,
) noexcept nogil:
    if r == NULL:
        if relu:
            affine_rows(x, x_step, r, r_step, y, y_step, bits, bits_step, rows, width, lanes, m, scale, shift, spread,
                        False, True, False)
        else:
            affine_rows(x, x_step, r, r_step, y, y_step, bits, bits_step, rows, width, lanes, m, scale, shift, spread,
                        False, False, False)
    elif not relu:
        affine_rows(x, x_step, r, r_step, y, y_step, bits, bits_step, rows, width, lanes, m, scale, shift, spread,
                    True, False, False)
    elif bits == NULL:
        affine_rows(x, x_step, r, r_step, y, y_step, bits, bits_step, rows, width, lanes, m, scale, shift, spread,
                    True, True, False)
    else:
        affine_rows(x, x_step, r, r_step, y, y_step, bits, bits_step, rows, width, lanes, m, scale, shift, spread,
                    True, True, True)


cdef void affine_strip(
    const real* x, Py_ssize_t x_step, const real* r, Py_ssize_t r_step, real* y, Py_ssize_t y_step,
    uint64_t* bits, Py_ssize_t bits_step, Py_ssize_t rows, Py_ssize_t width, Py_ssize_t sweep,
    const real* coef, Py_ssize_t coef_step, bint relu,
) noexcept nogil:
    # Of `rows`: a constant a column. `sweep` rows are taken tile by tile before it moves on.
    cdef const real* m = coef + SUBTRACT * coef_step
    cdef const real* a = coef + SCALE * coef_step
    cdef const real* b = coef + SHIFT * coef_step
    cdef const real* s = NULL
    cdef uint64_t* word = NULL
    cdef Py_ssize_t i = 0, w, k
    while i < rows:
        k = least(sweep, rows - i)
        w = 0
        while w < width:
            if r != NULL:
                s = r + i * r_step + w
            if bits != NULL:
                word = bits + i * bits_step + w // TILE
            if w + TILE > width:
                affine_modes(x + i * x_step + w, x_step, s, r_step, y + i * y_step + w, y_step, word, bits_step,
                             k, <int> (width - w), TILE, m + w, a + w, b + w, 1, relu)
            elif k == 1:
                affine_modes(x + i * x_step + w, x_step, s, r_step, y + i * y_step + w, y_step, word, bits_step,
                             1, TILE, TILE, m + w, a + w, b + w, 1, relu)
            else:
                affine_modes(x + i * x_step + w, x_step, s, r_step, y + i * y_step + w, y_step, word, bits_step,
                             k, TILE, TILE, m + w, a + w, b + w, 1, relu)
            w += TILE
        i += k


cdef void affine_run(
    const real* x, const real* r, real* y, uint64_t* bits, Py_ssize_t length, const real* coef, Py_ssize_t coef_step,
    bint relu,
) noexcept nogil:
    # Of `planes`: one constant for a run. Its tail goes by SHORT elements, except where bits fill whole words.
    cdef const real* m = coef + SUBTRACT * coef_step
    cdef const real* a = coef + SCALE * coef_step
    cdef const real* b = coef + SHIFT * coef_step
    cdef Py_ssize_t rows = length // TILE
    cdef Py_ssize_t i = rows * TILE
    cdef int rest = <int> (length - i)
    if rows:
        affine_modes(x, TILE, r, TILE, y, TILE, bits, 1, rows, TILE, TILE, m, a, b, 0, relu)
    if rest and bits != NULL:
        affine_modes(x + i, TILE, r + i, TILE, y + i, TILE, bits + rows, 1, 1, rest, TILE, m, a, b, 0, relu)
        return
    rows = rest // SHORT
    if rows:
        affine_modes(x + i, SHORT, r + i if r != NULL else r, SHORT, y + i, SHORT, bits, 1, rows, SHORT, SHORT,
                     m, a, b, 0, relu)
        i += rows * SHORT
        rest -= <int> rows * SHORT
    if rest:
        affine_modes(x + i, SHORT, r + i if r != NULL else r, SHORT, y + i, SHORT, bits, 1, 1, rest, SHORT,
                     m, a, b, 0, relu)


cdef inline void gradient_rows(
    const real* g, Py_ssize_t g_step, const real* x, Py_ssize_t x_step,         # IN  (rows, width)
    const uint64_t* bits, Py_ssize_t bits_step,                                 # IN  (rows,) or NULL
    real* dx, Py_ssize_t dx_step, real* dr, Py_ssize_t dr_step,                 # OUT (rows, width), dr: d residual
    Py_ssize_t rows, int width, int lanes,
    const real* m, const real* scale, const real* shift,                        # IN  of the forward, for REPLAY
    const real* a, const real* b, const real* c, const real* rstd, int spread,  # IN
    int gate, bint residual, bint frozen,
) noexcept nogil:
    # dx = a * dy + b * ((x - m) * rstd) + c; with frozen statistics dx = a * dy
    cdef real mc[TILE]
    cdef real sc[TILE]
    cdef real hc[TILE]
    cdef real ac[TILE]
    cdef real bc[TILE]
    cdef real cc[TILE]
    cdef real rc[TILE]
    cdef real t[TILE]
    cdef real v[TILE]
    cdef const real* p
    cdef const real* h
    cdef real* o
    cdef uint64_t word
    cdef Py_ssize_t i
    cdef int j
    cdef bint there
    for j in range(lanes if spread else 1):
        there = not spread or j < width
        mc[j] = m[j] if there else 0
        sc[j] = scale[j] if there else 0
        hc[j] = shift[j] if there else 0
        ac[j] = a[j] if there else 0
        bc[j] = b[j] if there else 0
        cc[j] = c[j] if there else 0
        rc[j] = rstd[j] if there else 0
    for i in range(rows):
        h = g + i * g_step
        p = x + i * x_step
        for j in range(lanes):
            v[j] = h[j] if j < width else 0
        if gate == REPLAY:
            for j in range(lanes):
                if j < width:
                    v[j] = opened(v[j], p[j] - mc[j * spread], sc[j * spread], hc[j * spread])
        elif gate == BITS:
            word = bits[i * bits_step]
            for j in range(lanes):
                if j < width:
                    v[j] = v[j] if (word >> j) & 1 else 0
        for j in range(lanes):
            if frozen:
                t[j] = ac[j * spread] * v[j]
            else:
                t[j] = (ac[j * spread] * v[j] + bc[j * spread] * ((p[j] - mc[j * spread]) * rc[j * spread])
                        + cc[j * spread]) if j < width else 0
        if residual:
            o = dr + i * dr_step
            for j in range(lanes):
                if j < width:
                    o[j] = v[j]
        o = dx + i * dx_step
        for j in range(lanes):
            if j < width:
                o[j] = t[j]


cdef inline void gradient_modes(
    const real* g, Py_ssize_t g_step, const real* x, Py_ssize_t x_step, const uint64_t* bits, Py_ssize_t bits_step,
    real* dx, Py_ssize_t dx_step, real* dr, Py_ssize_t dr_step, Py_ssize_t rows, int width, int lanes,
    const real* m, const real* scale, const real* shift, const real* a, const real* b, const real* c,
    const real* rstd, int spread, int gate, bint frozen,
) noexcept nogil:
    # A residual without an activation leaves the gate open; with one, it is what the bits are for.
    if frozen:
        if gate == REPLAY:
            gradient_rows(g, g_step, x, x_step, bits, bits_step, dx, dx_step, dr, dr_step, rows, width, lanes,
                          m, scale, shift, a, b, c, rstd, spread, REPLAY, False, True)
        elif gate == BITS:
            gradient_rows(g, g_step, x, x_step, bits, bits_step, dx, dx_step, dr, dr_step, rows, width, lanes,
                          m, scale, shift, a, b, c, rstd, spread, BITS, True, True)
        elif dr != NULL:
            gradient_rows(g, g_step, x, x_step, bits, bits_step, dx, dx_step, dr, dr_step, rows, width, lanes,
                          m, scale, shift, a, b, c, rstd, spread, OPEN, True, True)
        else:
            gradient_rows(g, g_step, x, x_step, bits, bits_step, dx, dx_step, dr, dr_step, rows, width, lanes,
                          m, scale, shift, a, b, c, rstd, spread, OPEN, False, True)
    elif gate == REPLAY:
        gradient_rows(g, g_step, x, x_step, bits, bits_step, dx, dx_step, dr, dr_step, rows, width, lanes,
                      m, scale, shift, a, b, c, rstd, spread, REPLAY, False, False)
    elif gate == BITS:
        gradient_rows(g, g_step, x, x_step, bits, bits_step, dx, dx_step, dr, dr_step, rows, width, lanes,
                      m, scale, shift, a, b, c, rstd, spread, BITS, True, False)
    elif dr != NULL:
        gradient_rows(g, g_step, x, x_step, bits, bits_step, dx, dx_step, dr, dr_step, rows, width, lanes,
                      m, scale, shift, a, b, c, rstd, spread, OPEN, True, False)
    else:
        gradient_rows(g, g_step, x, x_step, bits, bits_step, dx, dx_step, dr, dr_step, rows, width, lanes,
                      m, scale, shift, a, b, c, rstd, spread, OPEN, False, False)


cdef void gradient_strip(
    const real* g, Py_ssize_t g_step, const real* x, Py_ssize_t x_step, const uint64_t* bits, Py_ssize_t bits_step,
    real* dx, Py_ssize_t dx_step, real* dr, Py_ssize_t dr_step, Py_ssize_t rows, Py_ssize_t width, Py_ssize_t sweep,
    const real* coef, Py_ssize_t coef_step, int gate, bint frozen,
) noexcept nogil:
    # Of `rows`, as affine_strip.
    cdef const real* m = coef + SUBTRACT * coef_step
    cdef const real* scale = coef + SCALE * coef_step
    cdef const real* shift = coef + SHIFT * coef_step
    cdef const real* a = coef + DX_DY * coef_step
    cdef const real* b = coef + DX_X * coef_step
    cdef const real* c = coef + DX_1 * coef_step
    cdef const real* rstd = coef + RSTD * coef_step
    cdef real* s = NULL
    cdef const uint64_t* word = NULL
    cdef Py_ssize_t i = 0, w, k
    while i < rows:
        k = least(sweep, rows - i)
        w = 0
        while w < width:
            if dr != NULL:
                s = dr + i * dr_step + w
            if bits != NULL:
                word = bits + i * bits_step + w // TILE
            if w + TILE > width:
                gradient_modes(g + i * g_step + w, g_step, x + i * x_step + w, x_step, word, bits_step,
                               dx + i * dx_step + w, dx_step, s, dr_step, k, <int> (width - w), TILE,
                               m + w, scale + w, shift + w, a + w, b + w, c + w, rstd + w, 1, gate, frozen)
            elif k == 1:
                gradient_modes(g + i * g_step + w, g_step, x + i * x_step + w, x_step, word, bits_step,
                               dx + i * dx_step + w, dx_step, s, dr_step, 1, TILE, TILE,
                               m + w, scale + w, shift + w, a + w, b + w, c + w, rstd + w, 1, gate, frozen)
            else:
                gradient_modes(g + i * g_step + w, g_step, x + i * x_step + w, x_step, word, bits_step,
                               dx + i * dx_step + w, dx_step, s, dr_step, k, TILE, TILE,
                               m + w, scale + w, shift + w, a + w, b + w, c + w, rstd + w, 1, gate, frozen)
            w += TILE
        i += k


cdef void gradient_run(
    const real* g, const real* x, const uint64_t* bits, real* dx, real* dr, Py_ssize_t length,
    const real* coef, Py_ssize_t coef_step, int gate, bint frozen,
) noexcept nogil:
    # Of `planes`: one constant for a run; the tail as in affine_run.
    cdef const real* m = coef + SUBTRACT * coef_step
    cdef const real* scale = coef + SCALE * coef_step
    cdef const real* shift = coef + SHIFT * coef_step
    cdef const real* a = coef + DX_DY * coef_step
    cdef const real* b = coef + DX_X * coef_step
    cdef const real* c = coef + DX_1 * coef_step
    cdef const real* rstd = coef + RSTD * coef_step
    cdef Py_ssize_t rows = length // TILE
    cdef Py_ssize_t i = rows * TILE
    cdef int rest = <int> (length - i)
    if rows:
        gradient_modes(g, TILE, x, TILE, bits, 1, dx, TILE, dr, TILE, rows, TILE, TILE,
                       m, scale, shift, a, b, c, rstd, 0, gate, frozen)
    if rest and gate == BITS:
        gradient_modes(g + i, TILE, x + i, TILE, bits + rows, 1, dx + i, TILE, dr + i, TILE, 1, rest, TILE,
                       m, scale, shift, a, b, c, rstd, 0, BITS, frozen)
        return
    rows = rest // SHORT
    if rows:
        gradient_modes(g + i, SHORT, x + i, SHORT, bits, 1, dx + i, SHORT, dr + i if dr != NULL else dr, SHORT, rows,
                       SHORT, SHORT, m, scale, shift, a, b, c, rstd, 0, gate, frozen)
        i += rows * SHORT
        rest -= <int> rows * SHORT
    if rest:
        gradient_modes(g + i, SHORT, x + i, SHORT, bits, 1, dx + i, SHORT, dr + i if dr != NULL else dr, SHORT, 1,
                       rest, SHORT, m, scale, shift, a, b, c, rstd, 0, gate, frozen)

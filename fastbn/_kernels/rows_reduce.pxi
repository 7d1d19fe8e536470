# Reductions over the columns of `rows`: every column has sums of its own.
#
# a) The same two sums as in planes_reduce.pxi. Four rows are taken at once, each read from end to end, and added to
#    each other before they are added to the running sums: a quarter of the rounding, a quarter of the traffic to the
#    sums, which are in the first-level cache. After FLUSH_ROWS rows the sums go to double.
# b) The pivot of a column is the mean of a sample of rows, and judged as in planes_reduce.pxi.
# c) Columns whose float sums overflowed or underflowed, or whose pivot was far off, are summed again in double, and no
#    others: the bits of a column do not depend on its neighbours.
# d) Sums, pivots and constants are local arrays, so that the compiler sees that x is none of them.
# e) What comes from memory is touched before it is reduced, FLUSH_ROWS rows at a time: loads between which running sums
#    are read and written wait for these, and the next ones do not begin early enough to hide the way to memory.

cdef enum:
    FLUSH_ROWS = 32
    AT_ONCE = 4         # rows of halves that are converted at a time
    # The room of a local array: side by side, no two begin at the same place in a page, where a store to one would hold
    # up a load from the other.
    ROOM = SLAB + 80

cdef struct Columns:        # a unit: `rows` rows of `width` <= SLAB columns
    Py_ssize_t rows
    Py_ssize_t width
    int type
    Py_ssize_t itemsize
    const char* x
    Py_ssize_t x_step       # in elements
    const char* g
    Py_ssize_t g_step
    const uint16_t* bits    # (rows, parts(width, LANES))
    Py_ssize_t bits_step
    int gate
    bint fetch


cdef inline bint columns_held(Columns* u, double s1, double s2) noexcept nogil:
    return squares_held(<double> u.rows, s1, s2) if u.gate == MOMENTS else products_held(<double> u.rows, s1, s2)


cdef void sample_columns(
    Columns* u, Py_ssize_t samples,
    double* out,                                                                # OUT (u.width,)
    const real* kind,
) noexcept nogil:
    # In double: a float sum may overflow.
    cdef double s[ROOM]
    cdef float room[SLAB]
    cdef const real* p
    cdef Py_ssize_t i, w, step = 0
    for w in range(u.width):
        s[w] = 0
    for i in range(samples):
        p = loaded(u.type, u.x + place(i, u.rows) * u.x_step * u.itemsize, &step, 1, u.width, room, kind)
        for w in range(u.width):
            s[w] += p[w]
    for w in range(u.width):
        out[w] = s[w]


cdef inline void add_rows(
    const real* g, Py_ssize_t g_step, const real* x, Py_ssize_t x_step, bint four, Py_ssize_t width,
    const real* m, const real* scale, const real* shift, int gate, lane* s1, lane* s2,
) noexcept nogil:
    # four rows, or one
    cdef lane d0, d1, d2, d3, v0, v1, v2, v3
    cdef Py_ssize_t w
    for w in range(width):
        d0 = <lane> x[w] - <lane> m[w]
        v0 = seen(g + w, x[w], 0, 0, m[w], scale[w], shift[w], gate, d0)
        if four:
            d1 = <lane> x[w + x_step] - <lane> m[w]
            d2 = <lane> x[w + 2 * x_step] - <lane> m[w]
            d3 = <lane> x[w + 3 * x_step] - <lane> m[w]
            v1 = seen(g + w + g_step, x[w + x_step], 0, 0, m[w], scale[w], shift[w], gate, d1)
            v2 = seen(g + w + 2 * g_step, x[w + 2 * x_step], 0, 0, m[w], scale[w], shift[w], gate, d2)
            v3 = seen(g + w + 3 * g_step, x[w + 3 * x_step], 0, 0, m[w], scale[w], shift[w], gate, d3)
            s1[w] += (v0 + v1) + (v2 + v3)
            s2[w] += (v0 * d0 + v1 * d1) + (v2 * d2 + v3 * d3)
        else:
            s1[w] += v0
            s2[w] += v0 * d0


cdef inline void add_row_bits(
    const real* g, const real* x, const uint16_t* bits, Py_ssize_t width, const real* m, lane* s1, lane* s2,
) noexcept nogil:
    # One row, where the forward left bits.
    cdef lane d
    cdef Py_ssize_t w = 0
    cdef int j, step
    while w < width:
        step = <int> least(LANES, width - w)
        for j in range(LANES):
            if j < step and (bits[w // LANES] >> j) & 1:
                d = <lane> x[w + j] - <lane> m[w + j]
                s1[w + j] += g[w + j]
                s2[w + j] += <lane> g[w + j] * d
        w += LANES


cdef inline void add_block(
    const real* g, Py_ssize_t g_step, const real* x, Py_ssize_t x_step, const uint16_t* bits, Py_ssize_t bits_step,
    Py_ssize_t rows, Py_ssize_t width, const real* m, const real* scale, const real* shift, int gate,
    lane* s1, lane* s2,
) noexcept nogil:
    cdef Py_ssize_t i = 0
    if gate == BITS:
        for i in range(rows):
            add_row_bits(g + i * g_step, x + i * x_step, bits + i * bits_step, width, m, s1, s2)
        return
    while i + 4 <= rows:
        add_rows(g + i * g_step, g_step, x + i * x_step, x_step, True, width, m, scale, shift, gate, s1, s2)
        i += 4
    while i < rows:
        add_rows(g + i * g_step, g_step, x + i * x_step, x_step, False, width, m, scale, shift, gate, s1, s2)
        i += 1


cdef void sum_columns(
    Columns* u, const real* m_in, const real* scale_in, const real* shift_in, Py_ssize_t first, Py_ssize_t width,
    double* out1, double* out2,                                                 # OUT (width,), of columns from `first`
    lane kind,
) noexcept nogil:
    cdef lane s1[ROOM]
    cdef lane s2[ROOM]
    cdef real m[ROOM]
    cdef real scale[ROOM]
    cdef real shift[ROOM]
    cdef float x_room[AT_ONCE * SLAB]
    cdef float g_room[AT_ONCE * SLAB]
    cdef Py_ssize_t i = 0, k, w, rows, here, x_step, g_step
    cdef const char* x_p = u.x + first * u.itemsize
    cdef const char* g_p = u.g + first * u.itemsize
    cdef const real* x
    cdef const real* g
    for w in range(width):
        m[w] = m_in[first + w]
        out1[w] = 0
        out2[w] = 0
    if u.gate == REPLAY:
        for w in range(width):
            scale[w] = scale_in[first + w]
            shift[w] = shift_in[first + w]
    while i < u.rows:
        rows = least(FLUSH_ROWS, u.rows - i)
        if u.fetch:
            touch(x_p, rows, width * u.itemsize, u.x_step * u.itemsize)
            if u.gate != MOMENTS:
                touch(g_p, rows, width * u.itemsize, u.g_step * u.itemsize)
        for w in range(width):
            s1[w] = 0
            s2[w] = 0
        k = 0
        while k < rows:
            here = least(AT_ONCE if is_half(u.type) else FLUSH_ROWS, rows - k)
            x_step = u.x_step
            g_step = u.g_step
            x = loaded(u.type, x_p, &x_step, here, width, x_room, m_in)
            g = x
            if u.gate != MOMENTS:
                g = loaded(u.type, g_p, &g_step, here, width, g_room, m_in)
            if u.gate == MOMENTS:
                add_block(g, g_step, x, x_step, u.bits, 0, here, width, m, m, m, MOMENTS, s1, s2)
            elif u.gate == OPEN:
                add_block(g, g_step, x, x_step, u.bits, 0, here, width, m, m, m, OPEN, s1, s2)
            elif u.gate == REPLAY:
                add_block(g, g_step, x, x_step, u.bits, 0, here, width, m, scale, shift, REPLAY, s1, s2)
            else:
                add_block(g, g_step, x, x_step, u.bits + (i + k) * u.bits_step + first // LANES, u.bits_step, here,
                          width, m, m, m, BITS, s1, s2)
            x_p += here * u.x_step * u.itemsize
            g_p += here * u.g_step * u.itemsize
            k += here
        for w in range(width):
            out1[w] += s1[w]
            out2[w] += s2[w]
        i += rows


cdef void reduce_columns(
    Columns* u, const real* m, const real* scale, const real* shift,
    double* out1, double* out2,                                                 # OUT (u.width,)
    lane kind,
) noexcept nogil:
    cdef double t1[TILE]
    cdef double t2[TILE]
    cdef Py_ssize_t w = 0, k, width
    cdef bint held
    sum_columns(u, m, scale, shift, 0, u.width, out1, out2, kind)
    if lane is float:
        while w < u.width:
            width = least(TILE, u.width - w)
            held = True
            for k in range(w, w + width):
                held = held and columns_held(u, out1[k], out2[k])
            if not held:
                sum_columns(u, m, scale, shift, w, width, t1, t2, <double> 0)
                for k in range(width):
                    if not columns_held(u, out1[w + k], out2[w + k]):
                        out1[w + k] = t1[k]
                        out2[w + k] = t2[k]
            w += TILE

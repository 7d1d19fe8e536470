# Reductions over the columns of `rows`: every column has sums of its own.
#
# a) Four rows are taken at once, each read from end to end, and added to each other before they are added to the
#    running sums: a quarter of the rounding, a quarter of the traffic to the sums, which are in the first-level cache,
#    and four streams that memory delivers well. After FLUSH rows the sums go to double.
# b) The pivot is as in planes_reduce.pxi, a column for itself.
# c) Columns whose float sums overflowed or underflowed are summed again in double, and no others: the bits of a column
#    do not depend on its neighbours.
# d) Sums, pivots and constants are local arrays, so that the compiler sees that x is none of them.

cdef enum:
    FLUSH = 32
    SLAB = 1024             # most columns of a unit
    # The room of a local array: side by side, no two begin at the same place in a page, where a store to one would hold
    # up a load from the other.
    ROOM = SLAB + 80

cdef struct Columns:        # a unit: `rows` rows of `width` <= SLAB columns
    Py_ssize_t rows
    Py_ssize_t width
    Py_ssize_t x_step
    Py_ssize_t g_step
    const uint64_t* bits    # (rows, parts(width, TILE))
    Py_ssize_t bits_step
    int gate
    bint gradient


cdef inline bint columns_held(Columns* u, double s1, double s2) noexcept nogil:
    return (finite(s1) and finite(s2)) if u.gradient else squares_held(<double> u.rows, s1, s2)


cdef void sum_columns(
    Columns* u, const real* x, Py_ssize_t rows,                                 # IN  (rows, u.width)
    double* out,                                                                # OUT (u.width,)
    lane kind,
) noexcept nogil:
    cdef lane s[ROOM]
    cdef const real* p
    cdef Py_ssize_t i = 0, w, stop
    for w in range(u.width):
        out[w] = 0
    while i < rows:
        stop = least(i + FLUSH, rows)
        for w in range(u.width):
            s[w] = 0
        while i < stop:
            p = x + i * u.x_step
            for w in range(u.width):
                s[w] += p[w]
            i += 1
        for w in range(u.width):
            out[w] += s[w]


cdef inline void add_moments(
    const real* x, Py_ssize_t step, bint four, Py_ssize_t width, const lane* m, lane* e, lane* q,
) noexcept nogil:
    # sum of (x - m) and of its square, of four rows or of one
    cdef const real* x1 = x + step
    cdef const real* x2 = x + 2 * step
    cdef const real* x3 = x + 3 * step
    cdef lane d0, d1, d2, d3
    cdef Py_ssize_t w
    for w in range(width):
        d0 = <lane> x[w] - m[w]
        if four:
            d1 = <lane> x1[w] - m[w]
            d2 = <lane> x2[w] - m[w]
            d3 = <lane> x3[w] - m[w]
            e[w] += (d0 + d1) + (d2 + d3)
            q[w] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3)
        else:
            e[w] += d0
            q[w] += d0 * d0


cdef void reduce_moments(
    Columns* u, const real* x, const real* pivot, Py_ssize_t first, Py_ssize_t width,
    double* e_out, double* q_out,                                               # OUT (width,), of columns from `first`
    lane kind,
) noexcept nogil:
    cdef lane e[ROOM]
    cdef lane q[ROOM]
    cdef lane m[ROOM]
    cdef Py_ssize_t i = 0, w, stop
    x += first
    for w in range(width):
        m[w] = pivot[first + w]
        e_out[w] = 0
        q_out[w] = 0
    while i < u.rows:
        stop = least(i + FLUSH, u.rows)
        for w in range(width):
            e[w] = 0
            q[w] = 0
        while i + 4 <= stop:
            add_moments(x + i * u.x_step, u.x_step, True, width, m, e, q)
            i += 4
        while i < stop:
            add_moments(x + i * u.x_step, u.x_step, False, width, m, e, q)
            i += 1
        for w in range(width):
            e_out[w] += e[w]
            q_out[w] += q[w]


cdef inline void add_gradient(
    const real* g, Py_ssize_t g_step, const real* x, Py_ssize_t x_step, bint four, Py_ssize_t width,
    const real* m, const real* scale, const real* shift, int gate, lane* s1, lane* s2,
) noexcept nogil:
    # sum of dy and of dy * (x - m), of four rows or of one
    cdef real d0, d1, d2, d3, v0, v1, v2, v3
    cdef Py_ssize_t w
    for w in range(width):
        d0 = x[w] - m[w]
        v0 = g[w]
        if gate == REPLAY:
            v0 = opened(v0, d0, scale[w], shift[w])
        if four:
            d1 = x[w + x_step] - m[w]
            d2 = x[w + 2 * x_step] - m[w]
            d3 = x[w + 3 * x_step] - m[w]
            v1 = g[w + g_step]
            v2 = g[w + 2 * g_step]
            v3 = g[w + 3 * g_step]
            if gate == REPLAY:
                v1 = opened(v1, d1, scale[w], shift[w])
                v2 = opened(v2, d2, scale[w], shift[w])
                v3 = opened(v3, d3, scale[w], shift[w])
            s1[w] += (<lane> v0 + <lane> v1) + (<lane> v2 + <lane> v3)
            s2[w] += ((<lane> v0 * <lane> d0 + <lane> v1 * <lane> d1) + (<lane> v2 * <lane> d2 + <lane> v3 * <lane> d3))
        else:
            s1[w] += v0
            s2[w] += <lane> v0 * <lane> d0


cdef inline void add_gradient_bits(
    const real* g, const real* x, const uint64_t* bits, Py_ssize_t width, const real* m, lane* s1, lane* s2,
) noexcept nogil:
    # The same of one row, where the forward left bits.
    cdef real d, v
    cdef uint64_t word
    cdef Py_ssize_t w = 0
    cdef int j, tile
    while w < width:
        word = bits[w // TILE]
        tile = <int> least(TILE, width - w)
        for j in range(TILE):
            if j < tile:
                d = x[w + j] - m[w + j]
                v = g[w + j] if (word >> j) & 1 else 0
                s1[w + j] += v
                s2[w + j] += <lane> v * <lane> d
        w += TILE


cdef void reduce_gradient(
    Columns* u, const real* g, const real* x, const real* coef, Py_ssize_t coef_step,
    Py_ssize_t first, Py_ssize_t width,
    double* out1, double* out2,                                                 # OUT (width,), of columns from `first`
    lane kind,
) noexcept nogil:
    cdef lane s1[ROOM]
    cdef lane s2[ROOM]
    cdef real m[ROOM]
    cdef real scale[ROOM]
    cdef real shift[ROOM]
    cdef Py_ssize_t i = 0, w, stop
    x += first
    g += first
    coef += first
    for w in range(width):
        m[w] = coef[SUBTRACT * coef_step + w]
        scale[w] = coef[SCALE * coef_step + w] if u.gate == REPLAY else 0
        shift[w] = coef[SHIFT * coef_step + w] if u.gate == REPLAY else 0
        out1[w] = 0
        out2[w] = 0
    while i < u.rows:
        stop = least(i + FLUSH, u.rows)
        for w in range(width):
            s1[w] = 0
            s2[w] = 0
        while i < stop:
            if u.gate == BITS:
                add_gradient_bits(g + i * u.g_step, x + i * u.x_step, u.bits + i * u.bits_step + first // TILE, width,
                                  m, s1, s2)
                i += 1
            elif i + 4 <= stop:
                if u.gate == REPLAY:
                    add_gradient(g + i * u.g_step, u.g_step, x + i * u.x_step, u.x_step, True, width,
                                 m, scale, shift, REPLAY, s1, s2)
                else:
                    add_gradient(g + i * u.g_step, u.g_step, x + i * u.x_step, u.x_step, True, width,
                                 m, scale, shift, OPEN, s1, s2)
                i += 4
            else:
                add_gradient(g + i * u.g_step, u.g_step, x + i * u.x_step, u.x_step, False, width,
                             m, scale, shift, u.gate, s1, s2)
                i += 1
        for w in range(width):
            out1[w] += s1[w]
            out2[w] += s2[w]


cdef void reduce_columns(
    Columns* u, const real* x, const real* g, const real* pivot, const real* coef, Py_ssize_t coef_step,
    double* out1, double* out2,                                                 # OUT (u.width,)
    lane kind,
) noexcept nogil:
    # Moments about the pivot, or the two sums of the backward.
    cdef double t1[TILE]
    cdef double t2[TILE]
    cdef Py_ssize_t w = 0, k, width
    cdef bint held
    if u.gradient:
        reduce_gradient(u, g, x, coef, coef_step, 0, u.width, out1, out2, kind)
    else:
        reduce_moments(u, x, pivot, 0, u.width, out1, out2, kind)
    if lane is float:
        while w < u.width:
            width = least(TILE, u.width - w)
            held = True
            for k in range(w, w + width):
                held = held and columns_held(u, out1[k], out2[k])
            if not held:
                if u.gradient:
                    reduce_gradient(u, g, x, coef, coef_step, w, width, t1, t2, <double> 0)
                else:
                    reduce_moments(u, x, pivot, w, width, t1, t2, <double> 0)
                for k in range(width):
                    if not columns_held(u, out1[w + k], out2[w + k]):
                        out1[w + k] = t1[k]
                        out2[w + k] = t2[k]
            w += TILE

# Reductions over a tile of `rows`: `rows` rows, `step` elements apart, of up to TILE columns, a column a sum of its own.
#
# a) Four rows are added to each other before they are added to the running sums: a quarter of the rounding, a quarter of
#    the dependent additions, and the running sums are touched once where they do not fit in registers.
# b) After FLUSH rows the running sums go to double.
# c) The pivot is as in planes_reduce.pxi, a column for itself.
# d) `width` is a literal where speed counts: the condition on the column then goes away. In the last tile of a row it
#    becomes a vector mask.

cdef enum:
    FLUSH = 32


cdef inline void add_sums(
    const real* x, Py_ssize_t rows, Py_ssize_t step, int width,                 # IN  (rows, width)
    double* total,                                                              # OUT (TILE,), added to
    lane kind,
) noexcept nogil:
    cdef lane s[TILE]
    cdef const real* p
    cdef Py_ssize_t i = 0, stop
    cdef int j
    while i < rows:
        stop = least(i + FLUSH, rows)
        for j in range(TILE):
            s[j] = 0
        while i < stop:
            p = x + i * step
            for j in range(TILE):
                if j < width:
                    s[j] += p[j]
            i += 1
        for j in range(TILE):
            total[j] += s[j]


cdef void tile_sums(
    const real* x, Py_ssize_t rows, Py_ssize_t step, int width, double* total, lane kind,
) noexcept nogil:
    if width == TILE:
        add_sums(x, rows, step, TILE, total, kind)
    else:
        add_sums(x, rows, step, width, total, kind)


cdef inline void add_moments(
    const real* x, Py_ssize_t rows, Py_ssize_t step, int width,                 # IN  (rows, width)
    const real* pivot,                                                          # IN  (TILE,)
    double* e_total, double* q_total,                                           # OUT (TILE,), added to
    lane kind,
) noexcept nogil:
    cdef lane e[TILE]
    cdef lane q[TILE]
    cdef lane d0, d1, d2, d3
    cdef const real* p
    cdef Py_ssize_t i = 0, stop
    cdef int j
    while i < rows:
        stop = least(i + FLUSH, rows)
        for j in range(TILE):
            e[j] = 0
            q[j] = 0
        while i + 4 <= stop:
            p = x + i * step
            for j in range(TILE):
                if j < width:
                    d0 = <lane> p[j] - <lane> pivot[j]
                    d1 = <lane> p[j + step] - <lane> pivot[j]
                    d2 = <lane> p[j + 2 * step] - <lane> pivot[j]
                    d3 = <lane> p[j + 3 * step] - <lane> pivot[j]
                    e[j] += (d0 + d1) + (d2 + d3)
                    q[j] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3)
            i += 4
        while i < stop:
            p = x + i * step
            for j in range(TILE):
                if j < width:
                    d0 = <lane> p[j] - <lane> pivot[j]
                    e[j] += d0
                    q[j] += d0 * d0
            i += 1
        for j in range(TILE):
            e_total[j] += e[j]
            q_total[j] += q[j]


cdef void tile_moments(
    const real* x, Py_ssize_t rows, Py_ssize_t step, int width, const real* pivot,
    double* e, double* q,                                                       # OUT (TILE,)
    lane kind,
) noexcept nogil:
    cdef double e2[TILE]
    cdef double q2[TILE]
    cdef int j
    cdef bint held = True
    for j in range(TILE):
        e[j] = 0
        q[j] = 0
    if width == TILE:
        add_moments(x, rows, step, TILE, pivot, e, q, kind)
    else:
        add_moments(x, rows, step, width, pivot, e, q, kind)
    if lane is float:
        for j in range(width):
            held = held and squares_held(<double> rows, e[j], q[j])
        if not held:
            # Only the columns that need it take the double sums: no column's bits depend on its neighbours.
            tile_moments(x, rows, step, width, pivot, e2, q2, <double> 0)
            for j in range(width):
                if not squares_held(<double> rows, e[j], q[j]):
                    e[j] = e2[j]
                    q[j] = q2[j]


cdef inline void add_tile_gradient_sums(
    const real* g, Py_ssize_t g_step, const real* x, Py_ssize_t x_step,         # IN  (rows, width)
    const uint64_t* bits, Py_ssize_t bits_step,                                 # IN  (rows,)
    Py_ssize_t rows, int width, const real* m, const real* scale, const real* shift, int gate,
    double* total1, double* total2,                                             # OUT (TILE,), added to
    lane kind,
) noexcept nogil:
    cdef lane s1[TILE]
    cdef lane s2[TILE]
    cdef real d, v
    cdef const real* p
    cdef const real* h
    cdef uint64_t word = 0
    cdef Py_ssize_t i = 0, stop
    cdef int j
    while i < rows:
        stop = least(i + FLUSH, rows)
        for j in range(TILE):
            s1[j] = 0
            s2[j] = 0
        while i < stop:
            p = x + i * x_step
            h = g + i * g_step
            if gate == BITS:
                word = bits[i * bits_step]
            for j in range(TILE):
                if j < width:
                    d = p[j] - m[j]
                    v = h[j]
                    if gate == REPLAY:
                        v = opened(v, d, scale[j], shift[j])
                    elif gate == BITS:
                        v = v if (word >> j) & 1 else 0
                    s1[j] += v
                    s2[j] += <lane> v * <lane> d
            i += 1
        for j in range(TILE):
            total1[j] += s1[j]
            total2[j] += s2[j]


cdef void tile_gradient_sums(
    const real* g, Py_ssize_t g_step, const real* x, Py_ssize_t x_step, const uint64_t* bits, Py_ssize_t bits_step,
    Py_ssize_t rows, int width, const real* m, const real* scale, const real* shift, int gate,
    double* s1, double* s2,                                                     # OUT (TILE,)
    lane kind,
) noexcept nogil:
    # sum of dy and sum of dy * (x - m), a column for itself
    cdef double t1[TILE]
    cdef double t2[TILE]
    cdef int j
    cdef bint held = True
    for j in range(TILE):
        s1[j] = 0
        s2[j] = 0
    if width == TILE:
        if gate == OPEN:
            add_tile_gradient_sums(g, g_step, x, x_step, bits, bits_step, rows, TILE, m, scale, shift, OPEN, s1, s2, kind)
        elif gate == REPLAY:
            add_tile_gradient_sums(g, g_step, x, x_step, bits, bits_step, rows, TILE, m, scale, shift, REPLAY, s1, s2, kind)
        else:
            add_tile_gradient_sums(g, g_step, x, x_step, bits, bits_step, rows, TILE, m, scale, shift, BITS, s1, s2, kind)
    else:
        add_tile_gradient_sums(g, g_step, x, x_step, bits, bits_step, rows, width, m, scale, shift, gate, s1, s2, kind)
    if lane is float:
        for j in range(width):
            held = held and finite(s1[j]) and finite(s2[j])
        if not held:
            tile_gradient_sums(g, g_step, x, x_step, bits, bits_step, rows, width, m, scale, shift, gate, t1, t2,
                               <double> 0)
            for j in range(width):
                if not (finite(s1[j]) and finite(s2[j])):
                    s1[j] = t1[j]
                    s2[j] = t2[j]

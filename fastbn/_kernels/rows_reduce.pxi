# Reductions over the columns of `rows`: every column has sums of its own.
#
# a) Four rows are added to each other before they are added to the running sums: a quarter of the rounding, and a quarter
#    of the dependent additions. After FLUSH rows the running sums go to double.
# b) A tile of TILE columns is visited for some rows at a time: four if the data come from memory, which likes whole rows,
#    or FLUSH if they are in the cache already, so that the running sums stay in registers. The additions are the same.
# c) The pivot is as in planes_reduce.pxi, a column for itself.
# d) `width` is a literal where speed counts: the condition on the column then goes away. In the last tile of a row it
#    becomes a vector mask.
# e) Columns whose float sums overflowed or underflowed are summed again in double, and no others: the bits of a column do
#    not depend on its neighbours.

cdef enum:
    FLUSH = 32
    SLAB = 1024             # most columns of a unit


cdef inline void visit_sums(
    const real* x, Py_ssize_t rows, Py_ssize_t step, int width,                 # IN  (rows, width)
    lane* a1,                                                                   # OUT (width,), added to
) noexcept nogil:
    cdef lane s[TILE]
    cdef const real* p
    cdef Py_ssize_t i
    cdef int j
    for j in range(TILE):
        s[j] = a1[j] if j < width else 0
    for i in range(rows):
        p = x + i * step
        for j in range(TILE):
            if j < width:
                s[j] += p[j]
    for j in range(TILE):
        if j < width:
            a1[j] = s[j]


cdef inline void visit_moments(
    const real* x, Py_ssize_t rows, Py_ssize_t step, int width,                 # IN  (rows, width)
    const real* pivot,                                                          # IN  (width,)
    lane* a1, lane* a2,                                                         # OUT (width,), added to
) noexcept nogil:
    # sum of (x - pivot) and of its square
    cdef lane e[TILE]
    cdef lane q[TILE]
    cdef lane m[TILE]
    cdef lane d0, d1, d2, d3
    cdef const real* p
    cdef Py_ssize_t i = 0
    cdef int j
    for j in range(TILE):
        e[j] = a1[j] if j < width else 0
        q[j] = a2[j] if j < width else 0
        m[j] = pivot[j] if j < width else 0
    while i + 4 <= rows:
        p = x + i * step
        for j in range(TILE):
            if j < width:
                d0 = <lane> p[j] - m[j]
                d1 = <lane> p[j + step] - m[j]
                d2 = <lane> p[j + 2 * step] - m[j]
                d3 = <lane> p[j + 3 * step] - m[j]
                e[j] += (d0 + d1) + (d2 + d3)
                q[j] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3)
        i += 4
    while i < rows:
        p = x + i * step
        for j in range(TILE):
            if j < width:
                d0 = <lane> p[j] - m[j]
                e[j] += d0
                q[j] += d0 * d0
        i += 1
    for j in range(TILE):
        if j < width:
            a1[j] = e[j]
            a2[j] = q[j]


cdef inline void visit_gradient(
    const real* g, Py_ssize_t g_step, const real* x, Py_ssize_t x_step,         # IN  (rows, width)
    const uint64_t* bits, Py_ssize_t bits_step,                                 # IN  (rows,)
    Py_ssize_t rows, int width,
    const real* m, const real* scale, const real* shift, int gate,              # IN  (width,)
    lane* a1, lane* a2,                                                         # OUT (width,), added to
) noexcept nogil:
    # sum of dy and of dy * (x - m)
    cdef lane s1[TILE]
    cdef lane s2[TILE]
    cdef real mc[TILE]
    cdef real sc[TILE]
    cdef real hc[TILE]
    cdef real d, v
    cdef const real* p
    cdef const real* h
    cdef uint64_t word = 0
    cdef Py_ssize_t i
    cdef int j
    for j in range(TILE):
        s1[j] = a1[j] if j < width else 0
        s2[j] = a2[j] if j < width else 0
        mc[j] = m[j] if j < width else 0
        sc[j] = scale[j] if gate == REPLAY and j < width else 0
        hc[j] = shift[j] if gate == REPLAY and j < width else 0
    for i in range(rows):
        p = x + i * x_step
        h = g + i * g_step
        if gate == BITS:
            word = bits[i * bits_step]
        for j in range(TILE):
            if j < width:
                d = p[j] - mc[j]
                v = h[j]
                if gate == REPLAY:
                    v = opened(v, d, sc[j], hc[j])
                elif gate == BITS:
                    v = v if (word >> j) & 1 else 0
                s1[j] += v
                s2[j] += <lane> v * <lane> d
    for j in range(TILE):
        if j < width:
            a1[j] = s1[j]
            a2[j] = s2[j]


cdef struct Columns:        # a unit: `rows` rows of up to SLAB columns
    Py_ssize_t rows
    Py_ssize_t width
    char* x
    Py_ssize_t x_step
    char* g                 # NULL in a forward
    Py_ssize_t g_step
    const uint64_t* bits
    Py_ssize_t bits_step
    char* m                 # the pivot in a forward
    char* scale
    char* shift
    int gate
    Py_ssize_t visit        # rows a visit, a multiple of four


cdef void sum_columns(
    Columns* u, const real* x, Py_ssize_t rows,
    double* out,                                                                # OUT (u.width,)
    lane kind,
) noexcept nogil:
    cdef lane a1[SLAB]
    cdef Py_ssize_t i = 0, k, w, stop
    for w in range(u.width):
        out[w] = 0
    while i < rows:
        stop = least(i + FLUSH, rows)
        for w in range(u.width):
            a1[w] = 0
        while i < stop:
            k = least(u.visit, stop - i)
            w = 0
            while w + TILE <= u.width:
                visit_sums(x + i * u.x_step + w, k, u.x_step, TILE, a1 + w)
                w += TILE
            if w < u.width:
                visit_sums(x + i * u.x_step + w, k, u.x_step, <int> (u.width - w), a1 + w)
            i += k
        for w in range(u.width):
            out[w] += a1[w]


cdef inline void visit_columns(
    Columns* u, const real* x, const real* g, Py_ssize_t i, Py_ssize_t k, Py_ssize_t w, int width, lane* a1, lane* a2,
) noexcept nogil:
    cdef const uint64_t* bits
    x = x + i * u.x_step + w
    if g == NULL:
        visit_moments(x, k, u.x_step, width, <const real*> u.m + w, a1 + w, a2 + w)
        return
    g = g + i * u.g_step + w
    if u.gate == OPEN:
        visit_gradient(g, u.g_step, x, u.x_step, NULL, 0, k, width,
                       <const real*> u.m + w, NULL, NULL, OPEN, a1 + w, a2 + w)
    elif u.gate == REPLAY:
        visit_gradient(g, u.g_step, x, u.x_step, NULL, 0, k, width, <const real*> u.m + w,
                       <const real*> u.scale + w, <const real*> u.shift + w, REPLAY, a1 + w, a2 + w)
    else:
        bits = u.bits + i * u.bits_step + w // TILE
        visit_gradient(g, u.g_step, x, u.x_step, bits, u.bits_step, k, width,
                       <const real*> u.m + w, NULL, NULL, BITS, a1 + w, a2 + w)


cdef void reduce_columns(
    Columns* u, const real* x, const real* g, Py_ssize_t first, Py_ssize_t stop_w,
    double* out1, double* out2,                                                 # OUT (u.width,), from `first` on
    lane kind,
) noexcept nogil:
    cdef lane a1[SLAB]
    cdef lane a2[SLAB]
    cdef double t1[SLAB]
    cdef double t2[SLAB]
    cdef Py_ssize_t i = 0, k, w, stop
    cdef bint held = True
    for w in range(first, stop_w):
        out1[w] = 0
        out2[w] = 0
    while i < u.rows:
        stop = least(i + FLUSH, u.rows)
        for w in range(first, stop_w):
            a1[w] = 0
            a2[w] = 0
        while i < stop:
            k = least(u.visit, stop - i)
            w = first
            while w + TILE <= stop_w:
                visit_columns(u, x, g, i, k, w, TILE, a1, a2)
                w += TILE
            if w < stop_w:
                visit_columns(u, x, g, i, k, w, <int> (stop_w - w), a1, a2)
            i += k
        for w in range(first, stop_w):
            out1[w] += a1[w]
            out2[w] += a2[w]
    if lane is float:
        w = first
        while w < stop_w:
            stop = least(w + TILE, stop_w)
            held = True
            for k in range(w, stop):
                held = held and columns_held(u, out1[k], out2[k])
            if not held:
                reduce_columns(u, x, g, w, stop, t1, t2, <double> 0)
                for k in range(w, stop):
                    if not columns_held(u, out1[k], out2[k]):
                        out1[k] = t1[k]
                        out2[k] = t2[k]
            w += TILE


cdef inline bint columns_held(Columns* u, double s1, double s2) noexcept nogil:
    return squares_held(<double> u.rows, s1, s2) if u.g == NULL else finite(s1) and finite(s2)

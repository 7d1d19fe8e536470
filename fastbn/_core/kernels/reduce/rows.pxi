# Reductions over the columns of `rows`: every column has sums of its own.
#
# a) The same two sums as in planes_reduce.pxi. Four rows are taken at once, each read from end to end, and added to
#    each other before they are added to the running sums: a quarter of the rounding, a quarter of the traffic to the
#    sums, which are in the first-level cache. After FLUSH_ROWS rows the sums go to double; the moments of
#    doubles go to two words.
# b) The pivot of a column is the mean of a sample of rows, and judged as in planes_reduce.pxi.
# c) Columns whose float sums overflowed or underflowed, or whose pivot was far off, are summed again in double, at last
#    about the mean that was found, and no others: the bits of a column do not depend on its neighbours.
# d) Sums, pivots and constants are local arrays, so that the compiler sees that x is none of them. A thread
#    has less than 48 KiB on its stack, since some have no more than 64; the rest is in its room of the workspace.
# e) Rows are asked for AHEAD_ROWS before they are reduced: loads between which running sums are read and written wait
#    for these, and the next ones do not begin early enough to hide the way to memory. Four rows ahead are asked for in
#    the order in which they lie, one after the other, while four are reduced side by side.

cdef enum:
    FLUSH_ROWS = 24
    FLUSH_EXACT = 8         # of doubles that are to be normalized
    # The room of a local array: side by side, no two begin at the same place in a page, where a store to one would hold
    # up a load from the other.
    ROOM = SLAB + 80
    SUMS = 512              # columns whose sums are double and that are summed side by side
    DOUBLES = 256           # and columns of doubles
    ROOM_OF_SUMS = SUMS + 80
    ROOM_OF_DOUBLES = DOUBLES + 80

cdef struct Room:           # of a thread, for the reduction of a unit
    double e[ROOM]
    double q[ROOM]
    double pivot[ROOM]      # of the arrays' type
    char far[ROOM]

cdef struct Columns:        # a unit: `rows` rows of `width` <= SLAB columns
    Py_ssize_t rows
    Py_ssize_t width
    int type
    Py_ssize_t itemsize
    const Py_ssize_t* index     # which rows they are, or NULL
    const char* x
    Py_ssize_t x_step       # in elements
    const char* g
    Py_ssize_t g_step
    const uint16_t* bits    # (rows, parts(width, LANES))
    Py_ssize_t bits_step
    int gate
    Py_ssize_t flush        # rows after which sums go to double, or to two words


cdef inline bint columns_held(Columns* u, double s1, double s2) noexcept nogil:
    if u.gate == MOMENTS:
        return squares_held(<double> u.rows, s1, s2, <float> 0)
    return products_held(<double> u.rows, s1, s2)


cdef inline Py_ssize_t row_at(const Py_ssize_t* index, Py_ssize_t i) noexcept nogil:
    return i if index == NULL else index[i]


cdef inline Py_ssize_t row_ahead(const Py_ssize_t* index, Py_ssize_t i, Py_ssize_t rows) noexcept nogil:
    return i + AHEAD_ROWS if index == NULL else index[least(i + AHEAD_ROWS, rows - 1)]


cdef void sample_columns(
    Columns* u, Py_ssize_t samples,
    double* out,                                                                # OUT (u.width,)
    const real* kind,
) noexcept nogil:
    # In double: a float sum may overflow.
    cdef float room[SLAB]
    cdef const real* p
    cdef Py_ssize_t i, w, step = 0
    for w in range(u.width):
        out[w] = 0
    for i in range(samples):
        p = loaded(u.type, u.x + row_at(u.index, place(i, u.rows)) * u.x_step * u.itemsize, &step, 1, u.width, room,
                   kind)
        for w in range(u.width):
            out[w] += p[w]


cdef inline void add_columns(
    const real* g0, const real* g1, const real* g2, const real* g3,             # IN  (width,), of four rows or one
    const real* x0, const real* x1, const real* x2, const real* x3, bint four, Py_ssize_t width,
    const real* m, const real* scale, const real* shift, int gate,
    lane* s1, lane* s2,                                                         # OUT (width,), added to
) noexcept nogil:
    cdef lane d0, d1, d2, d3, v0, v1, v2, v3
    cdef Py_ssize_t w
    for w in range(width):
        d0 = <lane> x0[w] - <lane> m[w]
        v0 = seen(g0 + w, x0[w], 0, 0, m[w], scale[w], shift[w], gate, d0)
        if four:
            d1 = <lane> x1[w] - <lane> m[w]
            d2 = <lane> x2[w] - <lane> m[w]
            d3 = <lane> x3[w] - <lane> m[w]
            v1 = seen(g1 + w, x1[w], 0, 0, m[w], scale[w], shift[w], gate, d1)
            v2 = seen(g2 + w, x2[w], 0, 0, m[w], scale[w], shift[w], gate, d2)
            v3 = seen(g3 + w, x3[w], 0, 0, m[w], scale[w], shift[w], gate, d3)
            s1[w] += (v0 + v1) + (v2 + v3)
            s2[w] += (v0 * d0 + v1 * d1) + (v2 * d2 + v3 * d3)
        else:
            s1[w] += v0
            s2[w] += v0 * d0


cdef inline void add_step_of_rows(
    int type, const char** g, const char** x, Py_ssize_t first, bint four, int width,   # IN  columns first .. + width
    const real* m, const real* scale, const real* shift, int gate, lane* s1, lane* s2,  # of these columns
) noexcept nogil:
    # With a literal width halves stay in registers.
    cdef float x_room[4 * LANES]
    cdef float g_room[4 * LANES]
    cdef const real* u[4]
    cdef const real* v[4]
    cdef int k
    first *= size_of(type)
    for k in range(4 if four else 1):
        u[k] = elements(type, False, x[k] + first, width, x_room + k * LANES, m)
        v[k] = u[k]
        if gate != MOMENTS:
            v[k] = elements(type, False, g[k] + first, width, g_room + k * LANES, m)
    if four:
        add_columns(v[0], v[1], v[2], v[3], u[0], u[1], u[2], u[3], True, width, m, scale, shift, gate, s1, s2)
    else:
        add_columns(v[0], v[0], v[0], v[0], u[0], u[0], u[0], u[0], False, width, m, scale, shift, gate, s1, s2)


cdef inline void add_rows(
    int type, const char** g, const char** x, bint four, Py_ssize_t width,      # IN  four rows, or one
    const char** g_ahead, const char** x_ahead,                                 # the four to ask for meanwhile
    const real* m, const real* scale, const real* shift, int gate, lane* s1, lane* s2,
) noexcept nogil:
    cdef Py_ssize_t w = 0, begun = 0, size = size_of(type)
    cdef Py_ssize_t quarter = parts(width, 4 * LANES) * LANES       # for one of the rows ahead
    cdef int k = 0
    while w + LANES <= width:
        if four:
            if w == begun + quarter:
                begun = w
                k += 1
            prefetch(x_ahead[k] + 4 * (w - begun) * size, 4 * LANES * size_of(type))
            if gate != MOMENTS:
                prefetch(g_ahead[k] + 4 * (w - begun) * size, 4 * LANES * size_of(type))
        add_step_of_rows(type, g, x, w, four, LANES, m + w, scale + w, shift + w, gate, s1 + w, s2 + w)
        w += LANES
    if w < width:
        add_step_of_rows(type, g, x, w, four, <int> (width - w), m + w, scale + w, shift + w, gate, s1 + w, s2 + w)


cdef inline void add_row_bits(
    int type, const char* g, const char* x, const char* g_ahead, const char* x_ahead, const uint16_t* bits,
    Py_ssize_t width, const real* m, lane* s1, lane* s2,
) noexcept nogil:
    # One row, where the forward left bits.
    cdef float x_room[LANES]
    cdef float g_room[LANES]
    cdef const real* u
    cdef const real* v
    cdef lane d
    cdef Py_ssize_t w = 0, size = size_of(type)
    cdef int j, step
    while w < width:
        step = <int> least(LANES, width - w)
        prefetch(x_ahead + w * size, LANES * size_of(type))
        prefetch(g_ahead + w * size, LANES * size_of(type))
        u = elements(type, False, x + w * size, step, x_room, m)
        v = elements(type, False, g + w * size, step, g_room, m)
        for j in range(LANES):
            if j < step and (bits[w // LANES] >> j) & 1:
                d = <lane> u[j] - <lane> m[w + j]
                s1[w + j] += v[j]
                s2[w + j] += <lane> v[j] * d
        w += LANES


cdef inline void add_block(
    int type, const char* g, Py_ssize_t g_step, const char* x, Py_ssize_t x_step,       # IN  (rows, width)
    const Py_ssize_t* index, const uint16_t* bits, Py_ssize_t bits_step, Py_ssize_t first, Py_ssize_t stop,
    Py_ssize_t rows, Py_ssize_t width, const real* m, const real* scale, const real* shift, int gate,
    lane* s1, lane* s2,
) noexcept nogil:
    # The rows first .. stop of all, four at a time.
    cdef const char* u[4]
    cdef const char* v[4]
    cdef const char* u_ahead[4]
    cdef const char* v_ahead[4]
    cdef Py_ssize_t i = first, ahead
    cdef int k, some
    while i < stop:
        some = 4 if i + 4 <= stop and gate != BITS else 1
        for k in range(some):
            u[k] = x + row_at(index, i + k) * x_step
            v[k] = g + row_at(index, i + k) * g_step
            ahead = row_ahead(index, i + k, rows)
            u_ahead[k] = x + ahead * x_step
            v_ahead[k] = g + ahead * g_step
        if gate == BITS:
            add_row_bits(type, v[0], u[0], v_ahead[0], u_ahead[0], bits + i * bits_step, width, m, s1, s2)
        elif some == 4:
            add_rows(type, v, u, True, width, v_ahead, u_ahead, m, scale, shift, gate, s1, s2)
        else:
            add_rows(type, v, u, False, width, v_ahead, u_ahead, m, scale, shift, gate, s1, s2)
        i += some


cdef inline void sum_columns_of(
    int type, Columns* u, const real* m_in, const real* scale_in, const real* shift_in, Py_ssize_t first,
    Py_ssize_t width,
    double* out1, double* out2,                                                 # OUT (width,), of columns from `first`
    lane kind,
) noexcept nogil:
    cdef float room1[ROOM]
    cdef float room2[ROOM]
    cdef double double_room1[ROOM_OF_SUMS]
    cdef double double_room2[ROOM_OF_SUMS]
    cdef double rest1[ROOM_OF_DOUBLES]
    cdef double rest2[ROOM_OF_DOUBLES]
    cdef float room_m[ROOM]
    cdef float room_scale[ROOM]
    cdef float room_shift[ROOM]
    cdef double double_room_m[ROOM_OF_DOUBLES]
    cdef double double_room_scale[ROOM_OF_DOUBLES]
    cdef double double_room_shift[ROOM_OF_DOUBLES]
    cdef lane* s1
    cdef lane* s2
    cdef real* m
    cdef real* scale
    cdef real* shift
    cdef Py_ssize_t i = 0, w, stop, size = size_of(type), x_step = u.x_step * size, g_step = u.g_step * size
    cdef const char* x = u.x + first * size
    cdef const char* g = u.g + first * size
    cdef const uint16_t* bits = u.bits + first // LANES
    cdef const Py_ssize_t* index = u.index
    if lane is float:
        s1 = room1
        s2 = room2
    else:
        s1 = double_room1
        s2 = double_room2
    if real is float:
        m = room_m
        scale = room_scale
        shift = room_shift
    else:
        m = double_room_m
        scale = double_room_scale
        shift = double_room_shift
    for w in range(width):
        m[w] = m_in[first + w]
        out1[w] = 0
        out2[w] = 0
        if real is double and u.gate == MOMENTS:
            rest1[w] = 0
            rest2[w] = 0
    if u.gate == REPLAY:
        for w in range(width):
            scale[w] = scale_in[first + w]
            shift[w] = shift_in[first + w]
    while i < u.rows:
        stop = least(i + u.flush, u.rows)
        for w in range(width):
            s1[w] = 0
            s2[w] = 0
        if u.gate == MOMENTS:
            add_block(type, x, x_step, x, x_step, index, bits, 0, i, stop, u.rows, width, m, m, m, MOMENTS, s1, s2)
        elif u.gate == OPEN:
            add_block(type, g, g_step, x, x_step, index, bits, 0, i, stop, u.rows, width, m, m, m, OPEN, s1, s2)
        elif u.gate == REPLAY:
            add_block(type, g, g_step, x, x_step, index, bits, 0, i, stop, u.rows, width, m, scale, shift, REPLAY,
                      s1, s2)
        else:
            add_block(type, g, g_step, x, x_step, index, bits, u.bits_step, i, stop, u.rows, width, m, m, m, BITS,
                      s1, s2)
        if real is double and u.gate == MOMENTS:
            for w in range(width):
                add_to_long_sum(out1 + w, rest1 + w, s1[w])
                add_to_long_sum(out2 + w, rest2 + w, s2[w])
        else:
            for w in range(width):
                out1[w] += s1[w]
                out2[w] += s2[w]
        i = stop
    if real is double and u.gate == MOMENTS:
        for w in range(width):
            out1[w] = whole_sum(out1[w], rest1[w])
            out2[w] = whole_sum(out2[w], rest2[w])


cdef void sum_float16(
    Columns* u, const float* m, const float* scale, const float* shift, Py_ssize_t first, Py_ssize_t width,
    double* out1, double* out2, lane kind,
) noexcept nogil:
    sum_columns_of(FLOAT16, u, m, scale, shift, first, width, out1, out2, kind)


cdef void sum_bfloat16(
    Columns* u, const float* m, const float* scale, const float* shift, Py_ssize_t first, Py_ssize_t width,
    double* out1, double* out2, lane kind,
) noexcept nogil:
    sum_columns_of(BFLOAT16, u, m, scale, shift, first, width, out1, out2, kind)


cdef void sum_some_columns(
    Columns* u, const real* m, const real* scale, const real* shift, Py_ssize_t first, Py_ssize_t width,
    double* out1, double* out2,                                                 # OUT (width,), of columns from `first`
    lane kind,
) noexcept nogil:
    # As many as there is room for.
    if real is float:
        if u.type == FLOAT16:
            sum_float16(u, m, scale, shift, first, width, out1, out2, kind)
        elif u.type == BFLOAT16:
            sum_bfloat16(u, m, scale, shift, first, width, out1, out2, kind)
        else:
            sum_columns_of(FLOAT32, u, m, scale, shift, first, width, out1, out2, kind)
    else:
        sum_columns_of(FLOAT64, u, m, scale, shift, first, width, out1, out2, kind)


cdef void sum_columns(
    Columns* u, const real* m, const real* scale, const real* shift, Py_ssize_t first, Py_ssize_t width,
    double* out1, double* out2,                                                 # OUT (width,), of columns from `first`
    lane kind,
) noexcept nogil:
    cdef Py_ssize_t w = 0, most = DOUBLES if real is double else (SUMS if lane is double else SLAB)
    while w < width:
        sum_some_columns(u, m, scale, shift, first + w, least(most, width - w), out1 + w, out2 + w, kind)
        w += most


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


cdef void center_columns(
    Columns* u, Py_ssize_t channels, Py_ssize_t repeats, bint whole,
    real* pivot, double* e, double* q,                                          # IN, OUT (channels,) and their repeats
    char* far,                                                                  # OUT (channels,), which they are
    const real* kind,
) noexcept nogil:
    # Sums the channels whose pivot was too far off again in double, about the mean that was found.
    cdef double t1[TILE]
    cdef double t2[TILE]
    cdef double n = <double> u.rows * <double> repeats, mean
    cdef Py_ssize_t c, k, w = 0, width
    cdef bint some = False, here
    for c in range(channels):
        mean = pivot[c] + e[c] / n
        far[c] = not squares_held(n, e[c], q[c], <double> 0) and finite(mean)
        if far[c]:
            some = True
            e[c] = 0
            q[c] = 0
            for k in range(repeats):
                pivot[k * channels + c] = center_of(whole, mean, kind)
    while some and w < u.width:
        width = least(TILE, u.width - w)
        here = False
        for k in range(width):
            here = here or far[(w + k) % channels]
        if here:
            sum_columns(u, pivot, pivot, pivot, w, width, t1, t2, <double> 0)
            for k in range(width):
                c = (w + k) % channels
                if far[c]:
                    e[c] += t1[k]
                    q[c] += t2[k]
        w += TILE

# Reductions over the columns of `rows`: every column has its own sums.
#
# a) The same two sums as in reduce/planes.pxi. Four rows are read at once and added to each other before they are added
#    to the running sums in the first-level cache: a quarter of the roundings, a quarter of the traffic to the sums.
#    After FLUSH_ROWS rows the sums go to double; the moments of doubles go to two words after FLUSH_EXACT rows.
# b) The pivot of a column is the mean of a sample of rows, and judged as in reduce/planes.pxi.
# c) Columns whose float sums overflowed or underflowed, or whose pivot was far off, are summed again in double, at last
#    about the mean found so far. Other columns are not: the bits of a column do not depend on its neighbours.
# d) Sums and constants are local arrays, so that the compiler sees that x is none of them. A thread uses less than
#    48 KiB of stack, because some have only 64; the rest is in its Scratch.
# e) Rows are prefetched early, in the order in which they lie, one after the other, while four are reduced side by
#    side. In a backward, where these are eight streams, that pays for rows of FETCH_FROM to FETCH_TO bytes: the CPU's
#    own prefetcher follows longer rows, and shorter ones share cache lines.
# f) From memory the CPU's own prefetcher is faster, and follows rows that are read one after the other. So moments
#    touch four rows before they are reduced, and a backward adds row by row, in pairs whose sums give the bits of four.

cdef enum:
    FETCH_FROM = 512
    FETCH_TO = 2048
    LONG_ROW = 4096         # bytes from which the CPU's prefetcher follows four rows, and four share their constants
    FLUSH_ROWS = 24
    FLUSH_EXACT = 8
    ROOM = SLAB + PADDING
    SUMS = 512              # columns that are summed side by side in double lanes
    ROOM_OF_SUMS = SUMS + PADDING
    DOUBLES = 256           # columns of doubles that are summed side by side
    ROOM_OF_DOUBLES = DOUBLES + PADDING

cdef struct Scratch:        # of a thread, for the reduction of a unit
    double e[ROOM]
    double q[ROOM]
    double pivot[ROOM]      # of type `real`
    char far[ROOM]

cdef struct Columns:        # some columns of a unit
    int type
    int gate
    Py_ssize_t rows
    Py_ssize_t width
    const Py_ssize_t* index     # the numbers of the rows; NULL: 0, 1, 2 ...
    Runs x
    Runs dy
    Words bits
    Coefs coefs
    Py_ssize_t flush        # rows after which sums go to double, or to two words
    bint far                # larger than the last cache
    bint fetch              # prefetch rows of a backward

cdef struct Sums:           # (width,) each
    double* v
    double* vd              # of v * (x - m)

cdef struct FourRows:
    const char* x[4]
    const char* dy[4]
    const uint16_t* bits[4]


cdef inline bint columns_held(const Columns* u, double v, double vd) noexcept nogil:
    if u.gate == MOMENTS:
        return squares_held(<double> u.rows, v, vd, <float> 0)
    return products_held(<double> u.rows, v, vd)


cdef inline Columns columns_from(Columns u, Py_ssize_t first, Py_ssize_t width) noexcept nogil:
    cdef Py_ssize_t bytes = first * size_of(u.type)
    u.x.p += bytes
    u.dy.p += bytes
    u.bits.p += first // LANES
    u.coefs.p += first * (8 if u.type == FLOAT64 else 4)
    u.width = width
    u.fetch = not u.far and (u.gate == MOMENTS or FETCH_FROM <= width * size_of(u.type) <= FETCH_TO)
    return u


cdef inline Py_ssize_t row_at(const Py_ssize_t* index, Py_ssize_t i) noexcept nogil:
    return i if index == NULL else index[i]


cdef inline Py_ssize_t row_ahead(const Columns* u, Py_ssize_t i) noexcept nogil:
    i += AHEAD_ROWS if u.gate == MOMENTS else AHEAD_ROWS // 2
    return i if u.index == NULL else u.index[least(i, u.rows - 1)]


cdef void sample_columns(
    const Columns* u, Py_ssize_t samples,
    double* out,                                                                # OUT (u.width,)
    const real* kind,
) noexcept nogil:
    # In double: a float sum may overflow.
    cdef float room[SLAB]
    cdef const real* p
    cdef Py_ssize_t i, w, step
    for w in range(u.width):
        out[w] = 0
    for i in range(samples):
        p = load_runs(u.type, Runs(u.x.p + row_at(u.index, sample_at(i, u.rows)) * u.x.step, 0), 1, u.width, room,
                      &step, kind)
        for w in range(u.width):
            out[w] += p[w]


cdef inline void add_columns(
    Mode mode, const real** dy, const real** x,                                 # IN  (width,) of four rows, or of one
    const int* words,                                                           # IN  bits of each
    bint four, int width,
    const real* coef,                                                           # IN  (FORWARD_COEFS, width)
    lane* sums,                                                                 # OUT (2, width), added to
) noexcept nogil:
    cdef Py_ssize_t step = coef_step_of(coef)
    cdef lane* s1 = sums
    cdef lane* s2 = sums + sums_step_of(sums[0])
    cdef lane d0, d1, d2, d3, v0, v1, v2, v3
    cdef int w
    for w in range(width):
        d0 = <lane> x[0][w] - <lane> coef[w]
        v0 = term(mode, dy[0], x[0][w], words[0], w, coef + w, step, d0)
        if four:
            d1 = <lane> x[1][w] - <lane> coef[w]
            d2 = <lane> x[2][w] - <lane> coef[w]
            d3 = <lane> x[3][w] - <lane> coef[w]
            v1 = term(mode, dy[1], x[1][w], words[1], w, coef + w, step, d1)
            v2 = term(mode, dy[2], x[2][w], words[2], w, coef + w, step, d2)
            v3 = term(mode, dy[3], x[3][w], words[3], w, coef + w, step, d3)
            s1[w] += (v0 + v1) + (v2 + v3)
            s2[w] += (v0 * d0 + v1 * d1) + (v2 * d2 + v3 * d3)
        else:
            s1[w] += v0
            s2[w] += v0 * d0


cdef inline Py_ssize_t coef_step_of(const real* kind) noexcept nogil:
    # From row to row of the local constants.
    return ROOM if real is float else ROOM_OF_DOUBLES


cdef inline Py_ssize_t sums_step_of(lane of) noexcept nogil:
    # From one local running sum to the other.
    return ROOM if lane is float else ROOM_OF_SUMS


cdef inline void add_step(
    Mode mode, const FourRows* rows, bint four, Py_ssize_t first, int width,    # columns first .. first + width
    const real* coef, lane* sums,
) noexcept nogil:
    # With a literal width halves stay in registers.
    cdef float x_room[4 * LANES]
    cdef float dy_room[4 * LANES]
    cdef const real* x[4]
    cdef const real* dy[4]
    cdef int words[4]
    cdef Py_ssize_t o = first * size_of(mode.type)
    cdef int k
    for k in range(4 if four else 1):
        x[k] = load_block(mode.type, False, rows.x[k] + o, width, x_room + k * LANES, coef)
        dy[k] = x[k]
        if mode.gate != MOMENTS:
            dy[k] = load_block(mode.type, False, rows.dy[k] + o, width, dy_room + k * LANES, coef)
        words[k] = rows.bits[k][first // LANES] if mode.gate == BITS else 0
    add_columns(mode, dy, x, words, four, width, coef + first, sums + first)


cdef inline void add_rows(
    Mode mode, const FourRows* rows, const FourRows* ahead,                     # `ahead`: to prefetch meanwhile
    bint four, bint fetch, Py_ssize_t width, const real* coef, lane* sums,
) noexcept nogil:
    cdef Py_ssize_t w = 0, begun = 0, size = size_of(mode.type)
    cdef Py_ssize_t quarter = parts(width, 4 * LANES) * LANES       # columns after which the next row is prefetched
    cdef int k = 0
    while w + LANES <= width:
        if four and fetch:
            if w == begun + quarter:
                begun = w
                k += 1
            prefetch(ahead.x[k] + 4 * (w - begun) * size, 4 * LANES * size_of(mode.type))
            if mode.gate != MOMENTS:
                prefetch(ahead.dy[k] + 4 * (w - begun) * size, 4 * LANES * size_of(mode.type))
        add_step(mode, rows, four, w, LANES, coef, sums)
        w += LANES
    if w < width:
        add_step(mode, rows, four, w, <int> (width - w), coef, sums)


cdef inline void add_in_order(
    Mode mode, const FourRows* rows, Py_ssize_t width, const real* coef,
    lane* pairs,                                                                # (2, 2, width): zero before and after
    lane* sums,                                                                 # OUT (2, width), added to
) noexcept nogil:
    # add_rows() of four rows, one after the other.
    cdef FourRows row
    cdef Py_ssize_t step = sums_step_of(sums[0]), pair = step // 2, i, w
    cdef int k
    for k in range(4):
        row.x[0] = rows.x[k]
        row.dy[0] = rows.dy[k]
        row.bits[0] = rows.bits[k]
        add_rows(mode, &row, &row, False, False, width, coef, pairs + (pair if k > 1 else 0))
    for k in range(2):
        for w in range(width):
            i = k * step + w
            sums[i] += pairs[i] + pairs[i + pair]
            pairs[i] = 0
            pairs[i + pair] = 0


cdef inline void add_block(
    Mode mode, Columns u, Py_ssize_t first, Py_ssize_t stop,                    # rows first .. stop
    const real* coef,
    lane* pairs,                                                                # room of add_in_order(), or NULL
    lane* sums,
) noexcept nogil:
    cdef FourRows rows, ahead
    cdef Py_ssize_t i = first, row, size = size_of(mode.type)
    cdef bint touched = mode.gate == MOMENTS and u.far and u.width * size < LONG_ROW
    cdef int k, some
    while i < stop:
        some = 4 if i + 4 <= stop else 1
        for k in range(some):
            row = row_at(u.index, i + k)
            rows.x[k] = u.x.p + row * u.x.step
            rows.dy[k] = u.dy.p + row * u.dy.step
            rows.bits[k] = u.bits.p + (i + k) * u.bits.step
            row = row_ahead(&u, i + k)
            ahead.x[k] = u.x.p + row * u.x.step
            ahead.dy[k] = u.dy.p + row * u.dy.step
            if touched:
                touch(rows.x[k], 1, u.width * size, 0)
        if some == 4 and mode.gate != MOMENTS and pairs != NULL:
            add_in_order(mode, &rows, u.width, coef, pairs, sums)
        elif some == 4:
            add_rows(mode, &rows, &ahead, True, u.fetch, u.width, coef, sums)
        else:
            add_rows(mode, &rows, &ahead, False, False, u.width, coef, sums)
        i += some


cdef inline void sum_columns_of(
    int type, Columns u,
    Sums out,                                                                   # OUT
    const real* kind, lane of,
) noexcept nogil:
    cdef float float_sums[2 * ROOM]
    cdef float float_pairs[2 * ROOM]
    cdef double double_sums[2 * ROOM_OF_SUMS]
    cdef double double_pairs[2 * ROOM_OF_SUMS]
    cdef float float_coefs[FORWARD_COEFS * ROOM]
    cdef double double_coefs[FORWARD_COEFS * ROOM_OF_DOUBLES]
    cdef double rest1[ROOM_OF_DOUBLES]
    cdef double rest2[ROOM_OF_DOUBLES]
    cdef lane* sums
    cdef lane* pairs
    cdef real* coef
    cdef const real* given = coef_row(u.coefs, 0, kind)
    cdef Py_ssize_t i = 0, w, stop, step = coef_step_of(kind), sums_step = sums_step_of(of)
    if lane is float:
        sums = float_sums
        pairs = float_pairs
    else:
        sums = double_sums
        pairs = double_pairs
    if real is float:
        coef = float_coefs
    else:
        coef = double_coefs
    for w in range(u.width):
        coef[w] = given[w]
        out.v[w] = 0
        out.vd[w] = 0
        if real is double and u.gate == MOMENTS:
            rest1[w] = 0
            rest2[w] = 0
    if u.far and u.gate != MOMENTS and u.width * <Py_ssize_t> sizeof(lane) <= FETCH_TO:
        memset(pairs, 0, 2 * sums_step * sizeof(lane))
    else:
        pairs = NULL
    if u.gate == REPLAY:
        for w in range(u.width):
            coef[SCALE * step + w] = given[SCALE * u.coefs.step + w]
            coef[SHIFT * step + w] = given[SHIFT * u.coefs.step + w]
    while i < u.rows:
        stop = least(i + u.flush, u.rows)
        for w in range(u.width):
            sums[w] = 0
            sums[sums_step + w] = 0
        if u.gate == MOMENTS:
            add_block(reduction(type, MOMENTS), u, i, stop, <const real*> coef, pairs, sums)
        elif u.gate == OPEN:
            add_block(reduction(type, OPEN), u, i, stop, <const real*> coef, pairs, sums)
        elif u.gate == REPLAY:
            add_block(reduction(type, REPLAY), u, i, stop, <const real*> coef, pairs, sums)
        else:
            add_block(reduction(type, BITS), u, i, stop, <const real*> coef, pairs, sums)
        if real is double and u.gate == MOMENTS:
            for w in range(u.width):
                add_to_long_sum(out.v + w, rest1 + w, sums[w])
                add_to_long_sum(out.vd + w, rest2 + w, sums[sums_step + w])
        else:
            for w in range(u.width):
                out.v[w] += sums[w]
                out.vd[w] += sums[sums_step + w]
        i = stop
    if real is double and u.gate == MOMENTS:
        for w in range(u.width):
            out.v[w] = whole_sum(out.v[w], rest1[w])
            out.vd[w] = whole_sum(out.vd[w], rest2[w])


cdef void sum_float16(Columns u, Sums out, const float* kind, lane of) noexcept nogil:
    sum_columns_of(FLOAT16, u, out, kind, of)


cdef void sum_bfloat16(Columns u, Sums out, const float* kind, lane of) noexcept nogil:
    sum_columns_of(BFLOAT16, u, out, kind, of)


cdef void sum_some_columns(Columns u, Sums out, const real* kind, lane of) noexcept nogil:
    # As many as the local arrays hold.
    if real is double:
        sum_columns_of(FLOAT64, u, out, kind, of)
    elif u.type == FLOAT16:
        sum_float16(u, out, kind, of)
    elif u.type == BFLOAT16:
        sum_bfloat16(u, out, kind, of)
    else:
        sum_columns_of(FLOAT32, u, out, kind, of)


cdef void sum_columns(
    Columns u,
    Sums out,                                                                   # OUT (u.width,)
    const real* kind, lane of,
) noexcept nogil:
    cdef Py_ssize_t w = 0, most = DOUBLES if real is double else (SUMS if lane is double else SLAB)
    while w < u.width:
        sum_some_columns(columns_from(u, w, least(most, u.width - w)), Sums(out.v + w, out.vd + w), kind, of)
        w += most


cdef void reduce_columns(
    Columns u,
    Sums out,                                                                   # OUT (u.width,)
    const real* kind, lane of,
) noexcept nogil:
    cdef double t1[TILE]
    cdef double t2[TILE]
    cdef Py_ssize_t w = 0, k, width
    cdef bint held
    sum_columns(u, out, kind, of)
    if lane is float:
        while w < u.width:
            width = least(TILE, u.width - w)
            held = True
            for k in range(w, w + width):
                held = held and columns_held(&u, out.v[k], out.vd[k])
            if not held:
                sum_columns(columns_from(u, w, width), Sums(&t1[0], &t2[0]), kind, <double> 0)
                for k in range(width):
                    if not columns_held(&u, out.v[w + k], out.vd[w + k]):
                        out.v[w + k] = t1[k]
                        out.vd[w + k] = t2[k]
            w += TILE


cdef void center_columns(
    Columns u, Py_ssize_t channels, Py_ssize_t repeats, bint whole,
    Scratch* scratch,                                                           # IN, OUT (channels,): pivot, e, q
    const real* kind,
) noexcept nogil:
    # Sums the channels whose pivot was too far off again in double, about the mean found so far.
    cdef double t1[TILE]
    cdef double t2[TILE]
    cdef real* pivot = <real*> scratch.pivot
    cdef double* e = scratch.e
    cdef double* q = scratch.q
    cdef char* far = scratch.far
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
            sum_columns(columns_from(u, w, width), Sums(&t1[0], &t2[0]), kind, <double> 0)
            for k in range(width):
                c = (w + k) % channels
                if far[c]:
                    e[c] += t1[k]
                    q[c] += t2[k]
        w += TILE

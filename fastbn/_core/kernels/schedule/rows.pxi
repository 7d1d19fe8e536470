# `rows`: (R, C), channels contiguous.
#
# a) Rows are cut into units of unit_rows, columns into slabs; a unit is reduced, and its mean and M2 (or the two sums
#    of the backward) are kept for every channel. Units are merged in order, channel by channel. How many rows a unit
#    has follows from the shape; how wide a slab is may follow from the cache, because no column sees another.
# b) Channel counts that do not fill tiles (3, 24, 40) are read as wide rows of `repeats` rows each, in which channel c
#    is the columns c, c + C, c + 2 C ...; their sums are added before the unit is finished. Rows that are left over
#    form a last unit of their own.
# c) Where a slab of all rows stays in the cache it is reduced, merged and transformed at once, last unit first.
#    Otherwise there are three phases: reduce, merge, transform.

from libc.string cimport memset

cdef enum:
    UNIT_ELEMENTS = 262144
    MOST_ROWS = 1024        # of a unit
    LEAST_ROWS = 32
    WIDE = 4096             # bytes of a row above which four rows share the constants that they are transformed with
    PIVOT_ROWS = 16         # most rows that a pivot is the mean of
    MOST_NARROW = 512       # channels of which a slab holds two rows


cdef Py_ssize_t repeats_of(Py_ssize_t r, Py_ssize_t c) noexcept nogil:
    # The fewest rows that fill whole tiles; fewer where they would not fit a slab, or leave a single wide row.
    cdef Py_ssize_t k = TILE
    while k > 1 and (c * (k // 2)) % TILE == 0:
        k //= 2
    while k > 1 and (r // k < 2 or c * k > SLAB):
        k //= 2
    return k


cdef void plan_rows(Job* job, Py_ssize_t cache, Py_ssize_t last_cache, int threads) noexcept nogil:
    cdef Py_ssize_t width, fit, even, itemsize = job.itemsize
    cdef Py_ssize_t arrays = 2 if job.g.p != NULL else 1
    cdef Py_ssize_t bytes = job.n * job.c * itemsize
    # Narrow rows have no gaps (views.pyx), but for rows of statistics that are one row again and again.
    job.repeats = repeats_of(job.n, job.c) if job.x.step_n == job.c else 1
    job.wide_rows = job.n // job.repeats
    width = job.c * job.repeats
    job.coef_step = width
    job.unit_rows = UNIT_ELEMENTS // width // LEAST_ROWS * LEAST_ROWS
    job.unit_rows = least(MOST_ROWS, job.unit_rows if job.unit_rows > LEAST_ROWS else LEAST_ROWS)
    job.units = parts(job.wide_rows, job.unit_rows) + (1 if job.n % job.repeats else 0)
    fit = cache // (job.n * itemsize * arrays) // TILE * TILE
    even = parts(parts(width, TILE), threads) * TILE
    job.group = 0
    job.slab = least(width, SLAB)
    if job.repeats > 1:
        job.group = threads == 1 and bytes * arrays <= cache
    elif fit >= 4 * TILE or (fit >= TILE and fit >= even):
        job.group = 1
        job.slab = least(least(fit, even), SLAB)
    job.slabs = parts(width, job.slab)
    # With a residual four such rows would not fit the ways of the first-level cache.
    job.four = width * itemsize > WIDE and job.r.p == NULL


cdef struct Strip:          # the rows of a unit
    Py_ssize_t row          # first row, of C elements
    Py_ssize_t rows         # wide rows
    Py_ssize_t repeats      # rows of C in one of them
    Py_ssize_t width
    Py_ssize_t bits         # first word
    Py_ssize_t bits_step    # words a wide row


cdef inline Strip strip_of(Job* job, Py_ssize_t u) noexcept nogil:
    cdef Strip out
    cdef Py_ssize_t first = u * job.unit_rows
    out.width = job.c * job.repeats
    out.repeats = job.repeats
    out.bits_step = parts(out.width, LANES)
    if first < job.wide_rows:
        out.row = first * job.repeats
        out.rows = least(job.unit_rows, job.wide_rows - first)
        out.bits = first * out.bits_step
    else:
        # What is left over after the wide rows: one shorter wide row.
        out.row = job.wide_rows * job.repeats
        out.rows = 1
        out.bits = job.wide_rows * out.bits_step
        out.repeats = job.n - out.row
        out.width = job.c * out.repeats
    return out


cdef void rows_reduce(Job* job, const real* kind, Py_ssize_t unit, int thread) noexcept nogil:
    cdef Py_ssize_t slab = unit % job.slabs
    cdef Strip strip = strip_of(job, unit // job.slabs)
    cdef Py_ssize_t first = slab * job.slab         # of the columns
    cdef Py_ssize_t samples = least(strip.rows, PIVOT_ROWS)
    cdef Py_ssize_t w, c
    cdef const real* coef = <const real*> job.coef + first
    cdef double* out1 = job.part1 + unit // job.slabs * job.c + first
    cdef double* out2 = job.part2 + unit // job.slabs * job.c + first
    cdef double* out3 = job.part3 + unit // job.slabs * job.c + first
    cdef Room* room = <Room*> job.rooms + thread
    cdef double* e = room.e
    cdef double* q = room.q
    cdef real* pivot = <real*> room.pivot
    cdef const real* m = pivot
    cdef Columns u
    cdef Moments moments
    cdef double n = <double> strip.rows * <double> strip.repeats
    u.rows = strip.rows
    u.width = least(job.slab, strip.width - first)
    u.type = job.type
    u.itemsize = job.itemsize
    u.flush = FLUSH_EXACT if job.type == FLOAT64 and job.g.p == NULL and not job.exact else FLUSH_ROWS
    u.index = job.index
    if job.index != NULL:
        u.index = job.index + strip.row
    u.x = at(job, &job.x, strip.row if job.index == NULL else 0, 0, first)
    u.x_step = job.x.step_n * strip.repeats
    u.g = u.x
    u.g_step = job.g.step_n * strip.repeats
    u.bits = <const uint16_t*> u.x              # not looked at
    if job.bits != NULL:
        u.bits = job.bits + strip.bits + first // LANES
    u.bits_step = strip.bits_step
    if job.g.p != NULL:
        u.gate = job.gate
        u.g = at(job, &job.g, strip.row if job.index == NULL else 0, 0, first)
        m = coef + SUBTRACT * job.coef_step
    else:
        # Rounded to the arrays' type in any case, so that a pivot need not be exact.
        u.gate = MOMENTS
        sample_columns(&u, samples, e, kind)
        fold(e, u.width, job.c, strip.repeats)
        for c in range(least(u.width, job.c)):
            pivot[c] = pivot_of(job.whole, e[c] / (<double> samples * <double> strip.repeats), kind)
        for w in range(job.c, u.width):
            pivot[w] = pivot[w - job.c]
    if real is float and not (job.exact or job.n <= FEW):
        reduce_columns(&u, m, coef + SCALE * job.coef_step, coef + SHIFT * job.coef_step, e, q, <float> 0)
    else:
        reduce_columns(&u, m, coef + SCALE * job.coef_step, coef + SHIFT * job.coef_step, e, q, <double> 0)
    fold(e, u.width, job.c, strip.repeats)
    fold(q, u.width, job.c, strip.repeats)
    if u.gate == MOMENTS:
        center_columns(&u, least(u.width, job.c), strip.repeats, job.whole, pivot, e, q, room.far, kind)
    for c in range(least(u.width, job.c)):
        if u.gate == MOMENTS:
            moments = moments_about(<double> pivot[c], n, e[c], q[c])
            e[c] = moments.mean
            q[c] = moments.m2
            out3[c] = moments.low
    for c in range(least(u.width, job.c)):
        out1[c] = e[c]
        out2[c] = q[c]


cdef inline void fold(double* sums, Py_ssize_t width, Py_ssize_t c, Py_ssize_t repeats) noexcept nogil:
    # Adds the repeats of a wide row to its first C columns.
    cdef double rest[MOST_NARROW]
    cdef Py_ssize_t k, j
    if repeats == 1:
        return
    for j in range(c):
        rest[j] = 0
    for k in range(1, repeats):
        for j in range(c):
            add_to_sum(sums + j, rest + j, sums[k * c + j])
    for j in range(c):
        sums[j] = whole_sum(sums[j], rest[j])


cdef void merge_channels(Job* job, real* coef, Py_ssize_t c0, Py_ssize_t stop) noexcept nogil:
    # All units of a tile of channels, in order; merge() of lanes.pxi for equal counts, which vectors can do.
    cdef double[TILE] t1
    cdef double[TILE] t2
    cdef double[TILE] t3
    cdef double[TILE] low2
    cdef double n, before, delta, rest
    cdef Pair pair
    cdef const double* p1
    cdef const double* p2
    cdef const double* p3
    cdef Strip strip
    cdef Py_ssize_t c = c0, u
    cdef Moments moments
    cdef double[2] sums
    cdef int j, width
    while c < stop:
        width = <int> least(TILE, stop - c)
        before = 0
        for u in range(job.units):
            strip = strip_of(job, u)
            n = <double> strip.rows * <double> strip.repeats
            pair = pair_of(before, n)
            p1 = job.part1 + u * job.c + c
            p2 = job.part2 + u * job.c + c
            p3 = job.part3 + u * job.c + c
            if u == 0:
                for j in range(width):
                    t1[j] = p1[j]
                    t2[j] = p2[j]
                    t3[j] = p3[j] if job.g.p == NULL else 0
                    low2[j] = 0
            elif job.g.p != NULL:
                for j in range(width):
                    t1[j] += p1[j]
                    t2[j] += p2[j]
            else:
                for j in range(width):
                    distance(t1[j], t3[j], p1[j], p3[j], &delta, &rest)
                    add_to_mean(&t1[j], &t3[j], delta * pair.share + t3[j])
                    add_to_sum(&t2[j], &low2[j], p2[j])
                    add_between(&t2[j], &low2[j], delta, rest, pair)
            before += n
        for j in range(width):
            moments.n = before
            moments.mean = t1[j]
            moments.low = t3[j]
            moments.m2 = t2[j]
            moments.rest = low2[j]
            sums[0] = t1[j]
            sums[1] = t2[j]
            set_result(job, c + j, &moments, sums)
        c += TILE
    if job.y.p != NULL:
        finish_channels(job, coef, c0, stop)


cdef void transform_rows(
    Job* job, const real* kind, const Strip* strip, Py_ssize_t first, Py_ssize_t width,
    Py_ssize_t row, Py_ssize_t at_row, Py_ssize_t rows,
) noexcept nogil:
    # The elementwise pass over some wide rows of a unit, from its row `row` on, which lie at row at_row of the arrays.
    cdef Py_ssize_t k = strip.repeats
    cdef const char* x = at(job, &job.x, at_row, 0, first)
    cdef char* y = at(job, &job.y, at_row, 0, first)
    cdef char* r = NULL
    cdef const real* coef = <const real*> job.coef + first
    cdef uint16_t* bits = NULL
    if job.r.p != NULL:
        r = at(job, &job.r, at_row, 0, first)
    if job.bits != NULL:
        bits = job.bits + strip.bits + row * strip.bits_step + first // LANES
    if job.g.p == NULL:
        forward(job, x, job.x.step_n * k, r, job.r.step_n * k, y, job.y.step_n * k, bits, strip.bits_step,
                rows, width, job.four, coef, 1)
    else:
        k *= job.itemsize
        gradient(job.type, at(job, &job.g, at_row, 0, first), job.g.step_n * k, x, job.x.step_n * k,
                 bits, strip.bits_step, y, job.y.step_n * k, r, job.r.step_n * k,
                 rows, width, job.four, coef, job.coef_step, 1, job.gate, job.frozen)


cdef void clear_rows(
    Job* job, Block* b, Py_ssize_t row, Py_ssize_t stop, Py_ssize_t first, Py_ssize_t width,
) noexcept nogil:
    # Zeros in the columns first .. of rows that do not count; p is NULL where there is nothing to write.
    cdef Py_ssize_t i
    if b.p == NULL or row == stop:
        return
    if width == b.step_n:
        memset(at(job, b, row, 0, first), 0, (stop - row) * width * job.itemsize)
    else:
        for i in range(row, stop):
            memset(at(job, b, i, 0, first), 0, width * job.itemsize)


cdef void clear_others(Job* job, Py_ssize_t row, Py_ssize_t stop, Py_ssize_t first, Py_ssize_t width) noexcept nogil:
    # In all results.
    if job.fill:
        clear_rows(job, &job.y, row, stop, first, width)
    if job.g.p != NULL:
        clear_rows(job, &job.r, row, stop, first, width)


cdef void transform_strip(
    Job* job, const real* kind, Py_ssize_t u, Py_ssize_t first, Py_ssize_t stop,
) noexcept nogil:
    # The elementwise pass over the columns first..stop of a unit; of chosen rows, run by run, with those before each.
    cdef Strip strip = strip_of(job, u)
    cdef Py_ssize_t width = least(stop, strip.width) - first, row = 0, rows, done
    cdef const Py_ssize_t* index
    if job.index == NULL:
        transform_rows(job, kind, &strip, first, width, 0, strip.row, strip.rows)
    else:
        index = job.index + strip.row
        done = job.index[strip.row - 1] + 1 if strip.row else 0
        while row < strip.rows:
            rows = 1
            while row + rows < strip.rows and index[row + rows] == index[row] + rows:
                rows += 1
            clear_others(job, done, index[row], first, width)
            transform_rows(job, kind, &strip, first, width, row, index[row], rows)
            done = index[row] + rows
            row += rows
        if strip.row + strip.rows == job.n:
            clear_others(job, done, job.rows, first, width)
    if job.stream:
        fastbn_fence()


# ---- units ---------------------------------------------------------------------------------------------------------

cdef void rows_merge(Job* job, const real* kind, Py_ssize_t unit) noexcept nogil:
    merge_channels(job, <real*> job.coef, unit * TILE, least(unit * TILE + TILE, job.c))


cdef void rows_transform(Job* job, const real* kind, Py_ssize_t unit) noexcept nogil:
    cdef Py_ssize_t first = unit % job.slabs * job.slab
    transform_strip(job, kind, unit // job.slabs, first, first + job.slab)


cdef void rows_slab(Job* job, const real* kind, Py_ssize_t slab, int thread) noexcept nogil:
    cdef Py_ssize_t first = slab * job.slab
    cdef Py_ssize_t u = 0
    while u < job.units and not stopped(job):
        rows_reduce(job, kind, u * job.slabs + slab, thread)
        u += 1
    merge_channels(job, <real*> job.coef, least(first, job.c), least(first + job.slab, job.c))
    if job.y.p == NULL:
        return
    while u > 0 and not stopped(job):
        u -= 1
        transform_strip(job, kind, u, first, first + job.slab)

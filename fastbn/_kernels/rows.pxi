# `rows`: (R, C), channels contiguous.
#
# a) Rows are cut into units of unit_rows, columns into slabs; a unit is reduced tile by tile, and its mean and M2 (or the
#    two sums of the backward) are kept for every channel. Units are merged in order, channel by channel. How many rows a
#    unit has follows from the shape; how wide a slab is may follow from the cache, because no column sees another.
# b) Channel counts that do not fill tiles (3, 24, 40) are read as wide rows of `repeats` rows each, in which channel c is
#    the columns c, c + C, c + 2 C ...; their sums are added before the unit is finished. Rows that are left over form a
#    last unit of their own. Not with a mask: how its bits lie must not depend on the strides of one call.
# c) Where a slab of all rows stays in the cache it is reduced, merged and transformed at once, last unit first. Otherwise
#    there are three phases: reduce, merge, transform.

cdef enum:
    UNIT_ELEMENTS = 65536
    MOST_ROWS = 512         # of a unit
    LEAST_ROWS = 32
    NARROW = 256            # from here on, channels are not repeated
    SWEEP = 16              # rows that a transform takes tile by tile before it moves on


cdef Py_ssize_t repeats_of(Py_ssize_t r, Py_ssize_t c) noexcept nogil:
    # The fewest rows that fill whole tiles, or half of that, ... while at least two wide rows remain.
    cdef Py_ssize_t k = TILE
    while k > 1 and (c * (k // 2)) % TILE == 0:
        k //= 2
    while k > 1 and r // k < 2:
        k //= 2
    return k


cdef void plan_rows(Job* job, Py_ssize_t itemsize, Py_ssize_t cache, int threads) noexcept nogil:
    cdef Py_ssize_t width, fit, even
    job.repeats = 1
    if job.bits == NULL and job.c < NARROW and job.x.step_n == job.c and job.y.step_n == job.c and job.r.step_n == job.c \
            and job.g.step_n == job.c:
        job.repeats = repeats_of(job.n, job.c)
    job.wide_rows = job.n // job.repeats
    width = job.c * job.repeats
    job.coef_step = width
    job.unit_rows = UNIT_ELEMENTS // width // LEAST_ROWS * LEAST_ROWS
    job.unit_rows = least(MOST_ROWS, job.unit_rows if job.unit_rows > LEAST_ROWS else LEAST_ROWS)
    job.units = parts(job.wide_rows, job.unit_rows) + (1 if job.n % job.repeats else 0)
    job.slab = width
    job.slabs = 1
    job.group = 0
    if threads == 1 and job.n * width * itemsize <= cache:
        job.group = 1
    elif job.repeats == 1 and width > TILE:
        fit = cache // (job.n * itemsize * (2 if job.g.p != NULL else 1)) // TILE * TILE
        even = parts(parts(width, TILE), threads) * TILE
        if fit >= 4 * TILE or (fit >= TILE and fit >= even):
            job.group = 1
            job.slab = least(fit, even)
        else:
            job.slab = least(width, 16 * TILE)
        job.slabs = parts(width, job.slab)


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
    out.bits_step = parts(out.width, TILE)
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


cdef inline void unit_moments(
    Job* job, const real* x, Py_ssize_t rows, Py_ssize_t step, int width, const real* pivot, double* e, double* q,
) noexcept nogil:
    if real is float:
        if not job.exact:
            tile_moments(x, rows, step, width, pivot, e, q, <float> 0)
            return
    tile_moments(x, rows, step, width, pivot, e, q, <double> 0)


cdef inline void unit_gradient_sums(
    Job* job, const real* g, Py_ssize_t g_step, const real* x, Py_ssize_t x_step, const uint64_t* bits,
    Py_ssize_t bits_step, Py_ssize_t rows, int width, const real* coef, double* s1, double* s2,
) noexcept nogil:
    cdef Py_ssize_t k = job.coef_step
    if real is float:
        tile_gradient_sums(g, g_step, x, x_step, bits, bits_step, rows, width, coef, coef + k, coef + 2 * k,
                           job.gate, s1, s2, <float> 0)
    else:
        tile_gradient_sums(g, g_step, x, x_step, bits, bits_step, rows, width, coef, coef + k, coef + 2 * k,
                           job.gate, s1, s2, <double> 0)


cdef void reduce_wide(Job* job, const real* kind, Py_ssize_t u) noexcept nogil:
    # A unit whose columns repeat the channels: sums are collected a channel, so the pivot is the channel's as well.
    cdef Strip strip = strip_of(job, u)
    cdef Py_ssize_t step = strip.repeats * job.c
    cdef const real* x = <const real*> job.x.p + strip.row * job.c
    cdef const real* g = <const real*> job.g.p + strip.row * job.c if job.g.p != NULL else NULL
    cdef const real* coef = <const real*> job.coef
    cdef double[NARROW] first
    cdef double[NARROW] sum1
    cdef double[NARROW] sum2
    cdef real[TILE] pivot
    cdef double[TILE] t1
    cdef double[TILE] t2
    cdef Py_ssize_t pivot_rows = parts(strip.rows, PIVOT)
    cdef Py_ssize_t w, c
    cdef Moments m
    cdef int j, width
    for c in range(job.c):
        first[c] = 0
        sum1[c] = 0
        sum2[c] = 0
    if g == NULL:
        w = 0
        while w < strip.width:
            width = <int> least(TILE, strip.width - w)
            for j in range(TILE):
                t1[j] = 0
            if job.exact:
                tile_sums(x + w, pivot_rows, step, width, t1, <double> 0)
            else:
                tile_sums(x + w, pivot_rows, step, width, t1, <float> 0)
            c = w % job.c
            for j in range(width):
                first[c] += t1[j]
                c = c + 1 if c + 1 < job.c else 0
            w += TILE
        for c in range(job.c):
            first[c] = <real> (first[c] / (<double> pivot_rows * <double> strip.repeats))
    w = 0
    while w < strip.width:
        width = <int> least(TILE, strip.width - w)
        c = w % job.c
        if g == NULL:
            for j in range(width):
                pivot[j] = <real> first[c]
                c = c + 1 if c + 1 < job.c else 0
            unit_moments(job, x + w, strip.rows, step, width, pivot, t1, t2)
        else:
            unit_gradient_sums(job, g + w, step, x + w, step,
                               job.bits + strip.bits + w // TILE if job.bits != NULL else NULL, strip.bits_step,
                               strip.rows, width, coef + w, t1, t2)
        c = w % job.c
        for j in range(width):
            sum1[c] += t1[j]
            sum2[c] += t2[j]
            c = c + 1 if c + 1 < job.c else 0
        w += TILE
    for c in range(job.c):
        if g == NULL:
            m = moments_about(first[c], <double> strip.rows * <double> strip.repeats, sum1[c], sum2[c])
            sum1[c] = m.mean
            sum2[c] = m.m2
        job.part1[u * job.c + c] = sum1[c]
        job.part2[u * job.c + c] = sum2[c]


cdef void reduce_slab(Job* job, const real* kind, Py_ssize_t u, Py_ssize_t slab) noexcept nogil:
    cdef Strip strip = strip_of(job, u)
    cdef Py_ssize_t stop = least(slab * job.slab + job.slab, job.c)
    cdef Py_ssize_t pivot_rows = parts(strip.rows, PIVOT)
    cdef Py_ssize_t c = slab * job.slab
    cdef const real* x
    cdef double* out1
    cdef double* out2
    cdef real[TILE] pivot
    cdef double[TILE] t1
    cdef double[TILE] t2
    cdef double n = <double> strip.rows
    cdef double m2
    cdef int j, width
    while c < stop:
        width = <int> least(TILE, stop - c)
        x = <const real*> job.x.p + strip.row * job.x.step_n + c
        out1 = job.part1 + u * job.c + c
        out2 = job.part2 + u * job.c + c
        if job.g.p == NULL:
            for j in range(TILE):
                t1[j] = 0
            if job.exact:
                tile_sums(x, pivot_rows, job.x.step_n, width, t1, <double> 0)
            else:
                tile_sums(x, pivot_rows, job.x.step_n, width, t1, <float> 0)
            for j in range(width):
                pivot[j] = <real> (t1[j] / <double> pivot_rows)
            unit_moments(job, x, strip.rows, job.x.step_n, width, pivot, t1, t2)
            for j in range(width):
                m2 = t2[j] - t1[j] * (t1[j] / n)
                out1[j] = pivot[j] + t1[j] / n
                out2[j] = 0.0 if m2 < 0.0 else m2
        else:
            unit_gradient_sums(job, <const real*> job.g.p + strip.row * job.g.step_n + c, job.g.step_n,
                               x, job.x.step_n,
                               job.bits + strip.bits + c // TILE if job.bits != NULL else NULL, strip.bits_step,
                               strip.rows, width, <const real*> job.coef + c, t1, t2)
            for j in range(width):
                out1[j] = t1[j]
                out2[j] = t2[j]
        c += TILE


cdef void merge_channels(Job* job, real* coef, Py_ssize_t c0, Py_ssize_t stop) noexcept nogil:
    # All units of a tile of channels, in order; the same as merge() of lanes.pxi, on vectors.
    cdef double[TILE] t1
    cdef double[TILE] t2
    cdef double n, before, weight, delta
    cdef const double* p1
    cdef const double* p2
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
            weight = n / (before + n)
            p1 = job.part1 + u * job.c + c
            p2 = job.part2 + u * job.c + c
            if u == 0:
                for j in range(width):
                    t1[j] = p1[j]
                    t2[j] = p2[j]
            elif job.g.p != NULL:
                for j in range(width):
                    t1[j] += p1[j]
                    t2[j] += p2[j]
            else:
                for j in range(width):
                    delta = p1[j] - t1[j]
                    t1[j] += delta * weight
                    t2[j] += p2[j] + delta * delta * (before * weight)
            before += n
        for j in range(width):
            moments.n = before
            moments.mean = t1[j]
            moments.m2 = t2[j]
            sums[0] = t1[j]
            sums[1] = t2[j]
            set_result(job, c + j, moments, sums)
        c += TILE
    if job.y.p != NULL:
        finish_channels(job, coef, c0, stop)


cdef void transform_strip(Job* job, const real* kind, Py_ssize_t u, Py_ssize_t first, Py_ssize_t stop) noexcept nogil:
    cdef Strip strip = strip_of(job, u)
    cdef Py_ssize_t x_step = job.x.step_n * strip.repeats
    cdef Py_ssize_t y_step = job.y.step_n * strip.repeats
    cdef Py_ssize_t r_step = job.r.step_n * strip.repeats
    cdef Py_ssize_t g_step = job.g.step_n * strip.repeats
    cdef Py_ssize_t i = 0, w, rows
    cdef const real* x = <const real*> job.x.p + strip.row * job.x.step_n
    cdef real* y = <real*> job.y.p + strip.row * job.y.step_n
    cdef real* r = <real*> job.r.p + strip.row * job.r.step_n if job.r.p != NULL else NULL
    cdef const real* g = <const real*> job.g.p + strip.row * job.g.step_n if job.g.p != NULL else NULL
    cdef const real* coef
    cdef uint64_t* bits = NULL
    cdef int width
    stop = least(stop, strip.width)
    while i < strip.rows:
        rows = least(SWEEP, strip.rows - i)
        w = first
        while w < stop:
            width = <int> least(TILE, stop - w)
            coef = <const real*> job.coef + w
            if job.bits != NULL:
                bits = job.bits + strip.bits + i * strip.bits_step + w // TILE
            if g == NULL:
                affine_tile(x + i * x_step + w, x_step, r + i * r_step + w if r != NULL else r, r_step,
                            y + i * y_step + w, y_step, bits, strip.bits_step, rows, width,
                            coef, job.coef_step, job.relu)
            else:
                gradient_tile(g + i * g_step + w, g_step, x + i * x_step + w, x_step, bits, strip.bits_step,
                              y + i * y_step + w, y_step, r + i * r_step + w if r != NULL else r, r_step,
                              rows, width, coef, job.coef_step, job.gate, job.frozen)
            w += TILE
        i += SWEEP


# ---- units ------------------------------------------------------------------------------------------------------------

cdef void rows_reduce(Job* job, const real* kind, Py_ssize_t unit) noexcept nogil:
    if job.repeats > 1:
        reduce_wide(job, kind, unit)
    else:
        reduce_slab(job, kind, unit // job.slabs, unit % job.slabs)


cdef void rows_merge(Job* job, const real* kind, Py_ssize_t unit) noexcept nogil:
    merge_channels(job, <real*> job.coef, unit * TILE, least(unit * TILE + TILE, job.c))


cdef void rows_transform(Job* job, const real* kind, Py_ssize_t unit) noexcept nogil:
    cdef Py_ssize_t first = unit % job.slabs * job.slab
    transform_strip(job, kind, unit // job.slabs, first, first + job.slab)


cdef void rows_slab(Job* job, const real* kind, Py_ssize_t slab) noexcept nogil:
    cdef Py_ssize_t first = slab * job.slab
    cdef Py_ssize_t u = 0
    while u < job.units:
        rows_reduce(job, kind, u * job.slabs + slab)
        u += 1
    merge_channels(job, <real*> job.coef, least(first, job.c), least(first + job.slab, job.c))
    if job.y.p == NULL:
        return
    while u > 0:
        u -= 1
        transform_strip(job, kind, u, first, first + job.slab)

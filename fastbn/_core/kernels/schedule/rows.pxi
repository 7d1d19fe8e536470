# `rows`: (R, C), channels contiguous.
#
# a) Rows are cut into units, columns into slabs. A unit is reduced, and its results are kept for every channel; units
#    are merged in order, channel by channel. The rows of a unit depend only on the shape. The width of a slab may
#    depend on the cache, because the columns are independent.
# b) Channel counts that do not fill tiles (3, 24, 40) are read as wide rows of `repeats` rows each, in which channel c
#    has the columns c, c + C, c + 2 C ... Their sums are added before the unit is finished. The rows left over form a
#    last unit.
# c) If a slab of all rows fits the cache, it is reduced, merged and applied at once, last unit first. Otherwise one
#    phase each reduces, merges and applies.

cdef enum:
    UNIT_ELEMENTS = 262144
    MOST_ROWS = 1024        # of a unit
    LEAST_ROWS = 32
    PIVOT_ROWS = 16         # most rows in the sample of a pivot
    MOST_NARROW = 512       # most channels of a wide row: a slab holds two rows

cdef struct Strip:          # the rows of a unit
    Py_ssize_t row          # first row, of C elements
    Py_ssize_t rows         # wide rows
    Py_ssize_t repeats      # rows of C per wide row
    Py_ssize_t width        # of a wide row
    Py_ssize_t bits         # first word of the ReLU bits
    Py_ssize_t bits_step    # words of a wide row

cdef struct Panel:          # rows row .. row + rows of a strip, columns first .. first + width
    Py_ssize_t row
    Py_ssize_t rows
    Py_ssize_t first
    Py_ssize_t width


cdef Py_ssize_t repeats_of(Py_ssize_t r, Py_ssize_t c) noexcept nogil:
    # The fewest rows that fill whole tiles; fewer if they exceed a slab or leave a single wide row.
    cdef Py_ssize_t k = TILE
    while k > 1 and (c * (k // 2)) % TILE == 0:
        k //= 2
    while k > 1 and (r // k < 2 or c * k > SLAB):
        k //= 2
    return k


cdef void cut_rows(Job* job) noexcept nogil:
    # Narrow rows are contiguous (views.pyx), except for statistics of one row that is repeated.
    cdef Cut* cut = &job.cut
    cut.repeats = repeats_of(job.n, job.c) if job.x.step_n == job.c else 1
    cut.wide_rows = job.n // cut.repeats


cdef void plan_rows(Job* job, Py_ssize_t cache, int threads) noexcept nogil:
    cdef Py_ssize_t width, fit, even, itemsize = job.itemsize
    cdef Py_ssize_t arrays = arrays_of(job)
    cdef Py_ssize_t bytes = job.n * job.c * itemsize
    cdef Cut* cut = &job.cut
    cut_rows(job)
    width = job.c * cut.repeats
    job.coefs = Coefs(NULL, width, job.c, cut.repeats)
    cut.unit_rows = UNIT_ELEMENTS // width // LEAST_ROWS * LEAST_ROWS
    cut.unit_rows = least(MOST_ROWS, cut.unit_rows if cut.unit_rows > LEAST_ROWS else LEAST_ROWS)
    cut.units = units_of(job)
    fit = cache // (job.n * itemsize * arrays) // TILE * TILE
    even = parts(parts(width, TILE), threads) * TILE
    cut.group = 0
    cut.slab = least(width, SLAB)
    if cut.repeats > 1:
        cut.group = threads == 1 and bytes * arrays <= cache
    elif fit >= 4 * TILE or (fit >= TILE and fit >= even):
        cut.group = 1
        cut.slab = least(least(fit, even), SLAB)
    if job.geometry.channels > 1 and cut.slab < width:      # a slab may have parts of statistics
        cut.group = 0
    cut.slabs = parts(width, cut.slab)
    cut.merged = parts(TILE, job.geometry.channels) * job.geometry.channels
    # With a residual, four long rows exceed the associativity of the first-level cache.
    cut.four = width * itemsize > LONG_ROW and job.residual.p == NULL and job.dresidual.p == NULL


cdef inline Py_ssize_t units_of(const Job* job) noexcept nogil:
    return parts(job.cut.wide_rows, job.cut.unit_rows) + (1 if job.n % job.cut.repeats else 0)


cdef inline Strip strip_of(const Job* job, Py_ssize_t u) noexcept nogil:
    cdef Strip out
    cdef const Cut* cut = &job.cut
    cdef Py_ssize_t first = u * cut.unit_rows
    out.width = job.c * cut.repeats
    out.repeats = cut.repeats
    out.bits_step = parts(out.width, LANES)
    if first < cut.wide_rows:
        out.row = first * cut.repeats
        out.rows = least(cut.unit_rows, cut.wide_rows - first)
        out.bits = first * out.bits_step
    else:
        # The rows left over: one shorter wide row.
        out.row = cut.wide_rows * cut.repeats
        out.rows = 1
        out.bits = cut.wide_rows * out.bits_step
        out.repeats = job.n - out.row
        out.width = job.c * out.repeats
    return out


cdef inline Runs rows_at(
    const Job* job, const Array* a, Py_ssize_t row, Py_ssize_t first, Py_ssize_t repeats,
) noexcept nogil:
    # Wide rows from row `row` and column `first` on.
    return Runs(at(job, a, row, 0, first), a.step_n * repeats * job.itemsize)


cdef inline Columns slab_of(const Job* job, const Strip* strip, Py_ssize_t first, const real* kind) noexcept nogil:
    # A slab of a strip, from column `first` on.
    cdef Py_ssize_t row = strip.row if job.index == NULL else 0
    cdef Columns out
    out.type = job.type
    out.gate = job.gate if job.gradient else MOMENTS
    out.rows = strip.rows
    out.width = least(job.cut.slab, strip.width - first)
    out.index = job.index
    if job.index != NULL:
        out.index = job.index + strip.row
    out.x = rows_at(job, &job.x, row, first, strip.repeats)
    out.dy = rows_at(job, present(&job.dy, &job.x), row, first, strip.repeats)
    out.coefs = coefs_from(job.coefs, first, kind)
    out.bits = Words(<uint16_t*> out.x.p, strip.bits_step)      # if absent, not used
    if job.bits != NULL:
        out.bits.p = job.bits + strip.bits + first // LANES
    out.far = job.cut.far
    out.fetch = False           # set for the columns that are summed at once
    out.flush = FLUSH_EXACT if job.type == FLOAT64 and not job.gradient and not job.exact else FLUSH_ROWS
    return out


cdef inline void reduce_slab(const Job* job, Columns u, Scratch* scratch, const real* kind) noexcept nogil:
    # Both sums of all columns, into the scratch.
    if real is float and not (job.exact or job.values <= FEW):
        reduce_columns(u, Sums(&scratch.e[0], &scratch.q[0]), kind, <float> 0)
    else:
        reduce_columns(u, Sums(&scratch.e[0], &scratch.q[0]), kind, <double> 0)


cdef void reduce_moments(
    Job* job, Columns u, const Strip* strip,
    Py_ssize_t at_result,                                   # of the results of the first column
    Scratch* scratch, const real* kind,
) noexcept nogil:
    cdef real* pivot = <real*> scratch.pivot
    cdef Py_ssize_t samples = least(u.rows, PIVOT_ROWS), channels = least(u.width, job.c), w, c
    cdef double n = <double> u.rows * <double> strip.repeats
    cdef Moments moments
    sample_columns(&u, samples, scratch.e, kind)
    fold(scratch.e, u.width, job.c, strip.repeats)
    for c in range(channels):
        pivot[c] = pivot_of(job.whole, scratch.e[c] / (<double> samples * <double> strip.repeats), kind)
    for w in range(job.c, u.width):
        pivot[w] = pivot[w - job.c]
    u.coefs = Coefs(<char*> pivot, 0, 0, 1)     # as the row SUBTRACT, the only one that moments need
    reduce_slab(job, u, scratch, kind)
    fold(scratch.e, u.width, job.c, strip.repeats)
    fold(scratch.q, u.width, job.c, strip.repeats)
    center_columns(u, channels, strip.repeats, job.whole, scratch, kind)
    for c in range(channels):
        moments = moments_about(<double> pivot[c], n, scratch.e[c], scratch.q[c])
        job.partials.mean[at_result + c] = moments.mean
        job.partials.low[at_result + c] = moments.low
        job.partials.m2[at_result + c] = moments.m2


cdef void reduce_products(
    Job* job, Columns u, const Strip* strip, Py_ssize_t at_result, Scratch* scratch, const real* kind,
) noexcept nogil:
    cdef Py_ssize_t c
    reduce_slab(job, u, scratch, kind)
    fold(scratch.e, u.width, job.c, strip.repeats)
    fold(scratch.q, u.width, job.c, strip.repeats)
    for c in range(least(u.width, job.c)):
        job.partials.sum_dy[at_result + c] = scratch.e[c]
        job.partials.products[at_result + c] = scratch.q[c]


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


cdef void merge_moments(Job* job, Py_ssize_t k, int width) noexcept nogil:
    # merge() of moments.pxi over all units, for a tile of channels from k on. They have equal counts, so the loops
    # vectorize.
    cdef double[TILE] mean
    cdef double[TILE] low
    cdef double[TILE] m2
    cdef double[TILE] rest
    cdef double before = 0, n, delta, delta_rest
    cdef Py_ssize_t u, i = k
    cdef Pair pair
    cdef Strip strip
    cdef Moments moments
    cdef int j
    for u in range(job.cut.units):
        strip = strip_of(job, u)
        n = <double> strip.rows * <double> strip.repeats
        pair = pair_of(before, n)
        if u == 0:
            for j in range(width):
                mean[j] = job.partials.mean[i + j]
                low[j] = job.partials.low[i + j]
                m2[j] = job.partials.m2[i + j]
                rest[j] = 0
        else:
            for j in range(width):
                distance(mean[j], low[j], job.partials.mean[i + j], job.partials.low[i + j], &delta, &delta_rest)
                add_to_mean(&mean[j], &low[j], delta * pair.share + low[j])
                add_to_sum(&m2[j], &rest[j], job.partials.m2[i + j])
                add_between(&m2[j], &rest[j], delta, delta_rest, pair)
        before += n
        i += job.c
    for j in range(width):
        moments = Moments(before, mean[j], low[j], m2[j], rest[j])
        store_moments(job, k + j, &moments)


cdef void merge_products(Job* job, Py_ssize_t k, int width) noexcept nogil:
    # Adds the sums of all units.
    cdef double[TILE] sum_dy
    cdef double[TILE] products
    cdef Py_ssize_t u, i = k
    cdef int j
    for j in range(width):
        sum_dy[j] = job.partials.sum_dy[i + j]
        products[j] = job.partials.products[i + j]
    for u in range(1, job.cut.units):
        i += job.c
        for j in range(width):
            sum_dy[j] += job.partials.sum_dy[i + j]
            products[j] += job.partials.products[i + j]
    for j in range(width):
        store_sums(job, k + j, sum_dy[j], products[j])


cdef void merge_channels(Job* job, Py_ssize_t c0, Py_ssize_t stop, const real* kind) noexcept nogil:
    cdef Py_ssize_t c = c0
    while c < stop:
        if job.gradient:
            merge_products(job, c, <int> least(TILE, stop - c))
        else:
            merge_moments(job, c, <int> least(TILE, stop - c))
        c += TILE
    if job.applies:
        finish_channels(job, c0, stop, kind)


cdef void apply_to_rows(
    Job* job, const Strip* strip, Panel panel,
    Py_ssize_t at_row,                                      # where the panel begins in the arrays
    const real* kind,
) noexcept nogil:
    cdef ForwardRuns forward_arrays
    cdef GradientRuns gradient_arrays
    cdef Coefs coefs = coefs_from(job.coefs, panel.first, kind)
    cdef Py_ssize_t k = strip.repeats
    cdef Runs x = rows_at(job, &job.x, at_row, panel.first, k)
    cdef Words bits = Words(<uint16_t*> x.p, strip.bits_step)
    if job.upstream.p != NULL and not job.reduces:
        derive_rows(job, strip, panel, at_row, kind)
    if job.bits != NULL:
        bits.p = job.bits + strip.bits + panel.row * strip.bits_step + panel.first // LANES
    if job.gradient:
        gradient_arrays.runs = panel.rows
        gradient_arrays.length = panel.width
        gradient_arrays.dy = rows_at(job, &job.dy, at_row, panel.first, k)
        gradient_arrays.x = x
        gradient_arrays.bits = bits
        gradient_arrays.dx = rows_at(job, &job.dx, at_row, panel.first, k)
        gradient_arrays.dresidual = rows_at(job, present(&job.dresidual, &job.dx), at_row, panel.first, k)
        gradient(True, mode_of(job), gradient_arrays, coefs, kind)
    else:
        forward_arrays.runs = panel.rows
        forward_arrays.length = panel.width
        forward_arrays.x = x
        forward_arrays.residual = rows_at(job, present(&job.residual, &job.x), at_row, panel.first, k)
        forward_arrays.y = rows_at(job, &job.y, at_row, panel.first, k)
        forward_arrays.bits = bits
        forward_runs(True, job, forward_arrays, coefs, kind)


cdef void clear_rows(const Job* job, const Array* a, Panel panel) noexcept nogil:
    # Zeros an array there, if it is present.
    cdef Py_ssize_t i
    if a.p == NULL or panel.rows == 0:
        return
    if panel.width == a.step_n:
        memset(at(job, a, panel.row, 0, panel.first), 0, panel.rows * panel.width * job.itemsize)
    else:
        for i in range(panel.row, panel.row + panel.rows):
            memset(at(job, a, i, 0, panel.first), 0, panel.width * job.itemsize)


cdef void clear_others(const Job* job, Panel panel) noexcept nogil:
    # Zeros all results there.
    if job.fill:
        clear_rows(job, &job.y, panel)
        clear_rows(job, &job.dx, panel)
    clear_rows(job, &job.dresidual, panel)


cdef inline Py_ssize_t adjacent_rows(const Job* job, const Strip* strip, Py_ssize_t row) noexcept nogil:
    # With an index: how many rows of a strip, from `row` on, follow each other in the arrays.
    cdef const Py_ssize_t* index = job.index + strip.row
    cdef Py_ssize_t rows = 1
    while row + rows < strip.rows and index[row + rows] == index[row] + rows:
        rows += 1
    return rows


cdef void apply_strip(Job* job, Py_ssize_t u, Py_ssize_t first, Py_ssize_t stop, const real* kind) noexcept nogil:
    # The elementwise pass over the columns first..stop of a unit. With an index it goes over every run of consecutive
    # rows, after it has cleared the rows before it.
    cdef Strip strip = strip_of(job, u)
    cdef Py_ssize_t width = least(stop, strip.width) - first, row = 0, rows, done
    cdef const Py_ssize_t* index
    if job.index == NULL:
        apply_to_rows(job, &strip, Panel(0, strip.rows, first, width), strip.row, kind)
    else:
        index = job.index + strip.row
        done = job.index[strip.row - 1] + 1 if strip.row else 0
        while row < strip.rows:
            rows = adjacent_rows(job, &strip, row)
            clear_others(job, Panel(done, index[row] - done, first, width))
            apply_to_rows(job, &strip, Panel(row, rows, first, width), index[row], kind)
            done = index[row] + rows
            row += rows
        if strip.row + strip.rows == job.n:
            clear_others(job, Panel(done, job.rows - done, first, width))
    if job.cut.stream:
        fastbn_fence()


# ---- units ---------------------------------------------------------------------------------------------------------

cdef void rows_reduce(Job* job, Py_ssize_t unit, int thread, const real* kind) noexcept nogil:
    cdef Py_ssize_t u = unit // job.cut.slabs
    cdef Py_ssize_t first = unit % job.cut.slabs * job.cut.slab
    cdef Py_ssize_t at_result = u * job.c + first
    cdef Strip strip = strip_of(job, u)
    cdef Columns columns = slab_of(job, &strip, first, kind)
    cdef Scratch* scratch = <Scratch*> job.scratch + thread
    if job.upstream.p != NULL:
        derive_strip(job, &strip, first, kind)
    if job.gradient:
        reduce_products(job, columns, &strip, at_result, scratch, kind)
    else:
        reduce_moments(job, columns, &strip, at_result, scratch, kind)


cdef void rows_merge(Job* job, Py_ssize_t unit, const real* kind) noexcept nogil:
    merge_channels(job, unit * job.cut.merged, least((unit + 1) * job.cut.merged, job.c), kind)


cdef void rows_apply(Job* job, Py_ssize_t unit, const real* kind) noexcept nogil:
    cdef Py_ssize_t first = unit % job.cut.slabs * job.cut.slab
    apply_strip(job, unit // job.cut.slabs, first, first + job.cut.slab, kind)


cdef void rows_slab(Job* job, Py_ssize_t slab, int thread, const real* kind) noexcept nogil:
    cdef Py_ssize_t first = slab * job.cut.slab, c0 = least(first, job.c), c1 = least(first + job.cut.slab, job.c)
    cdef Py_ssize_t u = 0
    if job.gradient:
        prepare_channels(job, c0, c1, kind)
    while u < job.cut.units and not stopped(job):
        rows_reduce(job, u * job.cut.slabs + slab, thread, kind)
        u += 1
    merge_channels(job, c0, c1, kind)
    if not job.applies:
        return
    while u > 0 and not stopped(job):
        u -= 1
        apply_strip(job, u, first, first + job.cut.slab, kind)

# Reductions of layer norm and RMS norm: a row is a span of one run (planes.pxi).
#
# a) The moments are taken as in span_moments(), with fewer samples for a pivot, and finished side by side for the rows
#    of a group. A row longer than SPAN is several spans, merged in order.
# b) A backward needs the sums of v = gamma * dy and of v * (x - m) of every row. Lanes and flushes are those of
#    add_span(), and products_held() judges the sums.
# c) The same reading adds dgamma and dbeta, sums of dy * xhat and of dy over columns: in `real` over the rows of a
#    group, in local arrays, so that the compiler sees that x is none of them, and then in double. A sum of `real` that
#    is not finite is added again in double, before dx may overwrite dy.

cdef enum:
    ROW_PIECES = 4      # most pieces of LANES elements in the sample of a pivot
    COLUMNS = 1024      # that are added side by side
    COLUMNS_STEP = COLUMNS + PADDING


cdef inline Span row_span(const Job* job, RowGroup rows, Py_ssize_t i) noexcept nogil:
    # The elements i .. i + SPAN of some rows, as channels of one run.
    cdef Span out
    out.type = job.type
    out.whole = False
    out.itemsize = job.itemsize
    out.x = Array(at(job, &job.x, rows.first, 0, i), 0, job.x.step_n)
    out.dy = out.x                          # not used; nor the bits
    if job.gradient:
        out.dy = Array(at(job, &job.dy, rows.first, 0, i), 0, job.dy.step_n)
    out.bits = <const uint16_t*> out.x.p
    out.bits_step_n = 0
    out.bits_step_c = 0
    out.channels = rows.count
    out.runs = 1
    out.length = least(SPAN, job.c - i)
    return out


cdef inline int pieces_width(int k, int pieces, int last) noexcept nogil:
    # Of piece k.
    return LANES if k + 1 < pieces else (last if k + 1 == pieces else 0)


cdef inline void add_distances(
    int type, const char* x, int pieces, int last, const real* m,
    lane* sums,                                         # OUT (2, LANES), added to
) noexcept nogil:
    # Some pieces of LANES elements, the last one of `last`.
    cdef float room[4 * LANES]
    cdef const real* u[4]
    cdef int words[4]
    cdef int k
    for k in range(4):
        words[k] = 0
        u[k] = load_block(type, False, x + k * LANES * size_of(type), pieces_width(k, pieces, last), room + k * LANES,
                          m)
    add_lanes(reduction(type, MOMENTS), u, u, words, pieces, last, m, sums)


cdef inline void add_row(
    int type, const char* x, Py_ssize_t length, const real* m,
    Totals* out,                                        # OUT: sums of x - m and of its square
    lane of,
) noexcept nogil:
    cdef lane sums[2 * LANES]
    cdef Py_ssize_t i = 0, left
    cdef int j, held = 0
    out[0] = Totals(0, 0, 0, 0)
    for j in range(2 * LANES):
        sums[j] = 0
    while i + 4 * LANES <= length:
        add_distances(type, x, 4, LANES, m, sums)
        x += 4 * LANES * size_of(type)
        i += 4 * LANES
        held += 1
        if held >= FLUSH_PLANES:
            flush_both(sums, out)
            held = 0
    left = length - i
    if left > 3 * LANES:
        add_distances(type, x, 4, <int> (left - 3 * LANES), m, sums)
    elif left > 2 * LANES:
        add_distances(type, x, 3, <int> (left - 2 * LANES), m, sums)
    elif left > LANES:
        add_distances(type, x, 2, <int> (left - LANES), m, sums)
    elif left:
        add_distances(type, x, 1, <int> left, m, sums)
    if left or held:
        flush_both(sums, out)


cdef inline void add_rows_of(
    int type, const Job* job, RowGroup rows, Py_ssize_t i, Py_ssize_t length,
    real* pivot,                                        # OUT (count,)
    Totals* out,                                        # OUT (count,)
    lane of,
) noexcept nogil:
    cdef Span span = row_span(job, rows, i)
    cdef int k, width = <int> least(LANES, length)
    cdef Py_ssize_t samples = least(ROW_PIECES, parts(length, PIVOT_SHARE))
    cdef double weight = 1.0 / (<double> samples * <double> width)
    span.type = type
    for k in range(rows.count):
        pivot[k] = pivot_of(False, sample_mean(channel_of(span, k), samples, width, weight, pivot, of), pivot)
    for k in range(rows.count):
        add_row(type, at(job, &job.x, rows.first + k, 0, i), length, pivot + k, out + k, of)


cdef inline void row_sums(
    const Job* job, RowGroup rows, Py_ssize_t i, Py_ssize_t length, real* pivot, Totals* out, lane of,
) noexcept nogil:
    # add_rows_of() with literals.
    if real is double:
        add_rows_of(FLOAT64, job, rows, i, length, pivot, out, of)
    elif job.type == FLOAT32:
        add_rows_of(FLOAT32, job, rows, i, length, pivot, out, of)
    elif job.type == FLOAT16:
        add_rows_of(FLOAT16, job, rows, i, length, pivot, out, of)
    else:
        add_rows_of(BFLOAT16, job, rows, i, length, pivot, out, of)


cdef void span_of_rows(
    const Job* job, RowGroup rows, Py_ssize_t i,        # from column i on
    RowStatistics* out,                                 # OUT mean, low and m2
    const real* kind, lane of,
) noexcept nogil:
    # moments_about() of the rows side by side.
    cdef real pivot[ROWS_ABREAST]
    cdef Totals sums[ROWS_ABREAST]
    cdef double e[ROWS_ABREAST]
    cdef double q[ROWS_ABREAST]
    cdef Py_ssize_t length = least(SPAN, job.c - i)
    cdef double n = length, share, m2
    cdef Moments again
    cdef int k, held = 1
    row_sums(job, rows, i, length, pivot, sums, of)
    for k in range(rows.count):
        e[k] = whole_sum(sums[k].v, sums[k].v_rest)
        q[k] = whole_sum(sums[k].vd, sums[k].vd_rest)
    for k in range(rows.count):
        share = e[k] / n
        m2 = q[k] - e[k] * share
        out.mean[k] = pivot[k]
        add_to_mean(&out.mean[k], &out.low[k], share)
        out.m2[k] = 0.0 if m2 < 0.0 else m2
        held &= squares_held(n, e[k], q[k], of)
    if held:
        return
    for k in range(rows.count):
        if not squares_held(n, e[k], q[k], of):
            span_moments(channel_of(row_span(job, rows, i), k), &again, kind, <double> 0)
            out.mean[k] = again.mean
            out.low[k] = again.low
            out.m2[k] = again.m2


cdef inline void merge_rows(RowStatistics* a, const RowStatistics* b, Py_ssize_t before, int count) noexcept nogil:
    # A span of rows with the `before` columns in front of it.
    cdef Moments moments
    cdef int k
    for k in range(count):
        moments = Moments(before, a.mean[k], a.low[k], a.m2[k], a.rest[k])
        merge(&moments, Moments(b.n, b.mean[k], b.low[k], b.m2[k], 0))
        a.mean[k] = moments.mean
        a.low[k] = moments.low
        a.m2[k] = moments.m2
        a.rest[k] = moments.rest


cdef void row_moments(
    const Job* job, RowGroup rows,
    RowStatistics* out,                                 # OUT mean, low and m2
    const real* kind,
) noexcept nogil:
    cdef RowStatistics part
    cdef RowStatistics* to = out
    cdef Py_ssize_t i = 0
    cdef int k
    for k in range(rows.count):
        out.rest[k] = 0
    while i < job.c:
        to.n = least(SPAN, job.c - i)
        if real is float and job.c > FEW:
            span_of_rows(job, rows, i, to, kind, <float> 0)
        else:
            span_of_rows(job, rows, i, to, kind, <double> 0)
        if i:
            merge_rows(out, &part, i, rows.count)
        to = &part
        i += SPAN
    for k in range(rows.count):
        if job.from_zero:       # the sum of squares about zero
            add_between(&out.m2[k], &out.rest[k], out.mean[k], out.low[k], Pair(job.values, 0, job.values, 0))
            out.mean[k] = 0
            out.low[k] = 0
        out.m2[k] = whole_sum(out.m2[k], out.rest[k])


cdef inline void gained_term(
    LayerMode mode, const real* dy, const real* x, const real* gamma, const real* row, int j, bint there,
    real* columns, lane* v, lane* d,                    # OUT v and x - m; 0 if element j is not there
) noexcept nogil:
    cdef real left, xhat
    v[0] = 0
    d[0] = 0
    if there:
        d[0] = <lane> x[j] - <lane> row[ROW_M]
        v[0] = dy[j] * gamma[j] if mode.gain else dy[j]
        if mode.gain:
            left = x[j] - row[ROW_M]
            xhat = x[j] * row[ROW_R] if mode.from_zero else left * row[ROW_R] + row[ROW_S]
            columns[j] = columns[j] + dy[j] * xhat
            columns[COLUMNS_STEP + j] = columns[COLUMNS_STEP + j] + dy[j]


cdef inline void add_gained(
    LayerMode mode, const char* dy, const char* x, const real* gamma, int pieces, int last,
    const real* row,                                    # IN  (ROW_COEFS,)
    real* columns,                                      # OUT (2, COLUMNS_STEP): of dgamma and dbeta, added to
    lane* sums,                                         # OUT (2, LANES), added to
) noexcept nogil:
    # Some pieces of LANES elements, the last one of `last`; in the order of add_lanes().
    cdef float x_room[4 * LANES]
    cdef float dy_room[4 * LANES]
    cdef const real* w[4]
    cdef const real* u[4]
    cdef lane v0, v1, v2, v3, d0, d1, d2, d3
    cdef Py_ssize_t size = size_of(mode.type)
    cdef int k, j
    for k in range(4):
        w[k] = load_block(mode.type, False, dy + k * LANES * size, pieces_width(k, pieces, last), dy_room + k * LANES,
                          row)
        u[k] = load_block(mode.type, False, x + k * LANES * size, pieces_width(k, pieces, last), x_room + k * LANES,
                          row)
    for j in range(LANES):
        gained_term(mode, w[0], u[0], gamma, row, j, j < pieces_width(0, pieces, last), columns, &v0, &d0)
        gained_term(mode, w[1], u[1], gamma + LANES, row, j, j < pieces_width(1, pieces, last), columns + LANES, &v1,
                    &d1)
        gained_term(mode, w[2], u[2], gamma + 2 * LANES, row, j, j < pieces_width(2, pieces, last),
                    columns + 2 * LANES, &v2, &d2)
        gained_term(mode, w[3], u[3], gamma + 3 * LANES, row, j, j < pieces_width(3, pieces, last),
                    columns + 3 * LANES, &v3, &d3)
        sums[j] += (v0 + v1) + (v2 + v3)
        sums[LANES + j] += (v0 * d0 + v1 * d1) + (v2 * d2 + v3 * d3)


cdef inline void add_gained_row(
    LayerMode mode, const char* dy, const char* x, const real* gamma, Py_ssize_t length,
    const real* row,                                    # IN  (ROW_COEFS,)
    real* columns,                                      # OUT (2, COLUMNS_STEP), added to
    Totals* out,                                        # OUT added to
    lane of,
) noexcept nogil:
    cdef lane sums[2 * LANES]
    cdef Py_ssize_t i = 0, size = size_of(mode.type), left
    cdef int j, held = 0
    for j in range(2 * LANES):
        sums[j] = 0
    while i + 4 * LANES <= length:
        if mode.fetch:
            prefetch_far(x + (i + COLUMNS) * size, 4 * LANES * size_of(mode.type))
            prefetch_far(dy + (i + COLUMNS) * size, 4 * LANES * size_of(mode.type))
        add_gained(mode, dy + i * size, x + i * size, gamma + i, 4, LANES, row, columns + i, sums)
        i += 4 * LANES
        held += 1
        if held >= FLUSH_PLANES:
            flush_both(sums, out)
            held = 0
    dy += i * size
    x += i * size
    gamma += i
    columns += i
    left = length - i
    if left > 3 * LANES:
        add_gained(mode, dy, x, gamma, 4, <int> (left - 3 * LANES), row, columns, sums)
    elif left > 2 * LANES:
        add_gained(mode, dy, x, gamma, 3, <int> (left - 2 * LANES), row, columns, sums)
    elif left > LANES:
        add_gained(mode, dy, x, gamma, 2, <int> (left - LANES), row, columns, sums)
    elif left:
        add_gained(mode, dy, x, gamma, 1, <int> left, row, columns, sums)
    if left or held:
        flush_both(sums, out)


cdef void add_columns_again(
    const Job* job, RowGroup rows, const RowStatistics* statistics, Py_ssize_t column,
    double* total, Py_ssize_t step,                     # OUT (2, 1), added to
    const real* kind,
) noexcept nogil:
    # The terms of dgamma and dbeta of a column in double, because a sum of `real` overflowed.
    cdef float room[2]
    cdef Py_ssize_t i, of
    cdef double dy, x
    for i in range(rows.count):
        dy = load_runs(job.type, Runs(at(job, &job.dy, rows.first + i, 0, column), 0), 1, 1, room, &of, kind)[0]
        x = load_runs(job.type, Runs(at(job, &job.x, rows.first + i, 0, column), 0), 1, 1, room, &of, kind)[0]
        total[0] += dy * (((x - statistics.mean[i]) - statistics.low[i]) * statistics.rstd[i])
        total[step] += dy


cdef inline void gained_columns(
    LayerMode mode, const Job* job, RowGroup rows, const RowStatistics* statistics, Py_ssize_t first,
    const real* coefs,                                  # IN  (ROW_COEFS, ROWS_ABREAST)
    Totals* out,                                        # OUT (count,), added to
    double* total,                                      # OUT (2, columns) of dgamma and dbeta, added to, or NULL
    lane of,
) noexcept nogil:
    # The columns first .. first + COLUMNS of some rows.
    cdef real columns[2 * COLUMNS_STEP]
    cdef real row[ROW_COEFS]
    cdef const real* gamma = coef_row(job.coefs, GAMMA, coefs) + first
    cdef Py_ssize_t width = least(COLUMNS, job.c - first), step = job.coefs.step, c, i
    cdef int k, bad = 0
    if mode.gain:
        for c in range(width):
            columns[c] = 0
            columns[COLUMNS_STEP + c] = 0
    for i in range(rows.count):
        for k in range(ROW_COEFS):
            row[k] = coefs[k * ROWS_ABREAST + i]
        add_gained_row(mode, at(job, &job.dy, rows.first + i, 0, first), at(job, &job.x, rows.first + i, 0, first),
                       gamma, width, <const real*> row, columns, out + i, of)
    if not mode.gain or total == NULL:
        return
    for c in range(width):
        bad |= columns[c] - columns[c] != 0
        bad |= columns[COLUMNS_STEP + c] - columns[COLUMNS_STEP + c] != 0
    if not bad:
        for c in range(width):
            total[first + c] += columns[c]
            total[step + first + c] += columns[COLUMNS_STEP + c]
        return
    for c in range(width):
        if finite(columns[c]) and finite(columns[COLUMNS_STEP + c]):
            total[first + c] += columns[c]
            total[step + first + c] += columns[COLUMNS_STEP + c]
        else:
            add_columns_again(job, rows, statistics, first + c, total + first + c, step, coefs)


cdef inline void gained_with(
    int type, const Job* job, RowGroup rows, const RowStatistics* statistics, const real* coefs, Totals* out,
    double* total, lane of,
) noexcept nogil:
    # gained_columns() with literals, over all columns.
    cdef Py_ssize_t first = 0
    cdef bint gain = job.gamma != NULL, fetch = job.cut.fetch
    while first < job.c:
        if gain and job.from_zero:
            gained_columns(LayerMode(type, True, True, False, False, fetch), job, rows, statistics, first, coefs, out,
                           total, of)
        elif gain:
            gained_columns(LayerMode(type, False, True, False, False, fetch), job, rows, statistics, first, coefs, out,
                           total, of)
        else:
            gained_columns(LayerMode(type, False, False, False, False, fetch), job, rows, statistics, first, coefs, out,
                           total, of)
        first += COLUMNS


cdef void row_products(
    const Job* job, RowGroup rows, const RowStatistics* statistics,
    const real* coefs,                                  # IN  (ROW_COEFS, ROWS_ABREAST)
    double* out,                                        # OUT (count, 2)
    double* total,                                      # OUT (2, columns) of dgamma and dbeta, added to, or NULL
    lane of,
) noexcept nogil:
    cdef Totals totals[ROWS_ABREAST]
    cdef int k
    memset(totals, 0, rows.count * sizeof(Totals))
    if real is double:
        gained_with(FLOAT64, job, rows, statistics, coefs, totals, total, of)
    elif job.type == FLOAT32:
        gained_with(FLOAT32, job, rows, statistics, coefs, totals, total, of)
    elif job.type == FLOAT16:
        gained_with(FLOAT16, job, rows, statistics, coefs, totals, total, of)
    else:
        gained_with(BFLOAT16, job, rows, statistics, coefs, totals, total, of)
    for k in range(rows.count):
        out[2 * k] = whole_sum(totals[k].v, totals[k].v_rest)
        out[2 * k + 1] = whole_sum(totals[k].vd, totals[k].vd_rest)
        if lane is float:
            if not products_held(job.values, out[2 * k], out[2 * k + 1]):
                row_products(job, RowGroup(rows.first + k, 1), statistics, coefs + k, out + 2 * k, NULL, <double> 0)

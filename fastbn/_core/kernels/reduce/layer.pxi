# Reductions of layer norm and RMS norm: a row is a span of one run (planes.pxi).
#
# a) The moments are those of span_moments(); a row longer than SPAN is several spans, merged in order.
# b) A backward needs the sums of v = gamma * dy and of v * (x - m) of every row. Lanes and flushes are those of
#    add_span(), and products_held() judges the sums.

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


cdef void row_moments(
    const Job* job, RowGroup rows,
    Moments* out,                                       # OUT (count,)
    const real* kind,
) noexcept nogil:
    cdef Moments part[ROWS_ABREAST]
    cdef Moments* to = out
    cdef Py_ssize_t i = 0
    cdef int k
    while i < job.c:
        if real is float and job.c > FEW:
            span_moments(row_span(job, rows, i), to, kind, <float> 0)
        else:
            span_moments(row_span(job, rows, i), to, kind, <double> 0)
        if i:
            for k in range(rows.count):
                merge(out + k, part[k])
        to = part
        i += SPAN
    for k in range(rows.count):
        out[k] = from_zero(out[k]) if job.from_zero else Moments(
            out[k].n, out[k].mean, out[k].low, whole_sum(out[k].m2, out[k].rest), 0)


cdef inline void add_gained(
    LayerMode mode, const char* dy, const char* x, const real* gamma, int pieces, int last,
    const real* m,                                      # IN  (1,)
    lane* sums,                                         # OUT (2, LANES), added to
) noexcept nogil:
    # Some pieces of LANES elements, the last one of `last`.
    cdef real v[4 * LANES]
    cdef float x_room[4 * LANES]
    cdef float dy_room[LANES]
    cdef const real* v_at[4]
    cdef const real* x_at[4]
    cdef int words[4]
    cdef const real* w
    cdef Py_ssize_t size = size_of(mode.type)
    cdef int k, j, width
    for k in range(pieces):
        width = LANES if k + 1 < pieces else last
        words[k] = 0
        x_at[k] = load_block(mode.type, False, x + k * LANES * size, width, x_room + k * LANES, m)
        w = load_block(mode.type, False, dy + k * LANES * size, width, dy_room, m)
        for j in range(LANES):
            if j < width:
                v[k * LANES + j] = w[j] * gamma[k * LANES + j] if mode.gain else w[j]
        v_at[k] = v + k * LANES
    add_lanes(reduction(mode.type, OPEN), v_at, x_at, words, pieces, last, m, sums)


cdef inline void add_gained_row(
    LayerMode mode, Span s,                             # of one row
    const real* gamma, const real* m,
    double* out,                                        # OUT (2,)
    lane of,
) noexcept nogil:
    cdef lane sums[2 * LANES]
    cdef double total[2]
    cdef double rest[2]
    cdef Py_ssize_t i = 0, size = size_of(mode.type), left
    cdef const char* x
    cdef const char* dy
    cdef int j, held = 0
    for j in range(2 * LANES):
        sums[j] = 0
    for j in range(2):
        total[j] = 0
        rest[j] = 0
    while i < s.length:
        x = s.x.p + i * size
        dy = s.dy.p + i * size
        left = s.length - i
        if left >= 4 * LANES:
            prefetch(x + AHEAD, 4 * LANES * size_of(mode.type))
            prefetch(dy + AHEAD, 4 * LANES * size_of(mode.type))
            add_gained(mode, dy, x, gamma + i, 4, LANES, m, sums)
        elif left > 3 * LANES:
            add_gained(mode, dy, x, gamma + i, 4, <int> (left - 3 * LANES), m, sums)
        elif left > 2 * LANES:
            add_gained(mode, dy, x, gamma + i, 3, <int> (left - 2 * LANES), m, sums)
        elif left > LANES:
            add_gained(mode, dy, x, gamma + i, 2, <int> (left - LANES), m, sums)
        else:
            add_gained(mode, dy, x, gamma + i, 1, <int> left, m, sums)
        i += 4 * LANES
        held += 1
        if held >= FLUSH_PLANES or i >= s.length:
            flush(sums, &total[0], &rest[0])
            flush(sums + LANES, &total[1], &rest[1])
            held = 0
    out[0] = whole_sum(total[0], rest[0])
    out[1] = whole_sum(total[1], rest[1])


cdef inline void gained_row(
    int type, bint gain, Span s, const real* gamma, const real* m, double* out, lane of,
) noexcept nogil:
    # add_gained_row() with literals.
    if gain:
        add_gained_row(LayerMode(type, False, True, False, False), s, gamma, m, out, of)
    else:
        add_gained_row(LayerMode(type, False, False, False, False), s, gamma, m, out, of)


cdef void row_products(
    const Job* job, RowGroup rows,
    const real* coefs,                                  # IN  (ROW_COEFS, ROWS_ABREAST)
    double* out,                                        # OUT (count, 2)
    lane of,
) noexcept nogil:
    cdef Span span = row_span(job, rows, 0)
    cdef const real* gamma = coef_row(job.coefs, GAMMA, coefs)
    cdef const real* m = coefs + ROW_M * ROWS_ABREAST
    cdef bint gain = job.gamma != NULL
    cdef Span one
    cdef int k
    span.length = job.c
    for k in range(rows.count):
        one = channel_of(span, k)
        if real is double:
            gained_row(FLOAT64, gain, one, gamma, m + k, out + 2 * k, of)
        elif job.type == FLOAT32:
            gained_row(FLOAT32, gain, one, gamma, m + k, out + 2 * k, of)
        elif job.type == FLOAT16:
            gained_row(FLOAT16, gain, one, gamma, m + k, out + 2 * k, of)
        else:
            gained_row(BFLOAT16, gain, one, gamma, m + k, out + 2 * k, of)
    if lane is float:
        for k in range(rows.count):
            if not products_held(job.values, out[2 * k], out[2 * k + 1]):
                row_products(job, RowGroup(rows.first + k, 1), coefs + k, out + 2 * k, <double> 0)

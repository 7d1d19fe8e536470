# Reductions over one span of `planes`: `runs` runs of `length` contiguous elements of one channel.
#
# a) Two sums in one reading: of v and of v * (x - m). In a backward v is dy; in a forward it is x - m (MOMENTS).
# b) Every running sum has LANES lanes. Four pieces of LANES elements, one behind the other, are added to each other
#    before they are added to the lanes. After FLUSH_PLANES additions the lanes go to double: no float sum is long.
# c) The rest of a run goes through the same lanes under a condition, which becomes a vector mask.
# d) The runs of some channels are read image by image, in the order in which they lie in memory: channel by channel
#    takes up to 2.4 times as long. The lanes of a channel wait in memory between its runs. A run is prefetched AHEAD of
#    the sums.
# e) Moments are taken about a pivot, the mean of a sample that is spread over the span. If squares_held() finds that
#    the pivot costs more than one bit, or that float lanes overflowed or underflowed, the span is summed again in
#    double, and at last about the mean found so far.

cdef enum:
    PIVOT_PIECES = 16   # most pieces of LANES elements in the sample of a pivot; more if they are shorter
    PIVOT_SHARE = 64    # elements per piece of the sample
    ABREAST = 64        # channels that are read image by image


cdef struct Span:           # (channels, runs, length): one span of some channels
    int type
    bint whole
    Py_ssize_t itemsize
    Array x                 # step_n from run to run
    Array dy
    const uint16_t* bits    # (runs, channels, parts(length, LANES))
    Py_ssize_t bits_step_n
    Py_ssize_t bits_step_c
    int channels
    Py_ssize_t runs
    Py_ssize_t length


cdef inline Mode reduction(int type, int gate) noexcept nogil:
    # The mode of a reduction.
    return Mode(type=type, spread=False, residual=False, relu=False, keep=False, gate=gate, frozen=False, stream=False,
                four=False, weighted=False)


cdef inline lane term(
    Mode mode, const real* dy, real x, int word, int j,
    const real* coef, Py_ssize_t step,                  # IN  rows SUBTRACT, SCALE and SHIFT
    lane d,                                             # x - m, rounded to a lane
) noexcept nogil:
    # v of element j.
    cdef real v
    if mode.gate == MOMENTS:
        return d
    v = dy[j]
    if mode.gate == REPLAY:
        v = opened(v, x - coef[SUBTRACT * step], coef[SCALE * step], coef[SHIFT * step])
    elif mode.gate == BITS:
        v = opened_bit(v, word, j)
    return v


cdef inline void term_below(
    Mode mode, const real* dy, const real* x, int word, int j, int width, const real* coef,
    lane* v, lane* d,                                   # OUT zero from `width` on
) noexcept nogil:
    d[0] = 0
    v[0] = 0
    if j < width:
        d[0] = <lane> x[j] - <lane> coef[SUBTRACT]
        v[0] = term(mode, dy, x[j], word, j, coef, 1, d[0])


cdef inline void add_lanes(
    Mode mode, const real** dy, const real** x, const int* words,
    int pieces, int last,                               # of (pieces, LANES) elements; the last piece has `last`
    const real* coef,
    lane* sums,                                         # OUT (2, LANES), added to
) noexcept nogil:
    cdef lane* s1 = sums
    cdef lane* s2 = sums + LANES
    cdef lane d0, d1, d2, d3, v0, v1, v2, v3
    cdef int j
    for j in range(LANES):
        term_below(mode, dy[0], x[0], words[0], j, last if pieces == 1 else LANES, coef, &v0, &d0)
        if pieces == 1:
            s1[j] += v0
            s2[j] += v0 * d0
        else:
            term_below(mode, dy[1], x[1], words[1], j, last if pieces == 2 else LANES, coef, &v1, &d1)
            if pieces == 2:
                s1[j] += v0 + v1
                s2[j] += v0 * d0 + v1 * d1
            else:
                term_below(mode, dy[2], x[2], words[2], j, last if pieces == 3 else LANES, coef, &v2, &d2)
                if pieces == 3:
                    s1[j] += (v0 + v1) + v2
                    s2[j] += (v0 * d0 + v1 * d1) + v2 * d2
                else:
                    term_below(mode, dy[3], x[3], words[3], j, last, coef, &v3, &d3)
                    s1[j] += (v0 + v1) + (v2 + v3)
                    s2[j] += (v0 * d0 + v1 * d1) + (v2 * d2 + v3 * d3)


cdef inline void add_pieces(
    Mode mode, const Span* s, Py_ssize_t first, int pieces, int last,           # of a run, from element `first` on
    const real* coef, lane* sums,
) noexcept nogil:
    cdef float x_room[4 * LANES]
    cdef float dy_room[4 * LANES]
    cdef const real* x[4]
    cdef const real* dy[4]
    cdef int words[4]
    cdef Py_ssize_t i = first * size_of(mode.type)
    cdef int k, width
    for k in range(pieces):
        width = LANES if k + 1 < pieces else last
        x[k] = load_block(mode.type, False, s.x.p + i, width, x_room + k * LANES, coef)
        dy[k] = x[k]
        words[k] = 0
        if mode.gate != MOMENTS:
            dy[k] = load_block(mode.type, False, s.dy.p + i, width, dy_room + k * LANES, coef)
        if mode.gate == BITS:
            words[k] = s.bits[first // LANES + k]
        i += LANES * size_of(mode.type)
    add_lanes(mode, dy, x, words, pieces, last, coef, sums)


cdef inline Span channel_of(Span s, int c) noexcept nogil:
    # One channel of it.
    s.x.p += c * s.x.step_c * s.itemsize
    s.dy.p += c * s.dy.step_c * s.itemsize
    s.bits += c * s.bits_step_c
    s.channels = 1
    return s


cdef inline const char* ahead_of(const char* run, Py_ssize_t i, Py_ssize_t bytes, Py_ssize_t step) noexcept nogil:
    # AHEAD of byte i of a run; past its end the next run follows, `step` further.
    i += AHEAD
    return run + (i if i < bytes else i - bytes + step)


cdef inline int add_run(
    Mode mode, const Span* s,                           # of one channel: its first run
    Py_ssize_t x_step, Py_ssize_t dy_step,              # to what is read next, in bytes
    const real* coef,                                   # IN  (FORWARD_COEFS,)
    int held,                                           # additions that the lanes hold; 0 if they are empty
    bint last,                                          # no run follows: the lanes go to double
    lane* lanes,                                        # OUT (2, LANES), added to
    Totals* t,                                          # OUT added to
) noexcept nogil:
    # Returns `held` of the next run.
    cdef lane sums[2 * LANES]
    cdef Py_ssize_t size = size_of(mode.type), bytes = s.length * size, i = 0
    cdef int j, rest
    if held:
        for j in range(2 * LANES):
            sums[j] = lanes[j]
    else:
        for j in range(2 * LANES):
            sums[j] = 0
    while i + 4 * LANES <= s.length:
        prefetch(ahead_of(s.x.p, i * size, bytes, x_step), 4 * LANES * size_of(mode.type))
        if mode.gate != MOMENTS:
            prefetch(ahead_of(s.dy.p, i * size, bytes, dy_step), 4 * LANES * size_of(mode.type))
        add_pieces(mode, s, i, 4, LANES, coef, sums)
        i += 4 * LANES
        held += 1
        if held >= FLUSH_PLANES:
            flush_both(sums, t)
            held = 0
    rest = <int> (s.length - i)
    if rest > 3 * LANES:
        add_pieces(mode, s, i, 4, rest - 3 * LANES, coef, sums)
    elif rest > 2 * LANES:
        add_pieces(mode, s, i, 3, rest - 2 * LANES, coef, sums)
    elif rest > LANES:
        add_pieces(mode, s, i, 2, rest - LANES, coef, sums)
    elif rest:
        add_pieces(mode, s, i, 1, rest, coef, sums)
    held += 1
    if held >= FLUSH_PLANES or last:
        flush_both(sums, t)
        return 0
    for j in range(2 * LANES):
        lanes[j] = sums[j]
    return held


cdef inline void add_span(
    Mode mode, Span s, Coefs coefs,
    double* out,                                        # OUT (channels, 2)
    const real* kind, lane of,
) noexcept nogil:
    cdef float float_lanes[2 * LANES * ABREAST]
    cdef double double_lanes[2 * LANES * ABREAST]
    cdef Totals totals[ABREAST]
    cdef real coef[FORWARD_COEFS]
    cdef const real* row = coef_row(coefs, 0, kind)
    cdef lane* lanes
    cdef Span run
    cdef Py_ssize_t x_step = s.x.step_c * s.itemsize, x_next = s.x.step_n * s.itemsize - (s.channels - 1) * x_step
    cdef Py_ssize_t dy_step = s.dy.step_c * s.itemsize, dy_next = s.dy.step_n * s.itemsize - (s.channels - 1) * dy_step
    cdef int c, held = 0, after = 0
    cdef bint last
    if lane is float:
        lanes = float_lanes
    else:
        lanes = double_lanes
    memset(totals, 0, s.channels * sizeof(Totals))
    while s.runs:
        s.runs -= 1
        run = s
        for c in range(s.channels):
            last = c + 1 == s.channels
            coef[SUBTRACT] = row[c]
            coef[SCALE] = row[SCALE * coefs.step + c] if mode.gate == REPLAY else 0
            coef[SHIFT] = row[SHIFT * coefs.step + c] if mode.gate == REPLAY else 0
            after = add_run(mode, &run, x_next if last else x_step, dy_next if last else dy_step, <const real*> coef,
                            held, s.runs == 0, lanes + 2 * LANES * c, totals + c)
            run.x.p += x_step
            run.dy.p += dy_step
            run.bits += s.bits_step_c
        held = after
        s.x.p += s.x.step_n * s.itemsize
        s.dy.p += s.dy.step_n * s.itemsize
        s.bits += s.bits_step_n
    for c in range(s.channels):
        if lane is float:       # without a second word
            out[2 * c] = totals[c].v
            out[2 * c + 1] = totals[c].vd
        else:
            out[2 * c] = whole_sum(totals[c].v, totals[c].v_rest)
            out[2 * c + 1] = whole_sum(totals[c].vd, totals[c].vd_rest)


cdef inline Py_ssize_t sample_at(Py_ssize_t k, Py_ssize_t n) noexcept nogil:
    # The k-th sample of n elements. The golden ratio spreads them, so that no period of the data misleads them.
    return (k * 40503 % 65536) * n // 65536


cdef inline real center_of(bint whole, double mean, const real* kind) noexcept nogil:
    # The pivot of a second reading: the mean found by the first.
    return <real> (rint(mean) if whole else mean)


cdef inline real pivot_of(bint whole, double mean, const real* kind) noexcept nogil:
    # The pivot of the first reading: the mean of a sample. Of a double it keeps 30 bits: x - pivot is then exact unless
    # x is much closer to zero, and the square of an outlier has one rounding, not three.
    cdef double high = 8388609.0 * mean
    high = high - (high - mean)
    return center_of(whole, high if real is double and finite(high) else mean, kind)


cdef inline void fetch_samples(const Span* s, Py_ssize_t samples, int width) noexcept nogil:
    # In the order in which they lie in memory. All channels have the same samples.
    cdef Py_ssize_t k, at
    cdef int c
    for k in range(1, samples):
        at = sample_at(k, s.runs) * s.x.step_n + sample_at(k, s.length - width + 1)
        for c in range(s.channels):
            FASTBN_PREFETCH(s.x.p + (at + c * s.x.step_c) * s.itemsize)


cdef inline double sample_mean(
    Span s, Py_ssize_t samples, int width, double weight, const real* kind, lane of,
) noexcept nogil:
    cdef lane sums[LANES]
    cdef float room[LANES]
    cdef Py_ssize_t k, step
    cdef Runs piece = Runs(s.x.p, 0)
    cdef const real* p = load_runs(s.type, piece, 1, width, room, &step, kind)
    cdef int j
    for j in range(LANES):
        sums[j] = p[j] if j < width else 0
    if width == LANES:      # a loop of its own, whose sums stay in registers
        for k in range(1, samples):
            piece.p = s.x.p + (sample_at(k, s.runs) * s.x.step_n + sample_at(k, s.length - LANES + 1)) * s.itemsize
            p = load_runs(s.type, piece, 1, LANES, room, &step, kind)
            for j in range(LANES):
                sums[j] += p[j]
    else:
        for k in range(1, samples):
            piece.p = s.x.p + (sample_at(k, s.runs) * s.x.step_n + sample_at(k, s.length - width + 1)) * s.itemsize
            p = load_runs(s.type, piece, 1, width, room, &step, kind)
            for j in range(LANES):
                sums[j] += p[j] if j < width else 0
    return sum_lanes(sums) * weight


cdef inline void add_channels(
    int gate, Span s, Coefs coefs,
    double* out,                                        # OUT (channels, 2)
    const real* kind, lane of,
) noexcept nogil:
    # add_span() with the type as a literal.
    if real is double:
        add_span(reduction(FLOAT64, gate), s, coefs, out, kind, of)
    elif s.type == FLOAT32:
        add_span(reduction(FLOAT32, gate), s, coefs, out, kind, of)
    elif s.type == FLOAT16:
        add_span(reduction(FLOAT16, gate), s, coefs, out, kind, of)
    else:
        add_span(reduction(BFLOAT16, gate), s, coefs, out, kind, of)


cdef void span_moments(
    Span s,
    Moments* out,                                       # OUT (channels,)
    const real* kind, lane of,
) noexcept nogil:
    cdef real pivot[ABREAST]
    cdef double sums[2 * ABREAST]
    cdef double n = <double> s.runs * <double> s.length
    cdef int width = <int> least(LANES, s.length)
    cdef Py_ssize_t samples = least(PIVOT_PIECES * LANES // width, parts(s.runs * s.length, PIVOT_SHARE))
    cdef double weight = 1.0 / (<double> samples * <double> width)
    cdef Coefs coefs = Coefs(<char*> pivot, 0, 0, 1)    # as the row SUBTRACT, the only one that moments need
    cdef double e, q
    cdef int c
    fetch_samples(&s, samples, width)
    for c in range(s.channels):
        pivot[c] = pivot_of(s.whole, sample_mean(channel_of(s, c), samples, width, weight, kind, of), kind)
    add_channels(MOMENTS, s, coefs, sums, kind, of)
    for c in range(s.channels):
        e = sums[2 * c]
        q = sums[2 * c + 1]
        out[c] = moments_about(<double> pivot[c], n, e, q)
        if not squares_held(n, e, q, of):
            if lane is float:
                span_moments(channel_of(s, c), out + c, kind, <double> 0)
            elif finite(out[c].mean):
                pivot[c] = center_of(s.whole, out[c].mean, kind)
                add_channels(MOMENTS, channel_of(s, c), coefs_from(coefs, c, kind), sums + 2 * c, kind, of)
                out[c] = moments_about(<double> pivot[c], n, sums[2 * c], sums[2 * c + 1])


cdef void span_gradients(
    int gate, Span s, Coefs coefs,
    double* out,                                        # OUT (channels, 2): sums of dy and of dy * (x - m)
    const real* kind, lane of,
) noexcept nogil:
    cdef double n = <double> s.runs * <double> s.length
    cdef int c, held = 1
    if gate == OPEN:
        add_channels(OPEN, s, coefs, out, kind, of)
    elif gate == REPLAY:
        add_channels(REPLAY, s, coefs, out, kind, of)
    else:
        add_channels(BITS, s, coefs, out, kind, of)
    if lane is float:
        for c in range(s.channels):
            held &= products_held(n, out[2 * c], out[2 * c + 1])
        for c in range(0 if held else s.channels):
            if not products_held(n, out[2 * c], out[2 * c + 1]):
                span_gradients(gate, channel_of(s, c), coefs_from(coefs, c, kind), out + 2 * c, kind, <double> 0)

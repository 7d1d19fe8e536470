# Reductions over one span of `planes`: `runs` runs of `length` contiguous elements of one channel, `step` apart.
#
# a) Two sums in one reading: of v and of v * (x - m). In a forward v is x - m itself (MOMENTS), in a backward it is dy.
# b) Every running sum has LANES lanes. Four pieces of LANES elements, one behind the other, are added to each other
#    before they are added to the lanes, and after FLUSH additions these go to double: no float sum is long.
# c) What is left of a run goes through the same lanes under a condition that becomes a vector mask.
# d) A run is asked for AHEAD of the sums, which otherwise wait for it.
# e) Moments are taken about a pivot, the mean of a sample that is spread over the span. Any pivot is taken of which
#    squares_held() finds that it costs no more than a bit; otherwise, and where float lanes overflowed or underflowed,
#    the span is summed again in double, at last about the mean that was found.
# f) Double lanes are flushed to sums in two words: 4 rounding units of y leave no room for those of a long sum.

cdef enum:
    FLUSH = 6           # additions to a lane
    SAMPLES = 16        # pieces of LANES elements that a pivot is the mean of, at most, or more where they are short;
    SAMPLE_OF = 64      # one for so many elements
    BATCH = 16          # channels that take each step side by side: none waits for its own last result


cdef extern from *:
    """
    /* The sum of 16 lanes by a fixed tree, in registers: what the compiler makes of the same tree as loops depends on
       what is around them, and takes up to four times as long (docs/kernels.md). */
    #if defined(__GNUC__)
    typedef float fastbn_f8 __attribute__((vector_size(32), aligned(4)));
    typedef double fastbn_d8 __attribute__((vector_size(64), aligned(8)));
    typedef double fastbn_d4 __attribute__((vector_size(32), aligned(8)));
    typedef double fastbn_d2 __attribute__((vector_size(16), aligned(8)));
    static inline __attribute__((always_inline)) double fastbn_sum8(fastbn_d8 t) {
        fastbn_d4 u = ((fastbn_d4*) &t)[0] + ((fastbn_d4*) &t)[1];
        fastbn_d2 v = ((fastbn_d2*) &u)[0] + ((fastbn_d2*) &u)[1];
        return v[0] + v[1];
    }
    static inline __attribute__((always_inline)) double fastbn_sum16_float(const float* s) {
        const fastbn_f8* p = (const fastbn_f8*) s;
        return fastbn_sum8(__builtin_convertvector(p[0] + p[1], fastbn_d8));
    }
    static inline __attribute__((always_inline)) double fastbn_sum16_double(const double* s) {
        const fastbn_d8* p = (const fastbn_d8*) s;
        return fastbn_sum8(p[0] + p[1]);
    }
    #else
    #define FASTBN_SUM16(name, type) \
        static double name(const type* s) { \
            double t[8]; \
            int j; \
            for (j = 0; j < 8; j++) \
                t[j] = (double) (s[j] + s[j + 8]); \
            return ((t[0] + t[4]) + (t[2] + t[6])) + ((t[1] + t[5]) + (t[3] + t[7])); \
        }
    FASTBN_SUM16(fastbn_sum16_float, float)
    FASTBN_SUM16(fastbn_sum16_double, double)
    #endif
    """
    double fastbn_sum16_float(const float* s) noexcept nogil
    double fastbn_sum16_double(const double* s) noexcept nogil


cdef inline double sum_lanes(const lane* s) noexcept nogil:
    if lane is float:
        return fastbn_sum16_float(s)
    else:
        return fastbn_sum16_double(s)


cdef inline void flush(
    lane* s,                                                                    # IN  (LANES,), OUT zero
    double* t, double* rest,                                                    # OUT (1,), added to
) noexcept nogil:
    cdef int j
    if lane is float:
        t[0] += sum_lanes(s)
    else:
        add_to_long_sum(t, rest, sum_lanes(s))
    for j in range(LANES):
        s[j] = 0


cdef struct Span:           # of some channels: (runs, channels, length)
    int type
    bint whole
    Py_ssize_t itemsize
    const char* x
    Py_ssize_t x_step       # from run to run, in elements
    Py_ssize_t x_step_c     # from channel to channel
    const char* g           # dy, likewise
    Py_ssize_t g_step
    Py_ssize_t g_step_c
    const uint16_t* bits    # likewise, by LANES
    Py_ssize_t bits_step
    Py_ssize_t bits_step_c
    int channels
    Py_ssize_t runs
    Py_ssize_t length


cdef inline lane seen(const real* g, real x, int word, int j, real m, real scale, real shift, int gate, lane d,
                      ) noexcept nogil:
    # v of one element; d is x - m as a lane has it
    cdef real v
    if gate == MOMENTS:
        return d
    v = g[j]
    if gate == REPLAY:
        v = opened(v, x - m, scale, shift)
    elif gate == BITS:
        v = v if (word >> j) & 1 else 0
    return v


cdef inline void see(
    const real* g, const real* x, int word, int j, int width, real m, real scale, real shift, int gate,
    lane* v, lane* d,                                                           # OUT, zero from width on
) noexcept nogil:
    d[0] = 0
    v[0] = 0
    if j < width:
        d[0] = <lane> x[j] - <lane> m
        v[0] = seen(g, x[j], word, j, m, scale, shift, gate, d[0])


cdef inline void add_lanes(
    const real** g, const real** x, const int* words, int pieces, int last,     # IN  (pieces, LANES), the last `last`
    real m, real scale, real shift, int gate,
    lane* s1, lane* s2,                                                         # OUT (LANES,), added to
) noexcept nogil:
    cdef lane d0, d1, d2, d3, v0, v1, v2, v3
    cdef int j
    for j in range(LANES):
        see(g[0], x[0], words[0], j, last if pieces == 1 else LANES, m, scale, shift, gate, &v0, &d0)
        if pieces == 1:
            s1[j] += v0
            s2[j] += v0 * d0
        else:
            see(g[1], x[1], words[1], j, last if pieces == 2 else LANES, m, scale, shift, gate, &v1, &d1)
            if pieces == 2:
                s1[j] += v0 + v1
                s2[j] += v0 * d0 + v1 * d1
            else:
                see(g[2], x[2], words[2], j, last if pieces == 3 else LANES, m, scale, shift, gate, &v2, &d2)
                if pieces == 3:
                    s1[j] += (v0 + v1) + v2
                    s2[j] += (v0 * d0 + v1 * d1) + v2 * d2
                else:
                    see(g[3], x[3], words[3], j, last, m, scale, shift, gate, &v3, &d3)
                    s1[j] += (v0 + v1) + (v2 + v3)
                    s2[j] += (v0 * d0 + v1 * d1) + (v2 * d2 + v3 * d3)


cdef inline void add_pieces(
    int type, const Span* s, Py_ssize_t first, int pieces, int last,            # IN  of a run, from `first` on
    real m, real scale, real shift, int gate, lane* s1, lane* s2,
) noexcept nogil:
    cdef float x_room[4 * LANES]
    cdef float g_room[4 * LANES]
    cdef const real* x[4]
    cdef const real* g[4]
    cdef int words[4]
    cdef Py_ssize_t i = first * size_of(type)
    cdef int k, width
    for k in range(pieces):
        width = LANES if k + 1 < pieces else last
        x[k] = elements(type, False, s.x + i, width, x_room + k * LANES, &m)
        g[k] = x[k]
        words[k] = 0
        if gate != MOMENTS:
            g[k] = elements(type, False, s.g + i, width, g_room + k * LANES, &m)
        if gate == BITS:
            words[k] = s.bits[first // LANES + k]
        i += LANES * size_of(type)
    add_lanes(g, x, words, pieces, last, m, scale, shift, gate, s1, s2)


cdef inline const char* ahead_of(const char* run, Py_ssize_t i, Py_ssize_t bytes, Py_ssize_t step) noexcept nogil:
    # AHEAD of byte i of a run; past its end another one follows, `step` further.
    i += AHEAD
    return run + (i if i < bytes else i - bytes + step)


cdef inline void add_span(
    int type, Span s, real m, real scale, real shift, int gate,                 # s: one channel
    double* out,                                                                # OUT (2,)
    lane kind,
) noexcept nogil:
    cdef lane s1[LANES]
    cdef lane s2[LANES]
    cdef double t1 = 0
    cdef double t2 = 0
    cdef double rest1 = 0
    cdef double rest2 = 0
    cdef Py_ssize_t size = size_of(type), bytes = s.length * size, i, x_step, g_step
    cdef const char* x_first = s.x
    cdef const char* g_first = s.g
    cdef int j, rest, held = 0
    for j in range(LANES):
        s1[j] = 0
        s2[j] = 0
    while s.runs:
        s.runs -= 1
        # After the last run comes the next channel.
        x_step = s.x_step * size if s.runs else x_first - s.x + s.x_step_c * size
        g_step = s.g_step * size if s.runs else g_first - s.g + s.g_step_c * size
        i = 0
        while i + 4 * LANES <= s.length:
            prefetch(ahead_of(s.x, i * size, bytes, x_step), 4 * LANES * size_of(type))
            if gate != MOMENTS:
                prefetch(ahead_of(s.g, i * size, bytes, g_step), 4 * LANES * size_of(type))
            add_pieces(type, &s, i, 4, LANES, m, scale, shift, gate, s1, s2)
            i += 4 * LANES
            held += 1
            if held >= FLUSH:
                flush(s1, &t1, &rest1)
                flush(s2, &t2, &rest2)
                held = 0
        rest = <int> (s.length - i)
        if rest > 3 * LANES:
            add_pieces(type, &s, i, 4, rest - 3 * LANES, m, scale, shift, gate, s1, s2)
        elif rest > 2 * LANES:
            add_pieces(type, &s, i, 3, rest - 2 * LANES, m, scale, shift, gate, s1, s2)
        elif rest > LANES:
            add_pieces(type, &s, i, 2, rest - LANES, m, scale, shift, gate, s1, s2)
        elif rest:
            add_pieces(type, &s, i, 1, rest, m, scale, shift, gate, s1, s2)
        held += 1
        if held >= FLUSH:
            flush(s1, &t1, &rest1)
            flush(s2, &t2, &rest2)
            held = 0
        s.x += s.x_step * size
        s.g += s.g_step * size
        s.bits += s.bits_step
    flush(s1, &t1, &rest1)
    flush(s2, &t2, &rest2)
    out[0] = whole_sum(t1, rest1)
    out[1] = whole_sum(t2, rest2)


cdef inline Py_ssize_t place(Py_ssize_t k, Py_ssize_t n) noexcept nogil:
    # The k-th of some places among n, apart by the golden ratio, so that no period hides from them.
    return (k * 40503 % 65536) * n // 65536


cdef inline Span channel_of(Span s, int c) noexcept nogil:
    # One channel of it.
    s.x += c * s.x_step_c * s.itemsize
    s.g += c * s.g_step_c * s.itemsize
    s.bits += c * s.bits_step_c
    s.channels = 1
    return s


cdef inline double sample_mean(
    Span u, Py_ssize_t samples, int width, double weight, const real* kind, lane of,
) noexcept nogil:
    cdef lane s[LANES]
    cdef float room[LANES]
    cdef Py_ssize_t k, step = 0
    cdef const real* p = loaded(u.type, u.x, &step, 1, width, room, kind)
    cdef int j
    for j in range(LANES):
        s[j] = p[j] if j < width else 0
    for k in range(1, samples):
        p = loaded(u.type, u.x + (place(k, u.runs) * u.x_step + place(k, u.length - width + 1)) * u.itemsize,
                   &step, 1, width, room, kind)
        if width == LANES:
            for j in range(LANES):
                s[j] += p[j]
        else:
            for j in range(LANES):
                s[j] += p[j] if j < width else 0
    return sum_lanes(s) * weight


cdef inline void add_channel(
    Span s, real m, real scale, real shift, int gate,
    double* out,                                                                # OUT (2,)
    lane kind,
) noexcept nogil:
    # add_span() with the type as a literal.
    if real is double:
        add_span(FLOAT64, s, m, scale, shift, gate, out, kind)
    elif s.type == FLOAT32:
        add_span(FLOAT32, s, m, scale, shift, gate, out, kind)
    elif s.type == FLOAT16:
        add_span(FLOAT16, s, m, scale, shift, gate, out, kind)
    else:
        add_span(BFLOAT16, s, m, scale, shift, gate, out, kind)


cdef inline real center_of(bint whole, double mean, const real* kind) noexcept nogil:
    # The pivot of a second reading: the mean that was found.
    return <real> (rint(mean) if whole else mean)


cdef inline real pivot_of(bint whole, double mean, const real* kind) noexcept nogil:
    # That of the first: the mean of a sample. A double keeps 30 bits of it: x - pivot is then exact wherever x is not
    # much closer to zero, and the square of a value that exceeds all others has one rounding, not three.
    cdef double high = 8388609.0 * mean
    high = high - (high - mean)
    return center_of(whole, high if real is double and finite(high) else mean, kind)


cdef void span_moments(
    Span s,
    Moments* out,                                                               # OUT (channels,)
    const real* kind, lane of,
) noexcept nogil:
    cdef real pivot[BATCH]
    cdef double sums[2 * BATCH]
    cdef double n = <double> s.runs * <double> s.length
    cdef int width = <int> least(LANES, s.length)
    cdef Py_ssize_t samples = least(SAMPLES * LANES // width, parts(s.runs * s.length, SAMPLE_OF))
    cdef double weight = 1.0 / (<double> samples * <double> width)
    cdef double e, q
    cdef int c
    for c in range(s.channels):
        pivot[c] = pivot_of(s.whole, sample_mean(channel_of(s, c), samples, width, weight, kind, of), kind)
    for c in range(s.channels):
        add_channel(channel_of(s, c), pivot[c], 0, 0, MOMENTS, sums + 2 * c, of)
    for c in range(s.channels):
        e = sums[2 * c]
        q = sums[2 * c + 1]
        out[c] = moments_about(<double> pivot[c], n, e, q)
        if not squares_held(n, e, q, of):
            if lane is float:
                span_moments(channel_of(s, c), out + c, kind, <double> 0)
            elif finite(out[c].mean):
                pivot[c] = center_of(s.whole, out[c].mean, kind)
                add_channel(channel_of(s, c), pivot[c], 0, 0, MOMENTS, sums + 2 * c, of)
                out[c] = moments_about(<double> pivot[c], n, sums[2 * c], sums[2 * c + 1])


cdef inline void add_channels(
    Span s, const real* coef, Py_ssize_t coef_step, int gate, double* out, lane kind,
) noexcept nogil:
    cdef int c
    for c in range(s.channels):
        add_channel(channel_of(s, c), coef[SUBTRACT * coef_step + c],
                    coef[SCALE * coef_step + c] if gate == REPLAY else 0,
                    coef[SHIFT * coef_step + c] if gate == REPLAY else 0, gate, out + 2 * c, kind)


cdef void span_gradients(
    Span s, const real* coef, Py_ssize_t coef_step, int gate,
    double* out,                                                                # OUT (channels, 2)
    lane kind,
) noexcept nogil:
    # sum of dy and sum of dy * (x - m)
    cdef double n = <double> s.runs * <double> s.length
    cdef int c
    if gate == OPEN:
        add_channels(s, coef, coef_step, OPEN, out, kind)
    elif gate == REPLAY:
        add_channels(s, coef, coef_step, REPLAY, out, kind)
    else:
        add_channels(s, coef, coef_step, BITS, out, kind)
    if lane is float:
        for c in range(s.channels):
            if not products_held(n, out[2 * c], out[2 * c + 1]):
                span_gradients(channel_of(s, c), coef + c, coef_step, gate, out + 2 * c, <double> 0)

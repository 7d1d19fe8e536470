# Reductions over one span of `planes`: `runs` runs of `length` contiguous elements of one channel, `step` apart.
#
# a) Two sums in one reading: of v and of v * (x - m). In a forward v is x - m itself (MOMENTS), in a backward it is dy.
# b) Every running sum is TILE lanes wide, and the lanes stay in registers from run to run. Four tiles are added to each
#    other before they are added to a lane, and after FLUSH additions or one more the lanes go to double: no float sum
#    is long.
# c) A tail shorter than a tile goes through the same lanes under a condition that becomes a vector mask.
# d) Moments are taken about a pivot, the mean of a sample that is spread over the span. Any pivot will do of which
#    squares_held() finds that it costs no more than a bit; otherwise, and where float lanes overflowed or underflowed,
#    the span is summed again in double, at last about the mean that was found.

cdef enum:
    FLUSH = 6           # additions to a lane
    SAMPLES = 8         # pieces of up to a tile that a pivot is the mean of, at most, or more where they are short;
    SAMPLE_OF = 128     # one for so many elements
    BATCH = 16          # channels that take each step side by side: none waits for its own last result


cdef extern from *:
    """
    /* The sum of 64 lanes by a fixed tree, in registers: what the compiler makes of the same tree as loops depends on
       what is around them, and takes up to four times as long (docs/kernels.md). */
    #if defined(__GNUC__)
    typedef float fastbn_f16 __attribute__((vector_size(64), aligned(4)));
    typedef float fastbn_f8 __attribute__((vector_size(32), aligned(4)));
    typedef double fastbn_d8 __attribute__((vector_size(64), aligned(8)));
    typedef double fastbn_d4 __attribute__((vector_size(32), aligned(8)));
    typedef double fastbn_d2 __attribute__((vector_size(16), aligned(8)));
    static inline __attribute__((always_inline)) double fastbn_sum8(fastbn_d8 t) {
        fastbn_d4 u = ((fastbn_d4*) &t)[0] + ((fastbn_d4*) &t)[1];
        fastbn_d2 v = ((fastbn_d2*) &u)[0] + ((fastbn_d2*) &u)[1];
        return v[0] + v[1];
    }
    static inline __attribute__((always_inline)) double fastbn_sum64_float(const float* s) {
        const fastbn_f16* p = (const fastbn_f16*) s;
        fastbn_f16 f = (p[0] + p[1]) + (p[2] + p[3]);
        return fastbn_sum8(__builtin_convertvector(((fastbn_f8*) &f)[0], fastbn_d8)
                           + __builtin_convertvector(((fastbn_f8*) &f)[1], fastbn_d8));
    }
    static inline __attribute__((always_inline)) double fastbn_sum64_double(const double* s) {
        const fastbn_d8* p = (const fastbn_d8*) s;
        return fastbn_sum8(((p[0] + p[2]) + (p[4] + p[6])) + ((p[1] + p[3]) + (p[5] + p[7])));
    }
    #else
    #define FASTBN_SUM64(name, type) \
        static double name(const type* s) { \
            double t[8]; \
            int j; \
            for (j = 0; j < 8; j++) \
                t[j] = (double) ((s[j] + s[j + 16]) + (s[j + 32] + s[j + 48])) \
                     + (double) ((s[j + 8] + s[j + 24]) + (s[j + 40] + s[j + 56])); \
            return ((t[0] + t[4]) + (t[2] + t[6])) + ((t[1] + t[5]) + (t[3] + t[7])); \
        }
    FASTBN_SUM64(fastbn_sum64_float, float)
    FASTBN_SUM64(fastbn_sum64_double, double)
    #endif
    """
    double fastbn_sum64_float(const float* s) noexcept nogil
    double fastbn_sum64_double(const double* s) noexcept nogil


cdef inline double sum_lanes(const lane* s) noexcept nogil:
    # Of a copy: lanes whose address goes elsewhere would be kept in memory.
    cdef lane t[TILE]
    cdef int j
    for j in range(TILE):
        t[j] = s[j]
    if lane is float:
        return fastbn_sum64_float(t)
    else:
        return fastbn_sum64_double(t)


cdef inline void flush(
    lane* s,                                                                    # IN  (TILE,), OUT zero
    double* t,                                                                  # OUT (1,), added to
) noexcept nogil:
    cdef int j
    t[0] += sum_lanes(s)
    for j in range(TILE):
        s[j] = 0


cdef inline lane seen(const real* g, real x, uint64_t word, int j, real m, real scale, real shift, int gate, lane d,
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


cdef inline uint64_t word_of(const uint16_t* bits, int width, int gate) noexcept nogil:
    # The bits of a tile.
    cdef uint64_t word = 0
    cdef int k
    if gate == BITS:
        for k in range(TILE // LANES):
            if k * LANES < width:
                word |= <uint64_t> bits[k] << (k * LANES)
    return word


cdef inline void add_lanes(
    const real* g0, const real* g1, const real* g2, const real* g3,             # IN  (lanes,), of up to four tiles
    const real* x0, const real* x1, const real* x2, const real* x3,
    uint64_t w0, uint64_t w1, uint64_t w2, uint64_t w3, int tiles, int width,   # the last tile may be shorter
    real m, real scale, real shift, int gate,
    lane* s1, lane* s2, int lanes,                                              # OUT (lanes,), added to
) noexcept nogil:
    cdef lane d0, d1, d2, d3, v0, v1, v2, v3
    cdef int j
    for j in range(lanes):
        d0 = 0
        v0 = 0
        if tiles > 1 or j < width:
            d0 = <lane> x0[j] - <lane> m
            v0 = seen(g0, x0[j], w0, j, m, scale, shift, gate, d0)
        if tiles == 1:
            s1[j] += v0
            s2[j] += v0 * d0
        else:
            d1 = <lane> x1[j] - <lane> m
            v1 = seen(g1, x1[j], w1, j, m, scale, shift, gate, d1)
            if tiles == 2:
                s1[j] += v0 + v1
                s2[j] += v0 * d0 + v1 * d1
            else:
                d2 = <lane> x2[j] - <lane> m
                v2 = seen(g2, x2[j], w2, j, m, scale, shift, gate, d2)
                if tiles == 3:
                    s1[j] += (v0 + v1) + v2
                    s2[j] += (v0 * d0 + v1 * d1) + v2 * d2
                else:
                    d3 = <lane> x3[j] - <lane> m
                    v3 = seen(g3, x3[j], w3, j, m, scale, shift, gate, d3)
                    s1[j] += (v0 + v1) + (v2 + v3)
                    s2[j] += (v0 * d0 + v1 * d1) + (v2 * d2 + v3 * d3)


cdef inline void add_tiles(
    int type, const char* g_p, const char* x_p, Py_ssize_t first, const uint16_t* bits,     # IN  from `first` on
    int tiles, int width, real m, real scale, real shift, int gate, lane* s1, lane* s2, int lanes,
) noexcept nogil:
    # Halves are converted LANES at a time, so that they stay in registers.
    cdef float x_room[4 * LANES]
    cdef float g_room[4 * LANES]
    cdef const real* x[4]
    cdef const real* g[4]
    cdef uint64_t w[4]
    cdef Py_ssize_t size = size_of(type), i
    cdef int j, k, q, count, step = LANES if is_half(type) else lanes
    bits += first // LANES
    for k in range(4):
        w[k] = word_of(bits + k * TILE // LANES, width if tiles == 1 else TILE, gate) if k < tiles else 0
    for q in range(lanes // step):
        j = q * step
        count = step
        if tiles == 1 and width < j + step:
            count = width - j if width > j else 0
        for k in range(4):
            i = (first + j + (k * TILE if k < tiles else 0)) * size
            x[k] = elements(type, False, x_p + i, count if k < tiles else 0, x_room + k * LANES, &m)
            g[k] = x[k]
            if gate != MOMENTS:
                g[k] = elements(type, False, g_p + i, count if k < tiles else 0, g_room + k * LANES, &m)
        add_lanes(g[0], g[1], g[2], g[3], x[0], x[1], x[2], x[3], w[0] >> j, w[1] >> j, w[2] >> j, w[3] >> j,
                  tiles, width - j, m, scale, shift, gate, s1 + j, s2 + j, step)


cdef inline void add_span(
    int type, const char* g, Py_ssize_t g_step, const char* x, Py_ssize_t x_step,    # IN  (runs, length)
    const uint16_t* bits, Py_ssize_t bits_step,                                 # IN  (runs, parts(length, LANES))
    Py_ssize_t runs, Py_ssize_t length, real m, real scale, real shift, int gate,
    double* out,                                                                # OUT (2,)
    lane kind,
) noexcept nogil:
    cdef lane s1[TILE]
    cdef lane s2[TILE]
    cdef double t1 = 0
    cdef double t2 = 0
    cdef Py_ssize_t r, i, itemsize = size_of(type)
    cdef int j, rest, held = 0
    for j in range(TILE):
        s1[j] = 0
        s2[j] = 0
    if runs == 1 and length <= TILE:
        add_tiles(type, g, x, 0, bits, 1, <int> length, m, scale, shift, gate, s1, s2, TILE)
        out[0] = sum_lanes(s1)
        out[1] = sum_lanes(s2)
        return
    for r in range(runs):
        i = 0
        while i + 4 * TILE <= length:
            add_tiles(type, g, x, i, bits, 4, TILE, m, scale, shift, gate, s1, s2, TILE)
            i += 4 * TILE
            held += 1
            if held >= FLUSH:
                flush(s1, &t1)
                flush(s2, &t2)
                held = 0
        rest = <int> (length - i)
        if rest >= TILE:
            if rest >= 3 * TILE:
                add_tiles(type, g, x, i, bits, 3, TILE, m, scale, shift, gate, s1, s2, TILE)
                i += 3 * TILE
            elif rest >= 2 * TILE:
                add_tiles(type, g, x, i, bits, 2, TILE, m, scale, shift, gate, s1, s2, TILE)
                i += 2 * TILE
            else:
                add_tiles(type, g, x, i, bits, 1, TILE, m, scale, shift, gate, s1, s2, TILE)
                i += TILE
            held += 1
            rest = <int> (length - i)
        if rest > LANES:
            add_tiles(type, g, x, i, bits, 1, rest, m, scale, shift, gate, s1, s2, TILE)
            held += 1
        elif rest:
            add_tiles(type, g, x, i, bits, 1, rest, m, scale, shift, gate, s1, s2, LANES)
            held += 1
        if held >= FLUSH:
            flush(s1, &t1)
            flush(s2, &t2)
            held = 0
        x += x_step * itemsize
        g += g_step * itemsize
        bits += bits_step
    out[0] = t1 + sum_lanes(s1)
    out[1] = t2 + sum_lanes(s2)


cdef inline Py_ssize_t place(Py_ssize_t k, Py_ssize_t n) noexcept nogil:
    # The k-th of some places among n, apart by the golden ratio, so that no period hides from them.
    return (k * 40503 % 65536) * n // 65536


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
    cdef lane s[TILE]
    cdef float room[TILE]
    cdef Py_ssize_t k, step = 0
    cdef const real* p = loaded(u.type, u.x, &step, 1, width, room, kind)
    cdef int j
    for j in range(TILE):
        s[j] = p[j] if j < width else 0
    for k in range(1, samples):
        p = loaded(u.type, u.x + (place(k, u.runs) * u.x_step + place(k, u.length - width + 1)) * u.itemsize,
                   &step, 1, width, room, kind)
        if width == TILE:
            for j in range(TILE):
                s[j] += p[j]
        else:
            for j in range(TILE):
                s[j] += p[j] if j < width else 0
    return sum_lanes(s) * weight


cdef inline void add_channel(
    Span s, real m, real scale, real shift, int gate,
    double* out,                                                                # OUT (2,)
    lane kind,
) noexcept nogil:
    # add_span() with the type as a literal.
    if real is double:
        add_span(FLOAT64, s.g, s.g_step, s.x, s.x_step, s.bits, s.bits_step, s.runs, s.length,
                 m, scale, shift, gate, out, kind)
    elif s.type == FLOAT32:
        add_span(FLOAT32, s.g, s.g_step, s.x, s.x_step, s.bits, s.bits_step, s.runs, s.length,
                 m, scale, shift, gate, out, kind)
    elif s.type == FLOAT16:
        add_span(FLOAT16, s.g, s.g_step, s.x, s.x_step, s.bits, s.bits_step, s.runs, s.length,
                 m, scale, shift, gate, out, kind)
    else:
        add_span(BFLOAT16, s.g, s.g_step, s.x, s.x_step, s.bits, s.bits_step, s.runs, s.length,
                 m, scale, shift, gate, out, kind)


cdef inline real pivot_of(bint whole, double mean, const real* kind) noexcept nogil:
    return <real> (rint(mean) if whole else mean)


cdef void span_moments(
    Span s,
    Moments* out,                                                               # OUT (channels,)
    const real* kind, lane of,
) noexcept nogil:
    cdef real pivot[BATCH]
    cdef double sums[2 * BATCH]
    cdef double n = <double> s.runs * <double> s.length
    cdef int width = <int> least(TILE, s.length)
    cdef Py_ssize_t samples = least(SAMPLES * TILE // width, parts(s.runs * s.length, SAMPLE_OF))
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
        if not squares_held(n, e, q):
            if lane is float:
                span_moments(channel_of(s, c), out + c, kind, <double> 0)
            elif finite(out[c].mean):
                pivot[c] = pivot_of(s.whole, out[c].mean, kind)
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

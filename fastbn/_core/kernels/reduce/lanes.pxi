# Lanes of a running sum, and their flush to double.
#
# a) A float lane holds few additions: after FLUSH_PLANES of them it goes to double.
# b) Double lanes are flushed to sums in two words: y may be off by 4 rounding units, which leaves no room for the
#    rounding errors of a long sum.

cdef enum:
    FLUSH_PLANES = 6    # additions to a lane


cdef extern from *:
    """
    /* The sum of 16 lanes by a fixed tree, in registers. Written as loops, the same tree takes up to four times as long
       with gcc 12. */
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


cdef struct Totals:         # of a channel: the sums that its lanes are flushed to
    double v
    double v_rest
    double vd
    double vd_rest


cdef inline void flush_both(lane* sums, Totals* t) noexcept nogil:
    flush(sums, &t.v, &t.v_rest)
    flush(sums + LANES, &t.vd, &t.vd_rest)

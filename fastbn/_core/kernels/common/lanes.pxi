# What every kernel shares: element types, constants, and the one merge of statistics.

from libc.math cimport NAN, rint, sqrt
from libc.stdint cimport uint16_t, uint64_t

ctypedef fused real:    # what the arrays hold
    float
    double

ctypedef fused lane:    # what a running sum is held in
    float
    double

cdef enum:
    HALF = 32           # elements that a step over columns takes
    LANES = 16          # lanes of a running sum of a run, elements of a short step over one, bits of a word of a mask
    FEW = 48            # values of a channel that are summed in double: too few for roundings to average out

cdef enum:              # where the gradient of a fused ReLU comes from
    OPEN = 0            # no activation
    REPLAY = 1          # the forward is computed again from x
    BITS = 2            # the forward left one bit an element
    MOMENTS = 3         # there is no gradient: x - m takes its place

cdef struct Moments:
    double n
    double mean
    double low          # what the rounding of the mean left over: at 1e6 standard deviations it tells parts apart
    double m2           # sum of squared distances from the mean
    double rest         # what the roundings of m2 left over, while parts are merged

cdef struct Block:      # where an array is: element (n, c, s) is p[n * step_n + c * step_c + s]
    char* p
    Py_ssize_t step_n
    Py_ssize_t step_c


cdef inline Py_ssize_t least(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return a if a < b else b


cdef inline Py_ssize_t parts(Py_ssize_t total, Py_ssize_t part) noexcept nogil:
    return (total + part - 1) // part


cdef inline void add_to_mean(double* mean, double* low, double step) noexcept nogil:
    # Both words anew: Knuth's two-sum says what the rounding left over.
    cdef double total = mean[0] + step
    cdef double part = total - mean[0]
    low[0] = (mean[0] - (total - part)) + (step - part)
    mean[0] = total


cdef inline void add_to_sum(double* total, double* rest, double term) noexcept nogil:
    # A sum in two words: `rest` collects the roundings, exactly (Ogita, Rump and Oishi, 2005).
    cdef double before = total[0]
    cdef double part
    total[0] = before + term
    part = total[0] - before
    rest[0] += (before - (total[0] - part)) + (term - part)


cdef inline void add_to_long_sum(double* total, double* rest, double term) noexcept nogil:
    # The same for sums that a single term rarely exceeds; where one does, it is a rounding of that term (Dekker).
    cdef double before = total[0]
    total[0] = before + term
    rest[0] += term - (total[0] - before)


cdef inline double whole_sum(double total, double rest) noexcept nogil:
    # An infinite total has a rest that is NaN.
    return total + rest if rest == rest else total


cdef inline double left_of_product(double a, double b, double product) noexcept nogil:
    # What the rounding of a * b left over (Veltkamp and Dekker, 1971); NaN where a factor is out of range.
    cdef double a1 = 134217729.0 * a
    cdef double b1 = 134217729.0 * b
    cdef double a2, b2
    a1 = a1 - (a1 - a)
    b1 = b1 - (b1 - b)
    a2 = a - a1
    b2 = b - b1
    return ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2


cdef inline void distance(
    double a, double a_low, double b, double b_low,     # two means
    double* delta, double* rest,                        # OUT b - a in two words
) noexcept nogil:
    cdef double high = b - a
    cdef double part = high - b
    cdef double low = ((b - (high - part)) - (a + part)) + (b_low - a_low)
    delta[0] = high + low
    part = delta[0] - high
    rest[0] = (high - (delta[0] - part)) + (low - part)


cdef struct Pair:       # two parts that become one
    double n                # values of both
    double share            # of the second
    double weight           # n_a n_b / n, of the squared distance of their means,
    double rest             # and what its rounding left over


cdef inline Pair pair_of(double a, double b) noexcept nogil:
    cdef Pair out
    cdef double product
    out.n = a + b
    out.share = b / out.n
    out.weight = a * b / out.n
    product = out.weight * out.n
    out.rest = ((a * b - product) - left_of_product(out.weight, out.n, product)) / out.n
    return out


cdef inline void add_between(double* m2, double* rest, double delta, double delta_rest, Pair pair) noexcept nogil:
    # The part of M2 between two parts may be nearly all of it: delta^2 * weight, without the roundings on the way.
    cdef double square = delta * delta
    cdef double term = square * pair.weight
    cdef double left = left_of_product(delta, delta, square) + 2.0 * delta * delta_rest
    left = left_of_product(square, pair.weight, term) + (left * pair.weight + square * pair.rest)
    add_to_sum(m2, rest, term)
    rest[0] += left if finite(left) else 0.0


cdef inline void merge(Moments* a, Moments b) noexcept nogil:
    # Chan, Golub and LeVeque (1983): the one way in which two sets of statistics become one.
    cdef Pair pair
    cdef double delta, rest
    if b.n == 0:
        return
    if a.n == 0:
        a[0] = b
        return
    pair = pair_of(a.n, b.n)
    distance(a.mean, a.low, b.mean, b.low, &delta, &rest)
    add_to_mean(&a.mean, &a.low, delta * pair.share + a.low)
    add_to_sum(&a.m2, &a.rest, b.m2)
    add_between(&a.m2, &a.rest, delta, rest, pair)
    a.n = pair.n


cdef inline Moments moments_about(double pivot, double n, double e, double q) noexcept nogil:
    # e and q are the sums of (x - pivot) and of its square.
    cdef Moments out
    cdef double m2 = q - e * (e / n)
    out.n = n
    out.mean = pivot
    add_to_mean(&out.mean, &out.low, e / n)
    out.m2 = 0.0 if m2 < 0.0 else m2    # NaN stays NaN
    out.rest = 0
    return out


cdef inline bint squares_held(double n, double e, double q, lane kind) noexcept nogil:
    # False where sums overflowed, met a NaN, or are so small that squares were lost below the normal range (of float
    # 2**-126; the bound of 2**-100 an element leaves 26 bits; of double 2**-1022 and 2**-960); and where the pivot was
    # so far off that the correction e^2 / n takes more than half of q, a bit. A constant channel gives zeros.
    cdef double least_square = 7.888609052210118e-31 if lane is float else 1.0261342003245941e-289
    return (q >= n * least_square and q < 1e300 and e * (e / n) <= 0.5 * q) or (q == 0.0 and e == 0.0)


cdef inline bint products_held(double n, double s1, double s2) noexcept nogil:
    # The same for the sums of dy and of dy * (x - m), of which the first cannot underflow.
    cdef double bound = n * 7.888609052210118e-31
    return finite(s1) and finite(s2) and (s2 >= bound or s2 <= -bound or (s1 == 0.0 and s2 == 0.0))


cdef inline bint finite(double a) noexcept nogil:
    return a - a == 0.0


cdef inline real rectified_if(bint relu, real t) noexcept nogil:
    # NaN passes through, and -0 becomes 0.
    return 0 if relu and t <= 0 else t


cdef inline real opened(real dy, real d, real scale, real shift) noexcept nogil:
    # The gradient that a ReLU lets through; the same expression as in transform.pxi, so that the bits agree.
    return 0 if d * scale + shift <= 0 else dy


cdef extern from *:
    """
    #define FASTBN_TOUCH(p) ((void) *(const volatile char*) (p))
    #if defined(__GNUC__)
    #define FASTBN_PREFETCH(p) __builtin_prefetch(p)
    #else
    #define FASTBN_PREFETCH(p) ((void) (p))
    #endif
    """
    void FASTBN_TOUCH(const void*) noexcept nogil
    void FASTBN_PREFETCH(const void*) noexcept nogil


cdef enum:
    LINE = 64           # bytes of a cache line
    AHEAD = 2048        # bytes ahead of what is being reduced that are asked for, in a run; in rows,
    AHEAD_ROWS = 8      # rows


cdef inline void prefetch(const void* p, int bytes) noexcept nogil:
    # Asks for memory, of any address, that is needed soon. A few lines at a time, in the order in which they lie,
    # beside as much work: a reduction that first waits for memory and then computes takes the sum of both.
    cdef int i
    for i in range((bytes + LINE - 1) // LINE):
        FASTBN_PREFETCH(<const char*> p + i * LINE)


cdef void touch(const char* p, Py_ssize_t rows, Py_ssize_t width, Py_ssize_t step) noexcept nogil:
    # Brings memory (width and step in bytes) into the cache by plain loads: unlike prefetch instructions they teach the
    # CPU what comes next.
    cdef Py_ssize_t i, w
    for i in range(rows):
        w = 0
        while w < width:
            FASTBN_TOUCH(p + i * step + w)
            w += LINE

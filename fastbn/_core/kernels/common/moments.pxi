# Mean and M2 (the sum of squared distances from the mean) of a set of values, and their merge.
#
# a) Sets are merged by the formulas of Chan, Golub and LeVeque (1983), in double.
# b) Means and sums of squares have a second word, which holds the rounding error of the first.
# c) squares_held() and products_held() judge sums: those that fail are computed again in double.

cdef struct Moments:
    double n
    double mean
    double low          # second word of the mean
    double m2
    double rest         # second word of m2, during a merge


cdef inline void add_to_mean(double* mean, double* low, double step) noexcept nogil:
    # Sets both words: Knuth's two-sum gives the rounding error.
    cdef double total = mean[0] + step
    cdef double part = total - mean[0]
    low[0] = (mean[0] - (total - part)) + (step - part)
    mean[0] = total


cdef inline void add_to_sum(double* total, double* rest, double term) noexcept nogil:
    # A sum in two words: `rest` collects the rounding errors, exactly (Ogita, Rump and Oishi, 2005).
    cdef double before = total[0]
    cdef double part
    total[0] = before + term
    part = total[0] - before
    rest[0] += (before - (total[0] - part)) + (term - part)


cdef inline void add_to_long_sum(double* total, double* rest, double term) noexcept nogil:
    # The same for terms that rarely exceed the sum; otherwise the error is a rounding error of the term (Dekker).
    cdef double before = total[0]
    total[0] = before + term
    rest[0] += term - (total[0] - before)


cdef inline double whole_sum(double total, double rest) noexcept nogil:
    # The rest of an infinite total is NaN.
    return total + rest if rest == rest else total


cdef inline double left_of_product(double a, double b, double product) noexcept nogil:
    # The rounding error of a * b (Veltkamp and Dekker, 1971); NaN if a factor is out of range.
    cdef double a1 = 134217729.0 * a
    cdef double b1 = 134217729.0 * b
    cdef double a2, b2
    a1 = a1 - (a1 - a)
    b1 = b1 - (b1 - b)
    a2 = a - a1
    b2 = b - b1
    return ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2


cdef inline void distance(
    double a, double a_low, double b, double b_low,     # IN  two means, two words each
    double* delta, double* rest,                        # OUT b - a in two words
) noexcept nogil:
    cdef double high = b - a
    cdef double part = high - b
    cdef double low = ((b - (high - part)) - (a + part)) + (b_low - a_low)
    delta[0] = high + low
    part = delta[0] - high
    rest[0] = (high - (delta[0] - part)) + (low - part)


cdef struct Pair:       # the counts of two sets that are merged
    double n            # n_a + n_b
    double share        # n_b / n
    double weight       # n_a n_b / n, the factor of the squared distance of the means
    double rest         # the rounding error of the weight


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
    # Adds delta^2 * weight without its rounding errors: it may be nearly all of M2.
    cdef double square = delta * delta
    cdef double term = square * pair.weight
    cdef double left = left_of_product(delta, delta, square) + 2.0 * delta * delta_rest
    left = left_of_product(square, pair.weight, term) + (left * pair.weight + square * pair.rest)
    add_to_sum(m2, rest, term)
    rest[0] += left if finite(left) else 0.0


cdef inline void merge(Moments* a, Moments b) noexcept nogil:
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


cdef inline bint squares_held(double n, double e, double q, lane of) noexcept nogil:
    # False if the sums overflowed, contain NaN, or lost squares below the normal range (2**-126 of float, against a
    # bound of 2**-100 per element, which leaves 26 bits; 2**-1022 and 2**-960 of double). False also if the pivot is so
    # far from the mean that the correction e^2 / n takes more than half of q, one bit. A constant channel gives zeros.
    cdef double least_square = 7.888609052210118e-31 if lane is float else 1.0261342003245941e-289
    return (q >= n * least_square and q < 1e300 and e * (e / n) <= 0.5 * q) or (q == 0.0 and e == 0.0)


cdef inline bint products_held(double n, double sum_dy, double products) noexcept nogil:
    # The same for the sums of dy and of dy * (x - m). The first cannot underflow.
    cdef double bound = n * 7.888609052210118e-31
    return finite(sum_dy) & finite(products) & (
        (fabs(products) >= bound) | ((sum_dy == 0.0) & (products == 0.0)))

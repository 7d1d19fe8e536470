# Statistics of float64 whose sums overflow, as squares do from 1e154 on. All values are scaled by a power
# of two and read again, which is slow and rare.

from libc.math cimport frexp, ldexp

cdef enum:
    MOST_EXPONENT = 1022    # of two: the inverse is a normal number, which no rounding mode flushes to zero

cdef struct Scaled:         # moments of the values times `scale`
    bint found              # False if a value is not finite
    int exponent            # scale = 2**-exponent
    double scale
    Moments moments


cdef inline double value_at(const Job* job, Py_ssize_t n, Py_ssize_t c, Py_ssize_t i) noexcept nogil:
    return (<const double*> at(job, &job.x, row_at(job.index, n), c, i))[0]


cdef int exponent_of(const Job* job, Py_ssize_t c0, Py_ssize_t c1) noexcept nogil:
    # The exponent of the largest value of some channels; 0 if one is not finite.
    cdef double largest = 0, v
    cdef Py_ssize_t n, c, i
    cdef int out = 0
    for n in range(job.n):
        for c in range(c0, c1):
            for i in range(job.s):
                v = fabs(value_at(job, n, c, i))
                if not finite(v):
                    return 0
                if v > largest:
                    largest = v
    frexp(largest, &out)
    return out


cdef Moments moments_of_channels(const Job* job, Py_ssize_t c0, Py_ssize_t c1, double scale) noexcept nogil:
    # One pass for the mean, and one for the squares about it.
    cdef double total = 0, rest = 0, e = 0, q = 0, rest_e = 0, rest_q = 0, mean, d
    cdef Py_ssize_t n, c, i
    for n in range(job.n):
        for c in range(c0, c1):
            for i in range(job.s):
                add_to_sum(&total, &rest, value_at(job, n, c, i) * scale)
    mean = whole_sum(total, rest) / job.values
    for n in range(job.n):
        for c in range(c0, c1):
            for i in range(job.s):
                d = value_at(job, n, c, i) * scale - mean
                add_to_sum(&e, &rest_e, d)
                add_to_sum(&q, &rest_q, d * d)
    return moments_about(mean, job.values, whole_sum(e, rest_e), whole_sum(q, rest_q))


cdef Scaled rescue_mean(Job* job, Py_ssize_t statistic) noexcept nogil:
    # Stores the mean: NaN for other types than float64, and if a value is not finite, wherever it stands.
    cdef Scaled out = Scaled(False, 0, 1.0, Moments(0, 0, 0, 0, 0))
    cdef Py_ssize_t c0 = statistic * job.geometry.channels, c1 = c0 + job.geometry.channels
    if job.type == FLOAT64:
        out.exponent = exponent_of(job, c0, c1)
    if out.exponent <= 0:
        job.mean[statistic] = NAN
        job.low[statistic] = NAN
        return out
    if out.exponent > MOST_EXPONENT:
        out.exponent = MOST_EXPONENT
    out.found = True
    out.scale = ldexp(1.0, -out.exponent)
    out.moments = moments_of_channels(job, c0, c1, out.scale)
    job.mean[statistic] = ldexp(out.moments.mean, out.exponent)
    job.low[statistic] = ldexp(out.moments.low, out.exponent)
    return out


cdef void rescue_m2(Job* job, Py_ssize_t c) noexcept nogil:
    # Mean and M2 of a channel whose M2 was not finite.
    cdef Scaled scaled = rescue_mean(job, c)
    job.m2[c] = ldexp(scaled.moments.m2, 2 * scaled.exponent) if scaled.found else NAN


cdef void rescue_variance(
    Job* job, Py_ssize_t statistic,
    double* rstd,                                                               # OUT (1,)
) noexcept nogil:
    # Mean, variance and rstd of a statistic whose variance was not finite.
    cdef Scaled scaled = rescue_mean(job, statistic)
    cdef double var
    if not scaled.found:
        job.var[statistic] = NAN
        rstd[0] = NAN
        return
    var = scaled.moments.m2 / job.values
    job.var[statistic] = ldexp(var, 2 * scaled.exponent)
    if finite(job.var[statistic]):
        rstd[0] = 1.0 / sqrt(job.var[statistic] + job.eps)
    else:
        # The standard deviation is in range although the variance is not, and eps is negligible.
        rstd[0] = scaled.scale / sqrt(var)

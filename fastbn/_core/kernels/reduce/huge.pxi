# Statistics of a channel of doubles whose sums overflow, as squares do from 1e154 on: all values are scaled by a power
# of two, and read again. This is slow, and rare.

from libc.math cimport fabs, frexp, ldexp

cdef enum:
    MOST_EXPONENT = 1022    # of two: its inverse is a normal number, which no caller's mode flushes to zero


cdef inline double value_at(Job* job, Py_ssize_t n, Py_ssize_t c, Py_ssize_t i) noexcept nogil:
    return (<const double*> at(job, &job.x, row_at(job.index, n), c, i))[0]


cdef int exponent_of(Job* job, Py_ssize_t c) noexcept nogil:
    # Of the largest value of a channel; 0 where one is not finite.
    cdef double largest = 0, v
    cdef Py_ssize_t n, i
    cdef int out = 0
    for n in range(job.n):
        for i in range(job.s):
            v = fabs(value_at(job, n, c, i))
            if not finite(v):
                return 0
            if v > largest:
                largest = v
    frexp(largest, &out)
    return out


cdef Moments moments_of_channel(Job* job, Py_ssize_t c, double scale) noexcept nogil:
    # Of the values times `scale`: a pass for the mean, and one for the squares about it.
    cdef double total = 0, rest = 0, e = 0, q = 0, rest_e = 0, rest_q = 0, mean, d
    cdef Py_ssize_t n, i
    for n in range(job.n):
        for i in range(job.s):
            add_to_sum(&total, &rest, value_at(job, n, c, i) * scale)
    mean = whole_sum(total, rest) / job.values
    for n in range(job.n):
        for i in range(job.s):
            d = value_at(job, n, c, i) * scale - mean
            add_to_sum(&e, &rest_e, d)
            add_to_sum(&q, &rest_q, d * d)
    return moments_about(mean, job.values, whole_sum(e, rest_e), whole_sum(q, rest_q))


cdef void scale_channel(
    Job* job, Py_ssize_t c,
    double* rstd,                                                               # OUT (1,), or NULL for M2, not variance
) noexcept nogil:
    # Mean and variance of a channel for which they were not finite; nothing, where a value is not.
    cdef Moments moments
    cdef int k
    cdef double scale
    if job.type != FLOAT64:
        return
    k = exponent_of(job, c)
    if k <= 0:
        return
    if k > MOST_EXPONENT:
        k = MOST_EXPONENT
    scale = ldexp(1.0, -k)
    moments = moments_of_channel(job, c, scale)
    job.mean[c] = ldexp(moments.mean, k)
    job.low[c] = ldexp(moments.low, k)
    if rstd == NULL:
        job.var[c] = ldexp(moments.m2, 2 * k)
        return
    job.var[c] = ldexp(moments.m2 / job.values, 2 * k)
    if finite(job.var[c]):
        rstd[0] = 1.0 / sqrt(job.var[c] + job.eps)
    else:
        # The standard deviation is in range where the variance is not, and eps is nothing beside it.
        rstd[0] = scale / sqrt(moments.m2 / job.values)

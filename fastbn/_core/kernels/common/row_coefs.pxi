# Constants of layer norm and RMS norm: a statistic per row, parameters per column.
#
# a) xhat = (x - m) * r + s, with m the mean and r = rstd rounded to `real`, and s what the rounding of m left over.
#    RMS norm is taken about zero: xhat = x * r.
# b) y = xhat * gamma + beta. A constant row has xhat = 0, and so exactly beta.
# c) dx = r * ((gamma * dy + b * (x - m)) + c). b is of the order of dy / x, as in coefs.pxi. RMS norm has no c.
# d) The statistics of up to ROWS_ABREAST rows lie side by side, so that their square roots and divisions are vectors.

cdef enum:              # rows of Coefs
    GAMMA = 0
    BETA = 1
    PARAMETERS = 2

cdef enum:              # constants of a row
    ROW_M = 0
    ROW_R = 1
    ROW_S = 2
    ROW_B = 3
    ROW_C = 4
    ROW_COEFS = 5

cdef enum:
    ROWS_ABREAST = 16

cdef struct RowGroup:   # rows first .. first + count
    Py_ssize_t first
    int count           # at most ROWS_ABREAST

cdef struct RowStatistics:
    double n                        # values of each row
    double[ROWS_ABREAST] mean
    double[ROWS_ABREAST] low
    double[ROWS_ABREAST] m2
    double[ROWS_ABREAST] rest       # second word of m2, during a merge
    double[ROWS_ABREAST] rstd


cdef inline double plain_nan(double value) noexcept nogil:
    # A NaN becomes the one without a payload (halves.pxi).
    return value if value == value else NAN


cdef void parameter_coefs(Job* job, const real* kind) noexcept nogil:
    # gamma and beta in the type that elements are computed in.
    cdef real* gamma = <real*> coef_row(job.coefs, GAMMA, kind)
    cdef real* beta = <real*> coef_row(job.coefs, BETA, kind)
    cdef Py_ssize_t c
    for c in range(job.c):
        gamma[c] = <real> plain_nan(job.gamma[c])
        beta[c] = <real> plain_nan(job.beta[c] if job.beta != NULL else 0.0)


cdef inline Moments from_zero(Moments a) noexcept nogil:
    # The sum of squares about zero as M2.
    add_between(&a.m2, &a.rest, a.mean, a.low, Pair(n=a.n, share=0, weight=a.n, rest=0))
    return Moments(a.n, 0, 0, whole_sum(a.m2, a.rest), 0)


cdef double rescued_rstd(const Job* job, Py_ssize_t row, double* mean, double* low) noexcept nogil:
    # The statistics of a row of float64 whose squares overflow; NaN if a value is not finite.
    cdef Job one = job[0]
    cdef double var = 0, rstd = NAN
    cdef Scaled scaled
    one.n = 1
    one.c = 1
    one.s = job.c
    one.geometry = Geometry(samples=1, channels=1, groups=1)
    one.x.p = at(job, &job.x, row, 0, 0)
    one.mean = mean
    one.low = low
    one.var = &var
    if not job.from_zero:
        rescue_variance(&one, 0, &rstd)
        return rstd
    scaled = rescue_mean(&one, 0)
    mean[0] = 0
    low[0] = 0
    return scaled.scale / sqrt(from_zero(scaled.moments).m2 / job.values) if scaled.found else NAN


cdef void row_statistics(
    Job* job, RowGroup rows,
    RowStatistics* out,                                 # IN m2, OUT rstd
    const real* kind,
) noexcept nogil:
    # From moments to statistics, which are kept if the job has vectors for them.
    cdef double n = job.values, eps = job.eps
    cdef int k, whole = 1
    for k in range(rows.count):
        out.rstd[k] = 1.0 / sqrt(out.m2[k] / n + eps)
        whole &= finite(out.m2[k])
    if real is double:
        for k in range(rows.count):
            out.rstd[k] += left_of_rstd(out.m2[k], n, out.m2[k] / n, eps, out.rstd[k])
    for k in range(0 if whole else rows.count):
        if not finite(out.m2[k]):
            out.rstd[k] = rescued_rstd(job, rows.first + k, out.mean + k, out.low + k)
    if job.rstd == NULL:
        return
    for k in range(rows.count):
        job.rstd[rows.first + k] = out.rstd[k]
        if not job.from_zero:
            job.mean[rows.first + k] = out.mean[k]
            job.low[rows.first + k] = out.low[k]


cdef inline void kept_statistics(const Job* job, RowGroup rows, RowStatistics* out) noexcept nogil:
    # Those of the forward, for a backward.
    cdef int k
    for k in range(rows.count):
        out.mean[k] = 0 if job.from_zero else job.mean[rows.first + k]
        out.low[k] = 0 if job.from_zero else job.low[rows.first + k]
        out.rstd[k] = job.rstd[rows.first + k]


cdef inline void forward_row_coefs(
    const RowStatistics* given, int count,
    real* out,                                          # OUT (ROW_COEFS, ROWS_ABREAST)
) noexcept nogil:
    cdef int k
    for k in range(count):
        out[ROW_M * ROWS_ABREAST + k] = <real> plain_nan(given.mean[k])
        out[ROW_R * ROWS_ABREAST + k] = <real> plain_nan(given.rstd[k])
        out[ROW_S * ROWS_ABREAST + k] = <real> plain_nan(
            -((given.mean[k] - out[ROW_M * ROWS_ABREAST + k]) + given.low[k]) * given.rstd[k])


cdef inline void gradient_row_coefs(
    const Job* job, const RowStatistics* given, int count,
    const double* sums,                                 # IN  (count, 2): of v = gamma * dy, and of v * (x - m)
    real* out,                                          # OUT (ROW_COEFS, ROWS_ABREAST), IN those of the forward
) noexcept nogil:
    # The mean of (x - mean) is zero, that of (x - m) is `left`.
    cdef double n = job.values, left, b
    cdef int k
    for k in range(count):
        left = (given.mean[k] - out[ROW_M * ROWS_ABREAST + k]) + given.low[k]
        b = -((sums[2 * k + 1] - left * sums[2 * k]) * given.rstd[k] / n) * given.rstd[k]
        out[ROW_B * ROWS_ABREAST + k] = <real> plain_nan(b)
        out[ROW_C * ROWS_ABREAST + k] = <real> plain_nan(-(sums[2 * k] / n) - b * left)

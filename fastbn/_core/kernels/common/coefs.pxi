# Constants of the elementwise passes, from statistics and parameters.
#
# a) y = (x - m) * scale + shift, with m the mean rounded to `real`, scale = gamma * rstd, and shift = beta minus what
#    the rounding of m left over. All of it is computed in double and rounded once.
# b) dx = DX_SCALE * ((dy + DX_X * (x - m)) + DX_1). DX_X is of the order of dy / x, so it is in range whenever dx is,
#    for a gamma of ordinary size. With several channels per statistic dy is DX_WEIGHT * dy, and the weight is gamma.
# c) Channels are computed in tiles. Those that share a statistic are pooled first (pool.pxi).

cdef enum:              # rows of Coefs
    SUBTRACT = 0        # m
    SCALE = 1
    SHIFT = 2
    FORWARD_COEFS = 3
    DX_X = 3
    DX_1 = 4
    DX_SCALE = 5
    DX_WEIGHT = 6
    BACKWARD_COEFS = 7


cdef inline const real* coef_row(Coefs coefs, int row, const real* kind) noexcept nogil:
    return <const real*> coefs.p + row * coefs.step


cdef inline Coefs coefs_from(Coefs coefs, Py_ssize_t first, const real* kind) noexcept nogil:
    # The constants from column or channel `first` on.
    coefs.p += first * <Py_ssize_t> sizeof(real)
    return coefs


cdef inline void set_coefs(
    Coefs coefs, Py_ssize_t c, int width, int row,
    const double* values,                               # IN  (width,)
    const real* kind,
) noexcept nogil:
    # A NaN becomes the one without a payload (halves.pxi).
    cdef real* out = <real*> coefs.p + row * coefs.step + c
    cdef Py_ssize_t k
    cdef int j
    for k in range(coefs.repeats):
        for j in range(width):
            out[j] = <real> (values[j] if values[j] == values[j] else NAN)
        out += coefs.channels


cdef struct Affine:     # of some channels
    const double* mean
    const double* low
    const double* scale
    const double* beta


cdef void affine_coefs(
    Coefs coefs, Py_ssize_t c, int width,
    Affine given,                                       # IN  (width,), width <= TILE
    const real* kind,
) noexcept nogil:
    cdef double m[TILE]
    cdef double shift[TILE]
    cdef int j
    for j in range(width):
        m[j] = <real> given.mean[j]
        shift[j] = given.beta[j] - ((given.mean[j] - m[j]) + given.low[j]) * given.scale[j]
    set_coefs(coefs, c, width, SUBTRACT, m, kind)
    set_coefs(coefs, c, width, SCALE, given.scale, kind)
    set_coefs(coefs, c, width, SHIFT, shift, kind)


cdef inline double left_of_rstd(double m2, double n, double var, double eps, double rstd) noexcept nogil:
    # The rounding errors of var = m2 / n and rstd = 1 / sqrt(var + eps), by a step of Newton's iteration. With four
    # roundings in scale, float64 would exceed the 4 rounding units that y may be off.
    cdef double total = var + eps, part = total - var
    cdef double rest = (var - (total - part)) + (eps - part)
    cdef double product = var * n
    cdef double left
    rest += ((m2 - product) - left_of_product(var, n, product)) / n
    product = total * rstd
    left = left_of_product(total, rstd, product)
    part = product * rstd
    left = 0.5 * rstd * (((1.0 - part) - left_of_product(product, rstd, part)) - (left + rest * rstd) * rstd)
    return left if finite(left) else 0.0


cdef inline double scaled_by(double gamma, double rstd, double left) noexcept nogil:
    # gamma * (rstd + left), rounded once.
    cdef double product = gamma * rstd
    cdef double rest = left_of_product(gamma, rstd, product) + gamma * left
    return product + rest if finite(rest) else product


cdef inline void set_rstd(
    Job* job, Py_ssize_t k, int width,                  # statistics k .. k + width
    const double* m2,                                   # IN  (width,)
    double* rstd, double* left,                         # OUT (width,): two words
    const real* kind,
) noexcept nogil:
    # From M2 to variance and rstd.
    cdef double var[TILE]
    cdef double n = job.values, eps = job.eps, bad = 0
    cdef int j
    for j in range(width):
        var[j] = m2[j] / n
        rstd[j] = 1.0 / sqrt(var[j] + eps)
        left[j] = left_of_rstd(m2[j], n, var[j], eps, rstd[j]) if real is double else 0.0
    for j in range(width):
        job.var[k + j] = var[j]
        bad += var[j] - var[j]      # NaN if one is not finite
    for j in range(width):
        if bad != 0 and not finite(var[j]):
            rescue_variance(job, k + j, &rstd[j])
            left[j] = 0
    for j in range(width):
        job.rstd[k + j] = rstd[j] + left[j]


cdef inline double scale_of(double gamma, double rstd, double left, const real* kind) noexcept nogil:
    return scaled_by(gamma, rstd, left) if real is double else rstd * gamma


cdef void forward_coefs(Job* job, Py_ssize_t c, int width, const real* kind) noexcept nogil:
    # From mean and M2 to variance, rstd and the constants of y.
    cdef double rstd[TILE]
    cdef double left[TILE]
    cdef double scale[TILE]
    cdef int j
    set_rstd(job, c, width, job.m2 + c, rstd, left, kind)
    for j in range(width):
        scale[j] = scale_of(job.gamma[c + j], rstd[j], left[j], kind)
    affine_coefs(job.coefs, c, width, Affine(job.mean + c, job.low + c, &scale[0], job.beta + c), kind)


cdef inline double left_of_mean(const Job* job, Py_ssize_t k, const real* kind) noexcept nogil:
    # The mean less m.
    return (job.mean[k] - <double> (<real> job.mean[k])) + job.low[k]


cdef void gradient_coefs(Job* job, Py_ssize_t c, int width, const real* kind) noexcept nogil:
    # From the sums to dgamma and the constants of dx. The mean of (x - mean) is zero, that of (x - m) is `left`.
    cdef double a[TILE]
    cdef double b[TILE]
    cdef double d[TILE]
    cdef double n = job.values
    cdef double rstd, left, dgamma
    cdef int j
    for j in range(width):
        rstd = job.rstd[c + j]
        left = left_of_mean(job, c + j, kind)
        dgamma = (job.products[c + j] - left * job.sum_dy[c + j]) * rstd
        job.dgamma[c + j] = dgamma
        a[j] = job.gamma[c + j] * rstd
        b[j] = -(dgamma / n) * rstd
        d[j] = -(job.sum_dy[c + j] / n) - b[j] * left
    set_coefs(job.coefs, c, width, DX_X, b, kind)
    set_coefs(job.coefs, c, width, DX_1, d, kind)
    set_coefs(job.coefs, c, width, DX_SCALE, a, kind)


cdef void prepare_gradient(Job* job, Py_ssize_t c, int width, const real* kind) noexcept nogil:
    # What a backward needs before it reduces: m, and with an activation the constants of y. Without a reduction, also
    # those of dx.
    cdef double mean[TILE]
    cdef double low[TILE]
    spread(job.geometry.channels, c, width, job.mean, mean)
    if job.gate == REPLAY or job.upstream.p != NULL:
        spread(job.geometry.channels, c, width, job.low, low)
        affine_coefs(job.coefs, c, width, Affine(&mean[0], &low[0], job.scale + c, job.shift + c), kind)
    else:
        set_coefs(job.coefs, c, width, SUBTRACT, mean, kind)
    if not job.reduces:
        gradient_coefs(job, c, width, kind)


cdef void prepare_channels(Job* job, Py_ssize_t c0, Py_ssize_t c1, const real* kind) noexcept nogil:
    cdef Py_ssize_t c = c0
    while c < c1:
        prepare_gradient(job, c, <int> least(TILE, c1 - c), kind)
        c += TILE


cdef void finish_channels(Job* job, Py_ssize_t c0, Py_ssize_t c1, const real* kind) noexcept nogil:
    # From the results of the reduction to the constants of the elementwise pass.
    cdef Py_ssize_t c = c0
    if job.geometry.channels > 1:
        finish_pools(job, c0 // job.geometry.channels, c1 // job.geometry.channels, kind)
        return
    while c < c1:
        if job.gradient:
            gradient_coefs(job, c, <int> least(TILE, c1 - c), kind)
        else:
            forward_coefs(job, c, <int> least(TILE, c1 - c), kind)
        c += TILE


cdef inline void store_moments(Job* job, Py_ssize_t c, const Moments* moments) noexcept nogil:
    # The result of a forward's reduction.
    job.channel_mean[c] = moments.mean
    job.channel_low[c] = moments.low
    job.m2[c] = whole_sum(moments.m2, moments.rest)
    if not job.applies and not finite(job.m2[c]):
        rescue_m2(job, c)


cdef inline void store_sums(Job* job, Py_ssize_t c, double sum_dy, double products) noexcept nogil:
    # The result of a backward's reduction.
    job.sum_dy[c] = sum_dy
    job.products[c] = products

# Statistics of several channels (group norm, layer norm over channels and space), from the results of single channels.
#
# a) The channels of a statistic have equal counts. The pooled mean is the first mean plus the average distance from it,
#    and M2 is the sum of the channels' M2 and of the squared distances between the means: no sum cancels.
# b) With G1 and G2 the sums of gamma * dbeta and gamma * dgamma over the channels, and x_hat the normalized x,
#    dx = rstd * ((gamma * dy - x_hat * G2 / n) - G1 / n). Nothing is divided by gamma, which may be 0.


cdef void spread_statistics(
    const Job* job, Py_ssize_t c, int width,
    const double* values,                               # IN  (statistics,)
    double* out,                                        # OUT (width,)
) noexcept nogil:
    # The value of every channel's statistic.
    cdef Py_ssize_t channels = job.geometry.channels, k = c // channels, stop = (k + 1) * channels - c
    cdef int j
    if channels == 1:
        for j in range(width):
            out[j] = values[c + j]
        return
    for j in range(width):
        if j == stop:
            k += 1
            stop += channels
        out[j] = values[k]


cdef double pool_moments(Job* job, Py_ssize_t k, const real* kind) noexcept nogil:
    # Stores the mean of statistic k, and returns its M2.
    cdef Py_ssize_t channels = job.geometry.channels, c
    cdef double* means = job.channel_mean + k * channels
    cdef double* lows = job.channel_low + k * channels
    cdef double* squares = job.m2 + k * channels
    cdef Pair pair = Pair(0, 0, job.values / <double> channels, 0)      # the weight of a distance: values per channel
    cdef double mean = means[0], low = lows[0], total = 0, rest = 0, delta, delta_rest
    for c in range(1, channels):
        distance(means[0], lows[0], means[c], lows[c], &delta, &delta_rest)
        add_to_sum(&total, &rest, delta)
    add_to_mean(&mean, &low, whole_sum(total, rest) / <double> channels + low)
    total = 0
    rest = 0
    for c in range(channels):
        distance(mean, low, means[c], lows[c], &delta, &delta_rest)
        add_to_sum(&total, &rest, squares[c])
        if real is double:
            add_between(&total, &rest, delta, delta_rest, pair)
        else:
            add_to_sum(&total, &rest, delta * delta * pair.weight)
    job.mean[k] = mean
    job.low[k] = low
    return whole_sum(total, rest)


cdef void pooled_forward(Job* job, Py_ssize_t k, const real* kind) noexcept nogil:
    # The mean, variance and rstd of statistic k, and the constants of y.
    cdef Py_ssize_t c = k * job.geometry.channels, stop = c + job.geometry.channels
    cdef double mean[TILE]
    cdef double low[TILE]
    cdef double scale[TILE]
    cdef double m2 = pool_moments(job, k, kind)
    cdef double rstd, left
    cdef int j, width
    set_rstd(job, k, 1, &m2, &rstd, &left, kind)
    while c < stop:
        width = <int> least(TILE, stop - c)
        for j in range(width):
            mean[j] = job.mean[k]
            low[j] = job.low[k]
            scale[j] = scale_of(job.gamma[c + j], rstd, left, kind)
        affine_coefs(job.coefs, c, width, Affine(&mean[0], &low[0], &scale[0], job.beta + c), kind)
        c += TILE


cdef void pooled_gradient(Job* job, Py_ssize_t k, const real* kind) noexcept nogil:
    # dgamma of the channels of statistic k, and the constants of dx.
    cdef Py_ssize_t first = k * job.geometry.channels, stop = first + job.geometry.channels, c
    cdef double a[TILE]
    cdef double b[TILE]
    cdef double d[TILE]
    cdef double rstd = job.rstd[k], left = left_of_mean(job, k, kind)
    cdef double g1 = 0, g2 = 0, rest1 = 0, rest2 = 0, factor
    cdef int j, width
    for c in range(first, stop):
        job.dgamma[c] = (job.products[c] - left * job.sum_dy[c]) * rstd
        add_to_sum(&g1, &rest1, job.gamma[c] * job.sum_dy[c])
        add_to_sum(&g2, &rest2, job.gamma[c] * job.dgamma[c])
    factor = -(whole_sum(g2, rest2) / job.values) * rstd
    for j in range(TILE):
        a[j] = rstd
        b[j] = factor
        d[j] = -(whole_sum(g1, rest1) / job.values) - factor * left
    while first < stop:
        width = <int> least(TILE, stop - first)
        set_coefs(job.coefs, first, width, DX_X, b, kind)
        set_coefs(job.coefs, first, width, DX_1, d, kind)
        set_coefs(job.coefs, first, width, DX_SCALE, a, kind)
        set_coefs(job.coefs, first, width, DX_WEIGHT, job.gamma + first, kind)
        first += TILE


cdef void finish_pools(Job* job, Py_ssize_t first, Py_ssize_t stop, const real* kind) noexcept nogil:
    # From the results of single channels to the constants of the elementwise pass, for statistics first .. stop.
    cdef Py_ssize_t k
    for k in range(first, stop):
        if job.gradient:
            pooled_gradient(job, k, kind)
        else:
            pooled_forward(job, k, kind)

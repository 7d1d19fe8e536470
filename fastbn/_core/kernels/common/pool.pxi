# Statistics of several channels (group norm, layer norm over channels and space), from the results of single channels.
#
# a) The channels of a statistic have equal counts. The pooled mean is the first mean plus the average distance from it,
#    and M2 is the sum of the channels' M2 and of the squared distances between the means: no sum cancels.
# b) With G1 and G2 the sums of gamma * dbeta and gamma * dgamma over the channels, and x_hat the normalized x,
#    dx = rstd * ((gamma * dy - x_hat * G2 / n) - G1 / n). Nothing is divided by gamma, which may be 0.
# c) Joined channels (schedule/planes.pxi) have common moments already.
# d) Up to TILE statistics are finished side by side, and then the constants of their channels, tile by tile.


cdef inline void spread(
    Py_ssize_t channels, Py_ssize_t c, int width,       # of a statistic; channels c .. c + width
    const double* values,                               # IN  of statistics, the first one that of channel 0
    double* out,                                        # OUT (width,)
) noexcept nogil:
    # The value of every channel's statistic.
    cdef Py_ssize_t k = c // channels, stop = (k + 1) * channels - c
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


cdef inline void add_term(double* total, double* rest, double term, const real* kind) noexcept nogil:
    # Only results in double need the second word.
    if real is double:
        add_to_sum(total, rest, term)
    else:
        total[0] += term


cdef double pool_moments(Job* job, Py_ssize_t k, const real* kind) noexcept nogil:
    # Stores the mean of statistic k, and returns its M2.
    cdef Py_ssize_t channels = job.geometry.channels, c
    cdef const double* means = job.channel_mean + k * channels
    cdef const double* lows = job.channel_low + k * channels
    cdef const double* squares = job.m2 + k * channels
    cdef Pair pair = Pair(0, 0, job.values / <double> channels, 0)      # the weight of a distance: values per channel
    cdef double mean = means[0], low = lows[0], total = 0, rest = 0, delta, delta_rest
    for c in range(1, channels):
        distance(means[0], lows[0], means[c], lows[c], &delta, &delta_rest)
        add_term(&total, &rest, delta, kind)
    add_to_mean(&mean, &low, whole_sum(total, rest) / <double> channels + low)
    total = 0
    rest = 0
    for c in range(channels):
        distance(mean, low, means[c], lows[c], &delta, &delta_rest)
        if real is double:
            add_to_sum(&total, &rest, squares[c])
            add_between(&total, &rest, delta, delta_rest, pair)
        else:
            total += squares[c] + delta * delta * pair.weight
    job.mean[k] = mean
    job.low[k] = low
    return whole_sum(total, rest)


cdef void pooled_forward(Job* job, Py_ssize_t k, int statistics, const real* kind) noexcept nogil:
    # Mean, variance and rstd of some statistics, from k on, and the constants of y.
    cdef Py_ssize_t channels = job.geometry.channels, first = k * channels, c = 0
    cdef double m2[TILE]
    cdef double rstd[TILE]
    cdef double left[TILE]
    cdef double mean_of[TILE]
    cdef double low_of[TILE]
    cdef double left_of[TILE]
    cdef double scale[TILE]
    cdef int j, width
    for j in range(statistics):
        m2[j] = job.m2[k + j] if job.cut.joined > 1 else pool_moments(job, k + j, kind)
    set_rstd(job, k, statistics, m2, rstd, left, kind)
    while c < statistics * channels:
        width = <int> least(TILE, statistics * channels - c)
        spread(channels, c, width, job.mean + k, mean_of)
        spread(channels, c, width, job.low + k, low_of)
        spread(channels, c, width, rstd, scale)
        spread(channels, c, width, left, left_of)
        for j in range(width):
            scale[j] = scale_of(job.gamma[first + c + j], scale[j], left_of[j], kind)
        affine_coefs(job.coefs, first + c, width, Affine(&mean_of[0], &low_of[0], &scale[0], job.beta + first + c),
                     kind)
        c += TILE


cdef void pool_gradients(
    Job* job, Py_ssize_t k,
    double* b, double* d,                               # OUT (1,): DX_X and DX_1
    const real* kind,
) noexcept nogil:
    # Stores dgamma of the channels of statistic k.
    cdef Py_ssize_t channels = job.geometry.channels, c
    cdef double rstd = job.rstd[k], left = left_of_mean(job, k, kind)
    cdef double g1 = 0, g2 = 0, rest1 = 0, rest2 = 0
    for c in range(k * channels, (k + 1) * channels):
        job.dgamma[c] = (job.products[c] - left * job.sum_dy[c]) * rstd
        add_term(&g1, &rest1, job.gamma[c] * job.sum_dy[c], kind)
        add_term(&g2, &rest2, job.gamma[c] * job.dgamma[c], kind)
    b[0] = -(whole_sum(g2, rest2) / job.values) * rstd
    d[0] = -(whole_sum(g1, rest1) / job.values) - b[0] * left


cdef void pooled_gradient(Job* job, Py_ssize_t k, int statistics, const real* kind) noexcept nogil:
    # dgamma, and the constants of dx, for some statistics from k on.
    cdef Py_ssize_t channels = job.geometry.channels, first = k * channels, c = 0
    cdef double b[TILE]
    cdef double d[TILE]
    cdef double coef[TILE]
    cdef int j, width
    for j in range(statistics):
        pool_gradients(job, k + j, &b[j], &d[j], kind)
    while c < statistics * channels:
        width = <int> least(TILE, statistics * channels - c)
        spread(channels, c, width, b, coef)
        set_coefs(job.coefs, first + c, width, DX_X, coef, kind)
        spread(channels, c, width, d, coef)
        set_coefs(job.coefs, first + c, width, DX_1, coef, kind)
        spread(channels, c, width, job.rstd + k, coef)
        set_coefs(job.coefs, first + c, width, DX_SCALE, coef, kind)
        set_coefs(job.coefs, first + c, width, DX_WEIGHT, job.gamma + first + c, kind)
        c += TILE


cdef void finish_pools(Job* job, Py_ssize_t k, Py_ssize_t stop, const real* kind) noexcept nogil:
    # From the results of single channels to the constants of the elementwise pass, for statistics k .. stop.
    while k < stop:
        if job.gradient:
            pooled_gradient(job, k, <int> least(TILE, stop - k), kind)
        else:
            pooled_forward(job, k, <int> least(TILE, stop - k), kind)
        k += TILE

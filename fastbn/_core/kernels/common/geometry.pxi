# Geometry: which statistic an element feeds, and which parameters it uses.
#
# a) Every normalization of the family computes its statistics over `samples` consecutive samples, `channels`
#    consecutive channels and all of space (Wu and He, 2018). gamma and beta belong to single channels.
# b) Statistics are numbered sample group by sample group. Batch norm has one sample group of all samples and one
#    channel per statistic, so statistic c belongs to channel c.
# c) The geometry is settled before any loop runs. It sizes the vectors of statistics, the sums and the partial results.

cdef struct Geometry:
    Py_ssize_t samples          # per statistic
    Py_ssize_t channels         # per statistic
    Py_ssize_t per_group        # statistics of a sample group
    Py_ssize_t statistics       # all of them
    double values               # per statistic


cdef inline Geometry geometry_of(
    Py_ssize_t n, Py_ssize_t c, Py_ssize_t s,           # shape of the arrays
    Py_ssize_t samples, Py_ssize_t channels,
) noexcept nogil:
    cdef Geometry out
    out.samples = samples
    out.channels = channels
    out.per_group = parts(c, channels)
    out.statistics = parts(n, samples) * out.per_group
    out.values = <double> samples * <double> channels * <double> s
    return out


cdef inline Geometry batch_norm_geometry(Py_ssize_t n, Py_ssize_t c, Py_ssize_t s) noexcept nogil:
    return geometry_of(n, c, s, n if n > 0 else 1, 1)


cdef inline Py_ssize_t statistic_of(const Geometry* g, Py_ssize_t n, Py_ssize_t c) noexcept nogil:
    # The statistic that the elements (n, c, ...) feed.
    cdef Py_ssize_t before = 0 if n < g.samples else n // g.samples * g.per_group
    return before + (c if g.channels == 1 else c // g.channels)


cdef inline Py_ssize_t parameter_of(const Geometry* g, Py_ssize_t statistic, Py_ssize_t k) noexcept nogil:
    # The channel whose gamma and beta belong to the k-th channel of a statistic.
    cdef Py_ssize_t first = statistic if statistic < g.per_group else statistic % g.per_group
    return first * g.channels + k

# Geometry: which elements feed a statistic.
#
# a) Every normalization of the family computes its statistics over `samples` consecutive samples, `channels`
#    consecutive channels and all of space (Wu and He, 2018). gamma and beta belong to single channels.
# b) A sample group is a batch norm of its own: schedule/groups.pxi makes a job of it, so no loop knows about groups.
# c) Channels are reduced one by one, and pooled before the constants are made (common/pool.pxi). A forward joins those
#    of one image of planes instead (schedule/planes.pxi).
# d) Statistics are numbered sample group by sample group. Batch norm has one group and one channel per statistic.

cdef struct Geometry:
    Py_ssize_t samples          # per statistic; the last group may have fewer
    Py_ssize_t channels         # per statistic
    Py_ssize_t groups           # of samples


cdef inline bint is_batch_norm(const Geometry* g) noexcept nogil:
    return g.groups == 1 and g.channels == 1

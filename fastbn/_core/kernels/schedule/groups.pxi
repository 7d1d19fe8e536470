# Sample groups: each is a job of its own, a batch norm of fewer samples.
#
# a) Many groups are units: a thread runs all phases of a group while its data are in the cache. A few large groups run
#    one after the other, each by the whole team. Both give the same bits.
# b) All full groups have one plan. The last one may have fewer samples, and then has its own.
# c) dgamma and dbeta of the groups are added in the order of the groups, in two words. The groups of a backward run in
#    batches, whose sums take MOST_SUMS numbers each: a group may be a single row.

cdef enum:
    MOST_SUMS = 131072

cdef struct Groups:
    Job full                    # a full group, planned; with the pointers of the whole job
    Job last
    int team                    # threads of a group
    char* work                  # workspace of groups that run at the same time
    Py_ssize_t bytes            # of one
    Py_ssize_t first            # group of the batch that runs
    Py_ssize_t batch            # groups of a batch; the last one may have fewer
    double* totals              # (4, c): dgamma and dbeta of all groups so far, two words each
    double* sums                # (2, batch, c): dgamma and dbeta of the groups of a batch


cdef Job group_like(const Job* whole, Py_ssize_t samples) noexcept nogil:
    cdef Job out = whole[0]
    out.n = samples
    out.geometry.groups = 1
    out.values = <double> samples * <double> out.geometry.channels * <double> out.s
    return out


cdef inline double* vector_from(const double* vector, Py_ssize_t first) noexcept nogil:
    return NULL if vector == NULL else <double*> vector + first


cdef inline void skip_samples(const Job* job, Array* a, Py_ssize_t n) noexcept nogil:
    if a.p != NULL:
        a.p = at(job, a, n, 0, 0)


cdef void move_to_group(Job* job, Py_ssize_t g) noexcept nogil:
    # Moves the pointers of a group from the first group to group g.
    cdef Py_ssize_t samples = job.geometry.samples
    cdef Py_ssize_t c = g * job.c, k = g * (job.c // job.geometry.channels)
    skip_samples(job, &job.x, g * samples)
    skip_samples(job, &job.residual, g * samples)
    skip_samples(job, &job.y, g * samples)
    skip_samples(job, &job.dy, g * samples)
    skip_samples(job, &job.upstream, g * samples)
    skip_samples(job, &job.dx, g * samples)
    skip_samples(job, &job.dresidual, g * samples)
    if job.bits != NULL:
        job.bits += g * words_of_bits(samples, job.c, job.s)
    job.mean = vector_from(job.mean, k)
    job.low = vector_from(job.low, k)
    job.rstd = vector_from(job.rstd, k)
    job.var = vector_from(job.var, k)
    job.scale = vector_from(job.scale, c)


cdef inline bint adds_sums(const Job* whole) noexcept nogil:
    return whole.gradient and whole.geometry.groups > 1


cdef inline Py_ssize_t sums_of_groups(const Job* whole) noexcept nogil:
    # Numbers of `totals` and `sums`.
    return (4 + 2 * whole.groups.batch) * whole.c if adds_sums(whole) else 0


cdef void set_group_sums(const Job* whole, double* work) noexcept nogil:
    cdef Groups* groups = whole.groups
    if adds_sums(whole):
        groups.totals = work
        groups.sums = work + 4 * whole.c
        memset(groups.totals, 0, 4 * whole.c * sizeof(double))


cdef void run_group(Job* whole, Py_ssize_t unit, int thread) noexcept nogil:
    # Group `unit` of the batch.
    cdef const Groups* groups = whole.groups
    cdef Py_ssize_t g = groups.first + unit
    cdef Job job = groups.last if g == whole.geometry.groups - 1 else groups.full
    move_to_group(&job, g)
    if adds_sums(whole):
        job.dgamma = groups.sums + unit * job.c
        job.sum_dy = job.dgamma + groups.batch * job.c
    set_workspace(&job, groups.work + thread * groups.bytes, groups.team)
    run(&job, groups.team)
    if job.stop:
        whole.error = job.error
        whole.stop = True


cdef void add_group_sums(Job* whole, Py_ssize_t unit) noexcept nogil:
    # Adds dgamma and dbeta of the groups of a batch to the totals, for a tile of channels.
    cdef const Groups* groups = whole.groups
    cdef Py_ssize_t c = unit * TILE, size = groups.batch * whole.c, g, k
    cdef Py_ssize_t count = least(groups.batch, whole.geometry.groups - groups.first)
    cdef int width = <int> least(TILE, whole.c - c), j
    cdef double* total1 = groups.totals + c
    cdef double* rest1 = total1 + whole.c
    cdef double* total2 = rest1 + whole.c
    cdef double* rest2 = total2 + whole.c
    for g in range(count):
        k = g * whole.c + c
        for j in range(width):
            add_to_sum(total1 + j, rest1 + j, groups.sums[k + j])
            add_to_sum(total2 + j, rest2 + j, groups.sums[size + k + j])
    if groups.first + count == whole.geometry.groups:
        for j in range(width):
            whole.dgamma[c + j] = whole_sum(total1[j], rest1[j])
            whole.sum_dy[c + j] = whole_sum(total2[j], rest2[j])

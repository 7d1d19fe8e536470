# Sample groups: each is a job of its own, a batch norm of fewer samples.
#
# a) Many groups are units: a thread runs all phases of a group while its data are in the cache. A few large groups run
#    one after the other, each by the whole team. Both give the same bits.
# b) All full groups have one plan. The last one may have fewer samples, and then has its own.
# c) dgamma and dbeta of the groups are kept, and added in the order of the groups.

cdef struct Groups:
    Job full                    # a full group, planned; with the pointers of the whole job
    Job last
    int team                    # threads of a group
    char* work                  # workspace of groups that run at the same time
    Py_ssize_t bytes            # of one


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
    job.sum_dy = vector_from(job.sum_dy, c)
    job.dgamma = vector_from(job.dgamma, c)
    job.scale = vector_from(job.scale, c)


cdef void run_group(Job* whole, Py_ssize_t g, int thread) noexcept nogil:
    cdef const Groups* groups = whole.groups
    cdef Job job = groups.last if g == whole.geometry.groups - 1 else groups.full
    move_to_group(&job, g)
    set_workspace(&job, groups.work + thread * groups.bytes, groups.team)
    run(&job, groups.team)
    if job.stop:
        whole.error = job.error
        whole.stop = True


cdef void add_group_sums(Job* whole, Py_ssize_t unit) noexcept nogil:
    # Adds dgamma and dbeta of all groups to those of the first, for a tile of channels.
    cdef Py_ssize_t c = unit * TILE, g
    cdef int width = <int> least(TILE, whole.c - c), j
    cdef double rest1[TILE]
    cdef double rest2[TILE]
    cdef double* dgamma = whole.dgamma + c
    cdef double* dbeta = whole.sum_dy + c
    for j in range(width):
        rest1[j] = 0
        rest2[j] = 0
    for g in range(1, whole.geometry.groups):
        for j in range(width):
            add_to_sum(dgamma + j, rest1 + j, dgamma[g * whole.c + j])
            add_to_sum(dbeta + j, rest2 + j, dbeta[g * whole.c + j])
    for j in range(width):
        dgamma[j] = whole_sum(dgamma[j], rest1[j])
        dbeta[j] = whole_sum(dbeta[j], rest2[j])

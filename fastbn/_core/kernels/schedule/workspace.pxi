# The memory of a job: the ReLU bits, and a workspace of partial results and scratch in double, then of constants in the
# type of the elements.


cdef Py_ssize_t words_of_bits(Py_ssize_t n, Py_ssize_t c, Py_ssize_t s) noexcept nogil:
    # ReLU bits of arrays: planes, or rows, which are read as wide rows where they are narrow.
    cdef Py_ssize_t k
    if s > 1:
        return n * c * parts(s, LANES)
    k = repeats_of(n, c)
    return n // k * parts(k * c, LANES) + parts(n % k * c, LANES)


cdef inline Py_ssize_t results_of(const Job* job) noexcept nogil:
    # Of the units, one each per channel.
    return (job.cut.units if job.s == 1 else job.cut.spans) * job.c


cdef inline Py_ssize_t channel_vectors(const Job* job) noexcept nogil:
    # Results of single channels that the API does not ask for: of sample groups or pooled channels.
    return 3 if job.groups != NULL else 0


cdef Py_ssize_t workspace_of(const Job* job, int threads) noexcept nogil:
    # Bytes, a multiple of a cache line.
    cdef Py_ssize_t doubles = channel_vectors(job) * job.c
    cdef Py_ssize_t coefs = (BACKWARD_COEFS if job.gradient else FORWARD_COEFS) * job.coefs.step
    cdef Py_ssize_t bytes = coefs * (8 if job.type == FLOAT64 else 4)
    if job.reduces:
        # Three results per unit and channel of a forward, two of a backward.
        doubles += (2 if job.gradient else 3) * results_of(job)
        bytes += threads * <Py_ssize_t> sizeof(Scratch) if job.s == 1 else 0
    return parts(bytes + doubles * <Py_ssize_t> sizeof(double), LINE) * LINE


cdef void set_workspace(Job* job, char* work, int threads) noexcept nogil:
    cdef Py_ssize_t count = results_of(job)
    cdef bint pooled = job.geometry.channels > 1 and job.cut.joined <= 1
    cdef double* p = <double*> work
    if channel_vectors(job) != 0:
        if job.gradient:
            job.products = p
        else:
            job.m2 = p
            job.channel_mean = p + job.c if pooled else job.mean
            job.channel_low = p + 2 * job.c if pooled else job.low
        p += channel_vectors(job) * job.c
    if job.reduces:
        job.partials.mean = job.partials.sum_dy = p
        job.partials.low = job.partials.products = p + count
        job.partials.m2 = p + 2 * count
        p += (2 if job.gradient else 3) * count
        job.scratch = <char*> p
        if job.s == 1:
            p = <double*> (job.scratch + threads * <Py_ssize_t> sizeof(Scratch))
    job.coefs.p = <char*> p

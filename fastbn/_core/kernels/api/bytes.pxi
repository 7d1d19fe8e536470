# The call that Python makes for statistics of uint8.

cdef void plan_bytes(Job* job) noexcept:
    if job.s == 1:
        job.repeats = repeats_of(job.n, job.c) if job.x.step_n == job.c else 1
        job.wide_rows = job.n // job.repeats
        job.unit_rows = parts(BYTES_UNIT, job.c * job.repeats)
        job.units = parts(job.wide_rows, job.unit_rows) + (1 if job.n % job.repeats else 0)
        add_phase(job, BYTES_OF_ROWS, job.units)
    else:
        job.span_images = parts(BYTES_UNIT, job.s)
        job.spans = parts(job.n, job.span_images)
        add_phase(job, BYTES_OF_PLANES, job.spans * job.c)


def byte_statistics(View x, num_threads):
    """What `statistics` returns, of uint8."""
    cdef Job job
    cdef cnp.ndarray mean = np.empty(x.c)
    cdef cnp.ndarray low = np.empty(x.c)
    cdef cnp.ndarray m2 = np.empty(x.c)
    cdef double n = <double> x.n * <double> x.s, s1, s2, pivot, e
    cdef Py_ssize_t c, u, units
    cdef Moments moments
    cdef int threads = 1
    cdef bint large
    begin(&job, x)
    large = x.size >= SERIAL_BYTES_PLANES
    job.watch = x.size >= WATCH_BYTES
    plan_bytes(&job)
    units = job.units if job.s == 1 else job.spans
    job.part1 = scratch_of(2 * units * job.c)
    job.part2 = job.part1 + units * job.c
    try:
        if large:
            threads = enter_team(num_threads)
            try:
                run_team(&job, threads)
            finally:
                leave_team()
        else:
            run(&job, 1)
        for c in range(job.c):
            s1 = 0
            s2 = 0
            for u in range(units):
                s1 += job.part1[u * job.c + c if job.s == 1 else c * units + u]
                s2 += job.part2[u * job.c + c if job.s == 1 else c * units + u]
            # About an integer near the mean, so that nothing is rounded but at the end.
            pivot = rint(s1 / n)
            e = s1 - n * pivot
            moments = moments_about(pivot, n, e, s2 - pivot * (s1 + e))
            vector(mean)[c] = moments.mean
            vector(low)[c] = moments.low
            vector(m2)[c] = moments.m2
    finally:
        free(job.part1)
    return mean, low, m2

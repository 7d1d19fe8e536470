# Statistics alone: mean and M2 of every channel.

cdef void plan_bytes(Job* job) noexcept:
    cdef Cut* cut = &job.cut
    if job.s == 1:
        cut_rows(job)
        cut.unit_rows = parts(BYTES_UNIT, job.c * cut.repeats)
        cut.units = units_of(job)
        add_phase(job, BYTES_OF_ROWS, cut.units)
    else:
        cut.span_images = parts(BYTES_UNIT, job.s)
        cut.spans = parts(job.n, cut.span_images)
        add_phase(job, BYTES_OF_PLANES, cut.spans * job.c)


cdef void add_units(Job* job) noexcept:
    # From the sums of the units of uint8 to moments.
    cdef Py_ssize_t c, u, i
    cdef Py_ssize_t units = job.cut.units if job.s == 1 else job.cut.spans
    cdef double n = job.values, sum_x, sum_xx, pivot, e
    cdef Moments moments
    for c in range(job.c):
        sum_x = 0
        sum_xx = 0
        for u in range(units):
            i = u * job.c + c if job.s == 1 else c * units + u
            sum_x += job.partials.sum_x[i]
            sum_xx += job.partials.sum_xx[i]
        # About an integer near the mean, so that only the result is rounded.
        pivot = rint(sum_x / n)
        e = sum_x - n * pivot
        moments = moments_about(pivot, n, e, sum_xx - pivot * (sum_x + e))
        store_moments(job, c, &moments)


cdef int reduce_bytes(Job* job, Py_ssize_t size, object num_threads) except -1:
    cdef bint large = size >= SERIAL_BYTES_PLANES
    cdef Py_ssize_t count
    job.watch = size >= WATCH_BYTES
    plan_bytes(job)
    count = results_of(job)
    job.partials.sum_x = scratch_of(2 * count)
    job.partials.sum_xx = job.partials.sum_x + count
    try:
        if large:
            run_job(job, num_threads)
        else:
            run(job, 1)
        add_units(job)
    finally:
        free(job.partials.sum_x)
    return 0


def reduce(View x not None, *, bint whole, num_threads):
    """Compute the statistics of every channel, in double lanes.

    Parameters
    ----------
    x : View                        IN
        Of uint8 too; the sums of uint8 are exact.
    whole : bool
        Whether all values are integers, whose sums are then exact.
    num_threads : int or None

    Returns
    -------
    mean, low, m2 : ndarray of float64, shape (C,)
        The mean in two words, and the sum of squared distances from it.
    """
    cdef Job job
    cdef cnp.ndarray mean, low, m2
    if x.size == 0:
        raise ValueError("x is empty; expected one value or more")
    begin(&job, x)
    mean = np.empty(x.c)
    low = np.empty(x.c)
    m2 = np.empty(x.c)
    job.reduces = True
    job.exact = True
    job.whole = whole
    job.mean = job.channel_mean = vector(mean)
    job.low = job.channel_low = vector(low)
    job.m2 = vector(m2)
    if job.type == UINT8:
        reduce_bytes(&job, x.size, num_threads)
    else:
        execute(&job, num_threads)
    return mean, low, m2

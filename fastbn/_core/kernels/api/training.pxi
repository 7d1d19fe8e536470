# The calls that Python makes for training and statistics: gather pointers, plan, allocate, run. The plan is that of
# inference too.
#
# The arrays have been checked by then (views.pyx); what is left to fail is a vector of the wrong length, a thread count
# and memory, and nothing has been written when they do.

from libc.stdlib cimport free, malloc

import numpy as np

cimport numpy as cnp

from fastbn._core.views cimport View, like, load_vector, output, same_vector, view

from fastbn._core.kernels.cpu import cache_bytes, last_cache_bytes

cnp.import_array()

cdef Py_ssize_t CACHE = cache_bytes() * 6 // 10     # of the second level, for what one thread works on
cdef Py_ssize_t LAST_CACHE = last_cache_bytes()     # what all threads share
# Of traffic, some 20 us of it, below which a second thread costs more than it brings, and so does giving up the GIL: a
# reduction has more to do for a byte, over planes most of all, and so has an activation with an exponential.
cdef Py_ssize_t SERIAL_BYTES = 1024 * 1024
cdef Py_ssize_t SERIAL_BYTES_ROWS = 512 * 1024
cdef Py_ssize_t SERIAL_BYTES_PLANES = 256 * 1024


def assume_last_cache(Py_ssize_t nbytes):
    """Plan for a last cache of another size from now on, as tests do; returns what it was."""
    global LAST_CACHE
    before = LAST_CACHE
    LAST_CACHE = nbytes
    return before


def openmp_version():
    """The date of the OpenMP specification that this module was built for, or 0 without OpenMP."""
    return FASTBN_OPENMP


cdef inline Block block_of(View view) noexcept:
    cdef Block out
    out.p = view.p
    out.step_n = view.step_n
    out.step_c = view.step_c
    return out


cdef void begin(Job* job, View x) noexcept:
    memset(job, 0, sizeof(Job))
    job.type = x.type
    job.itemsize = x.itemsize
    job.n = x.n
    job.c = x.c
    job.s = x.s
    job.x = block_of(x)
    if x.chosen is not None:
        job.index = <const Py_ssize_t*> cnp.PyArray_DATA(x.chosen)
        job.rows = x.rows
    job.values = <double> x.n * <double> x.s
    job.y = job.r = job.g = job.x       # the steps of absent arrays agree with x
    job.y.p = NULL
    job.r.p = NULL
    job.g.p = NULL


cdef inline double* vector(cnp.ndarray a) noexcept:
    return <double*> cnp.PyArray_DATA(a)


cdef bint is_large(Job* job, bint reduce) noexcept:
    # Whether a job is worth a team, and the GIL to others.
    cdef Py_ssize_t arrays = 2 + (job.g.p != NULL) + (job.r.p != NULL)
    cdef Py_ssize_t elements = job.n * job.c * job.s * arrays
    if job.index != NULL and job.fill:
        elements += (job.rows - job.n) * job.c      # rows that are cleared
    # A half takes as long as a float where it does not come from memory.
    cdef Py_ssize_t bytes = elements * (4 if is_half(job.type) else job.itemsize)
    job.watch = elements * job.itemsize >= WATCH_BYTES
    if not reduce:
        return bytes >= (SERIAL_BYTES // 4 if job.activation >= SIGMOID else SERIAL_BYTES)
    return bytes >= (SERIAL_BYTES_ROWS if job.s == 1 else SERIAL_BYTES_PLANES)


cdef inline void add_phase(Job* job, What what, Py_ssize_t count) noexcept:
    job.phases[job.count].what = what
    job.phases[job.count].count = count
    job.count += 1


cdef void plan(Job* job, bint reduce, int threads) noexcept:
    # How the work is cut, and in which order it is done.
    cdef Py_ssize_t tiles = parts(job.c, TILE)
    cdef bint rows = job.s == 1
    if rows:
        plan_rows(job, CACHE, LAST_CACHE, threads)
    else:
        plan_planes(job, CACHE, LAST_CACHE, threads)
    choose_stores(job, LAST_CACHE)
    job.count = 0
    if job.g.p != NULL:
        add_phase(job, COEFS, tiles)
    if reduce and job.group != 0:
        add_phase(job, ROWS_SLAB if rows else PLANES_GROUP, job.slabs if rows else parts(job.c, job.group))
        return
    if reduce:
        add_phase(job, ROWS_REDUCE if rows else PLANES_SPAN, job.units * job.slabs if rows else job.spans * job.c)
        add_phase(job, ROWS_MERGE if rows else PLANES_MERGE, tiles if rows else job.c)
    if job.y.p != NULL:
        add_phase(job, ROWS_TRANSFORM if rows else PLANES_TRANSFORM,
                  job.units * job.slabs if rows else parts(job.n * job.c, job.apply_planes) * job.pieces)


cdef int execute(Job* job, object num_threads) except -1:
    # Training, its backward, or statistics.
    cdef bint large = is_large(job, True)
    cdef int threads = enter_team(num_threads) if large else 1
    cdef Py_ssize_t partial, constants, rooms
    cdef char* work = NULL
    try:
        plan(job, not job.given, threads)
        # double for the partial results and the rooms of the threads, then the arrays' type for the constants
        partial = 3 * (job.units if job.s == 1 else job.spans) * job.c * <Py_ssize_t> sizeof(double)
        if job.given:
            partial = 0
        rooms = threads * <Py_ssize_t> sizeof(Room) if job.s == 1 and not job.given else 0
        constants = (FORWARD_COEFS if job.g.p == NULL else BACKWARD_COEFS) * job.coef_step
        work = <char*> malloc(partial + rooms + constants * (8 if job.type == FLOAT64 else 4))
        if work == NULL:
            raise MemoryError("no memory for the workspace of a batch normalization")
        job.part1 = <double*> work
        job.part2 = job.part1 + partial // <Py_ssize_t> (3 * sizeof(double))
        job.part3 = job.part2 + partial // <Py_ssize_t> (3 * sizeof(double))
        job.rooms = work + partial
        job.coef = work + partial + rooms
        if large:
            run_team(job, threads)
        else:
            run(job, 1)
    finally:
        free(work)
        if large:
            leave_team()
    return 0


cdef double* scratch_of(Py_ssize_t count) except NULL:
    cdef double* out = <double*> malloc((count + 1) * sizeof(double))
    if out == NULL:
        raise MemoryError("no memory for the parameters of a batch normalization")
    return out


cdef uint16_t* bits_pointer(object bits) except? NULL:
    if bits is None:
        return NULL
    return <uint16_t*> cnp.PyArray_DATA(<cnp.ndarray> bits)


def bits_words(View x):
    """Words that the mask of a fused ReLU takes for arrays like `x`."""
    cdef Py_ssize_t k
    if x.s > 1:
        return x.n * x.c * parts(x.s, LANES)
    k = repeats_of(x.n, x.c)
    return x.n // k * parts(k * x.c, LANES) + parts(x.n % k * x.c, LANES)


def training(View x, View y, View r, gamma, beta, double eps, bint relu, bits, bint fill, num_threads):
    """Normalize `x` with its own statistics into `y`; returns mean in two words, biased variance and rstd, float64.

    With `fill` the rows of `y` that do not count become zero.
    """
    cdef Job job
    cdef cnp.ndarray mean = np.empty(x.c)
    cdef cnp.ndarray low = np.empty(x.c)
    cdef cnp.ndarray var = np.empty(x.c)
    cdef cnp.ndarray rstd = np.empty(x.c)
    cdef double* scratch = scratch_of(2 * x.c)
    begin(&job, x)
    job.y = block_of(y)
    if r is not None:
        job.r = block_of(r)
    job.activation = RELU if relu else NO_ACTIVATION
    job.fill = fill
    job.eps = eps
    job.mean = vector(mean)
    job.low = vector(low)
    job.var = vector(var)
    job.rstd = vector(rstd)
    job.bits = bits_pointer(bits)
    job.gamma = scratch
    job.beta = scratch + x.c
    try:
        load_vector(gamma, job.gamma, x.c, 1.0, "gamma")
        load_vector(beta, job.beta, x.c, 0.0, "beta")
        execute(&job, num_threads)
    finally:
        free(scratch)
    return mean, low, var, rstd


def backward(View g, View x, View dx, View dr, mean, low, rstd, gamma, scale, shift, bits, bint frozen, bint fill, sums,
             double count, num_threads):
    """Gradients of `training`, or with `frozen` of `inference`; returns dgamma and dbeta, float64.

    Without `dx` nothing but sums is worked out, and returned: of dy * (x - m), m being the mean rounded to what is
    computed in, and of dy. `sums` are such a pair, of all parts of a batch of `count` values per channel of which x is
    one. With `fill` the rows of `dx` that do not count become zero; those of `dr` always do.
    """
    cdef Job job
    cdef cnp.ndarray dgamma = np.empty(x.c)
    cdef cnp.ndarray dbeta = np.empty(x.c)
    cdef double* scratch = scratch_of(6 * x.c)
    begin(&job, x)
    job.g = block_of(g)
    if dx is not None:
        job.y = block_of(dx)
    if dr is not None:
        job.r = block_of(dr)
    job.frozen = frozen
    job.fill = fill
    job.bits = bits_pointer(bits)
    job.gate = BITS if bits is not None else (REPLAY if scale is not None else OPEN)
    job.dgamma = vector(dgamma)
    job.dbeta = vector(dbeta)
    job.mean = scratch
    job.rstd = scratch + x.c
    job.gamma = scratch + 2 * x.c
    job.kept_scale = scratch + 3 * x.c
    job.kept_shift = scratch + 4 * x.c
    job.low = scratch + 5 * x.c
    try:
        load_vector(mean, scratch, x.c, 0.0, "mean")
        load_vector(rstd, scratch + x.c, x.c, 1.0, "rstd")
        load_vector(gamma, scratch + 2 * x.c, x.c, 1.0, "gamma")
        load_vector(scale, scratch + 3 * x.c, x.c, 1.0, "scale")
        load_vector(shift, scratch + 4 * x.c, x.c, 0.0, "shift")
        load_vector(low, job.low, x.c, 0.0, "mean_low")
        if sums is not None:
            job.given = True
            job.values = count
            load_vector(sums[0], job.dgamma, x.c, 0.0, "sums")
            load_vector(sums[1], job.dbeta, x.c, 0.0, "sums")
        execute(&job, num_threads)
    finally:
        free(scratch)
    return dgamma, dbeta


def statistics(View x, bint whole, num_threads):
    """Mean in two words and sum of squared distances from it, a channel, float64, in double lanes.

    `whole` tells that all values are integers, whose sums are then exact.
    """
    cdef Job job
    cdef cnp.ndarray mean = np.empty(x.c)
    cdef cnp.ndarray low = np.empty(x.c)
    cdef cnp.ndarray m2 = np.empty(x.c)
    begin(&job, x)
    job.exact = True
    job.whole = whole
    job.mean = vector(mean)
    job.low = vector(low)
    job.var = vector(m2)
    execute(&job, num_threads)
    return mean, low, m2

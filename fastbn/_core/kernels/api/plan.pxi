# The way of a call: gather pointers, plan, allocate, run.
#
# The arrays have been checked (views.pyx). A vector of the wrong length, a thread count and memory can still fail, and
# nothing has been written when they do.

from libc.stdlib cimport free, malloc

import numpy as np

cimport numpy as cnp

from fastbn._core.memory cimport empty
from fastbn._core.views cimport View, like, load_vector, output, same_vector, view

from fastbn._core.kernels.cpu import cache_bytes, last_cache_bytes

cnp.import_array()

cdef Py_ssize_t CACHE = cache_bytes() * 6 // 10     # of the second level, for the data of one thread
cdef Py_ssize_t LAST_CACHE = last_cache_bytes()     # shared by all threads
# Bytes of traffic, about 20 us of it, below which a second thread costs more than it saves, and so does releasing the
# GIL. A reduction computes more per byte, over planes most of all, and so does an activation with an exponential.
cdef Py_ssize_t SERIAL_BYTES = 1024 * 1024
cdef Py_ssize_t SERIAL_BYTES_ROWS = 512 * 1024
cdef Py_ssize_t SERIAL_BYTES_PLANES = 256 * 1024


def assume_last_cache(Py_ssize_t nbytes):
    """Set the size of the last cache that later calls plan for, in tests; return the previous size."""
    global LAST_CACHE
    before = LAST_CACHE
    LAST_CACHE = nbytes
    return before


def openmp_version():
    """Return the date of the OpenMP specification that this module was built for, or 0 without OpenMP."""
    return FASTBN_OPENMP


cdef inline Array array_of(View view) noexcept:
    return Array(view.p, view.step_n, view.step_c)


cdef int check_input(View x) except -1:
    # What the kernels of floating-point numbers rely on. They divide by the lengths of the axes.
    if x.size == 0:
        raise ValueError("x is empty; expected one value or more")
    if x.type == UINT8:
        raise TypeError("x has dtype uint8, which only statistics accept")
    return 0


cdef int check_beside(View x, View other, str name, bint written=False) except -1:
    # The kernels walk all arrays of a call by the shape and the type of x.
    cdef Py_ssize_t rows = x.n if x.chosen is None else x.rows
    cdef Py_ssize_t others = other.n if other.chosen is None else other.rows
    if others != rows or other.c != x.c or other.s != x.s or other.type != x.type:
        raise ValueError(f"{name} does not have the shape, the dtype and the order of the axes of x")
    if written and not cnp.PyArray_ISWRITEABLE(<cnp.ndarray> other.array):
        raise ValueError(f"{name} is read-only")
    return 0


cdef void begin(Job* job, View x) noexcept:
    memset(job, 0, sizeof(Job))
    job.type = x.type
    job.itemsize = x.itemsize
    job.n = x.n
    job.c = x.c
    job.s = x.s
    job.geometry = batch_norm_geometry(x.n, x.c, x.s)
    job.values = job.geometry.values
    job.x = array_of(x)
    job.residual = job.y = job.dy = job.dx = job.dresidual = Array(NULL, x.step_n, x.step_c)
    if x.chosen is not None:
        job.index = <const Py_ssize_t*> cnp.PyArray_DATA(x.chosen)
        job.rows = x.rows


cdef inline double* vector(cnp.ndarray a) noexcept:
    return <double*> cnp.PyArray_DATA(a)


cdef bint is_large(Job* job) noexcept:
    # Whether a job is worth a team and the release of the GIL. Decides also whether it watches for signals.
    cdef Py_ssize_t arrays = 2 + job.gradient + (job.residual.p != NULL) + (job.dresidual.p != NULL)
    cdef Py_ssize_t elements = job.n * job.c * job.s * arrays
    if job.index != NULL and job.fill:
        elements += (job.rows - job.n) * job.c      # rows that are cleared
    # In the cache a half takes as long as a float.
    cdef Py_ssize_t bytes = elements * (4 if is_half(job.type) else job.itemsize)
    job.watch = elements * job.itemsize >= WATCH_BYTES
    if job.reduces or job.gradient:
        return bytes >= (SERIAL_BYTES_ROWS if job.s == 1 else SERIAL_BYTES_PLANES)
    return bytes >= (SERIAL_BYTES // 4 if job.activation >= SIGMOID else SERIAL_BYTES)


cdef bint streams(const Job* job, const Array* out, const Array* other, Py_ssize_t last_cache) noexcept:
    # Streams runs of whole 16 bytes into an output that is not also an input, whose lines the cache has already. The
    # limit is twice the last cache, because the host of a virtual machine may have more than it reports.
    cdef Py_ssize_t size = job.itemsize
    cdef Py_ssize_t run = (job.c if job.s == 1 else job.s) * size
    cdef Py_ssize_t steps = out.step_n * size | (0 if job.s == 1 else out.step_c * size)
    return (FASTBN_STREAMS and out.p != NULL and out.p != job.x.p and out.p != other.p
            and job.n * job.c * job.s * size > 2 * last_cache and ((<Py_ssize_t> out.p) | run | steps) % 16 == 0)


cdef void choose_stores(Job* job, Py_ssize_t last_cache) noexcept:
    job.cut.stream = streams(job, &job.y, &job.residual, last_cache)


cdef inline void add_phase(Job* job, What what, Py_ssize_t count) noexcept:
    job.cut.phases[job.cut.count] = Phase(what, count)
    job.cut.count += 1


cdef void plan(Job* job, int threads) noexcept:
    # Cuts the work into units and orders them.
    cdef Py_ssize_t tiles = parts(job.c, TILE)
    cdef bint rows = job.s == 1
    cdef Cut* cut = &job.cut
    if rows:
        plan_rows(job, CACHE, threads)
    else:
        plan_planes(job, CACHE, LAST_CACHE, threads)
    choose_stores(job, LAST_CACHE)
    cut.count = 0
    if job.gradient:
        add_phase(job, COEFS, tiles)
    if job.reduces and cut.group != 0:
        add_phase(job, ROWS_SLAB if rows else PLANES_GROUP, cut.slabs if rows else parts(job.c, cut.group))
        return
    if job.reduces and rows:
        add_phase(job, ROWS_REDUCE, cut.units * cut.slabs)
        add_phase(job, ROWS_MERGE, tiles)
    elif job.reduces:
        add_phase(job, PLANES_SPAN, cut.spans * job.geometry.statistics)
        add_phase(job, PLANES_MERGE, job.geometry.statistics)
    if job.applies and rows:
        add_phase(job, ROWS_APPLY, cut.units * cut.slabs)
    elif job.applies:
        add_phase(job, PLANES_APPLY, parts(job.n * job.c, cut.unit_planes) * cut.pieces)


cdef void set_partials(Job* job, double* work, Py_ssize_t count) noexcept:
    # Three results per unit and statistic of a forward, two of a backward.
    cdef Partials* out = &job.partials
    out.mean = out.sum_dy = work
    out.low = out.products = work + count
    out.m2 = work + 2 * count


cdef int execute(Job* job, object num_threads) except -1:
    # All calls but inference.
    cdef bint large = is_large(job)
    cdef int threads = enter_team(num_threads) if large else 1
    cdef Py_ssize_t partials = 0, count, coefs, scratch = 0
    cdef char* work = NULL
    try:
        plan(job, threads)
        # Double for the partial results and the scratch, then the type of the constants.
        count = (job.cut.units if job.s == 1 else job.cut.spans) * job.geometry.statistics
        if job.reduces:
            partials = (2 if job.gradient else 3) * count * <Py_ssize_t> sizeof(double)
            scratch = threads * <Py_ssize_t> sizeof(Scratch) if job.s == 1 else 0
        coefs = (BACKWARD_COEFS if job.gradient else FORWARD_COEFS) * job.coefs.step
        work = <char*> malloc(partials + scratch + coefs * (8 if job.type == FLOAT64 else 4))
        if work == NULL:
            raise MemoryError("no memory for the workspace of a batch normalization")
        set_partials(job, <double*> work, count)
        job.scratch = work + partials
        job.coefs.p = work + partials + scratch
        if large:
            run_team(job, threads)
        else:
            run(job, 1)
    finally:
        free(work)
        if large:
            leave_team()
    return 0


cdef int run_job(Job* job, object num_threads) except -1:
    # A large job that is planned already.
    cdef int threads = enter_team(num_threads)
    try:
        run_team(job, threads)
    finally:
        leave_team()
    return 0


cdef double* scratch_of(Py_ssize_t count) except NULL:
    cdef double* out = <double*> malloc((count + 1) * sizeof(double))
    if out == NULL:
        raise MemoryError("no memory for the parameters of a batch normalization")
    return out


cdef Py_ssize_t words_of(View x) noexcept:
    cdef Py_ssize_t k
    if x.s > 1:
        return x.n * x.c * parts(x.s, LANES)
    k = repeats_of(x.n, x.c)
    return x.n // k * parts(k * x.c, LANES) + parts(x.n % k * x.c, LANES)


def bits_words(View x not None):
    """Return the number of words that the ReLU bits of arrays like `x` take."""
    return words_of(x)


cdef int set_bits(Job* job, View x, object bits, bint written=False) except -1:
    # None, or the bits of a ReLU over arrays like x.
    cdef cnp.ndarray a
    if bits is None:
        return 0
    if not cnp.PyArray_CheckExact(bits):
        raise TypeError(f"bits must be a numpy.ndarray, got {type(bits).__name__}")
    a = <cnp.ndarray> bits
    if (cnp.PyArray_TYPE(a) != cnp.NPY_USHORT or not cnp.PyArray_ISCARRAY_RO(a)
            or cnp.PyArray_SIZE(a) != words_of(x)):
        raise ValueError(f"bits must be uint16[{words_of(x)}], C-contiguous; got {bits.dtype}{bits.shape}")
    if written and not cnp.PyArray_ISWRITEABLE(a):
        raise ValueError("bits is read-only")
    job.bits = <uint16_t*> cnp.PyArray_DATA(a)
    return 0

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
# GIL. A reduction computes more per byte, over planes most of all, and so do an activation with an exponential and
# small planes.
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
    job.geometry = Geometry(samples=x.n, channels=1, groups=1)
    job.values = <double> x.n * <double> x.s
    job.x = array_of(x)
    job.residual = job.y = job.dy = job.upstream = job.dx = job.dresidual = Array(NULL, x.step_n, x.step_c)
    if x.chosen is not None:
        job.index = <const Py_ssize_t*> cnp.PyArray_DATA(x.chosen)
        job.rows = x.rows


cdef Geometry geometry_of(View x, object samples, Py_ssize_t channels) except *:
    # samples=None: all of them.
    cdef Py_ssize_t each = x.n if samples is None else samples
    if each < 1 and x.n:
        raise ValueError(f"samples must be None or at least 1, got {samples}")
    if channels < 1 or x.c % channels:
        raise ValueError(f"channels must divide the {x.c} channels of x, got {channels}")
    each = least(each, x.n) if x.n else 1
    return Geometry(samples=each, channels=channels, groups=parts(x.n, each))


cdef inline Py_ssize_t statistics_of(const Job* job) noexcept:
    return job.geometry.groups * (job.c // job.geometry.channels)


cdef int set_geometry(Job* job, View x, object samples, Py_ssize_t channels) except -1:
    job.geometry = geometry_of(x, samples, channels)
    job.values = <double> job.geometry.samples * <double> channels * <double> x.s
    if x.chosen is not None and not is_batch_norm(&job.geometry):
        raise ValueError("samples and channels cannot be combined with an index")
    return 0


cdef inline double* vector(cnp.ndarray a) noexcept:
    return <double*> cnp.PyArray_DATA(a)


cdef inline Py_ssize_t elements_of(const Job* job) noexcept:
    # Of all arrays that a call reads and writes.
    return job.n * job.c * job.s * (2 + job.gradient + (job.residual.p != NULL) + (job.dresidual.p != NULL))


cdef bint is_large(Job* job) noexcept:
    # Whether a job is worth a team and the release of the GIL. Decides also whether it watches for signals.
    cdef Py_ssize_t elements = elements_of(job)
    if job.index != NULL and job.fill:
        elements += (job.rows - job.n) * job.c      # rows that are cleared
    # In the cache a half takes as long as a float.
    cdef Py_ssize_t bytes = elements * (4 if is_half(job.type) else job.itemsize)
    job.watch = elements * job.itemsize >= WATCH_BYTES
    if job.reduces or job.gradient:
        return bytes >= (SERIAL_BYTES_ROWS if job.s == 1 else SERIAL_BYTES_PLANES)
    if job.activation >= SIGMOID:
        return bytes >= SERIAL_BYTES // 4
    return bytes >= (SERIAL_BYTES // 2 if 1 < job.s < SMALL else SERIAL_BYTES)


cdef bint streamable(const Job* job, const Array* a) noexcept:
    # Whether an output consists of runs of whole 16 bytes and is not also an input, whose lines the cache has already.
    # A line that is stored around the caches in part only is slow, so halves have runs of whole steps of LANES.
    cdef Py_ssize_t run = (job.c if job.s == 1 else job.s) * job.itemsize
    cdef Py_ssize_t steps = a.step_n * job.itemsize | (0 if job.s == 1 else a.step_c * job.itemsize)
    return a.p == NULL or (a.p != job.x.p and a.p != job.residual.p and a.p != job.dy.p
                           and run % (2 * LANES if is_half(job.type) else 16) == 0
                           and ((<Py_ssize_t> a.p) | steps) % 16 == 0)


cdef void choose_stores(Job* job, Py_ssize_t last_cache) noexcept:
    # Streams the outputs of a call whose arrays fill the last cache twice, because the host of a virtual machine may
    # have more than it reports.
    job.cut.stream = (FASTBN_STREAMS and job.applies
                      and elements_of(job) * job.itemsize >= 2 * last_cache
                      and streamable(job, &job.y) and streamable(job, &job.dx) and streamable(job, &job.dresidual))


cdef inline void add_phase(Job* job, What what, Py_ssize_t count) noexcept:
    job.cut.phases[job.cut.count] = Phase(what, count)
    job.cut.count += 1


cdef void plan(Job* job, int threads, Py_ssize_t last_cache) noexcept:
    # Cuts the work into units and orders them.
    cdef Py_ssize_t tiles = parts(job.c, TILE)
    cdef bint rows = job.s == 1
    cdef Cut* cut = &job.cut
    if rows:
        plan_rows(job, CACHE, threads)
    else:
        plan_planes(job, CACHE, last_cache, threads)
    cut.count = 0
    if job.reduces and cut.group != 0:
        add_phase(job, ROWS_SLAB if rows else PLANES_GROUP, cut.slabs if rows else parts(job.c, cut.group))
        return
    if job.gradient:
        add_phase(job, COEFS, tiles)
    if job.reduces and rows:
        add_phase(job, ROWS_REDUCE, cut.units * cut.slabs)
        add_phase(job, ROWS_MERGE, parts(job.c, cut.merged))
    elif job.reduces:
        add_phase(job, PLANES_SPAN, cut.spans * job.c)
        add_phase(job, PLANES_MERGE, job.c // job.geometry.channels)
    if job.applies and rows:
        add_phase(job, ROWS_APPLY, cut.units * cut.slabs)
    elif job.applies:
        add_phase(job, PLANES_APPLY, parts(job.n * job.c, cut.unit_planes) * cut.pieces)


cdef int set_activation(Job* job, tuple activation, int last=ELU) except -1:
    # `activation` is what check_activation() returns: a code and its parameter.
    job.activation, job.slope = activation
    if not NO_ACTIVATION <= job.activation <= last:
        raise ValueError(f"activation has the code {job.activation}; expected {NO_ACTIVATION} to {last}")
    return 0


cdef void plan_groups(Job* job, Groups* out, int threads) noexcept:
    # A group per thread, or all threads for each group if these are large and would leave a third of the threads idle.
    cdef Geometry* g = &job.geometry
    cdef Py_ssize_t places = parts(g.groups, threads) * threads
    job.groups = out
    out.full = group_like(job, g.samples)
    out.team = threads if is_large(&out.full) and 3 * g.groups < 2 * places else 1
    out.last = group_like(&out.full, job.n - (g.groups - 1) * g.samples)
    plan(&out.full, out.team, LAST_CACHE * out.team // threads)
    plan(&out.last, out.team, LAST_CACHE * out.team // threads)
    out.bytes = workspace_of(&out.full, out.team)
    if out.bytes < workspace_of(&out.last, out.team):
        out.bytes = workspace_of(&out.last, out.team)
    job.cut.count = 0
    add_phase(job, SAMPLE_GROUP, g.groups)
    if job.gradient and g.groups > 1:
        add_phase(job, GROUP_SUMS, parts(job.c, TILE))


cdef int execute(Job* job, object num_threads) except -1:
    # All calls but inference.
    cdef bint large = is_large(job), whole = is_batch_norm(&job.geometry)
    cdef int threads = enter_team(num_threads) if large else 1
    cdef Py_ssize_t bytes
    cdef Groups groups
    cdef char* work = NULL
    try:
        choose_stores(job, LAST_CACHE)
        if whole:
            plan(job, threads, LAST_CACHE)
            bytes = workspace_of(job, threads)
        else:
            plan_groups(job, &groups, threads)
            threads = threads // groups.team
            bytes = threads * groups.bytes
        work = <char*> malloc(bytes)
        if work == NULL:
            raise MemoryError("no memory for the workspace of a batch normalization")
        if whole:
            set_workspace(job, work, threads)
        else:
            groups.work = work
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


cdef inline Py_ssize_t words_of(View x, const Geometry* g) noexcept:
    # The rows of every sample group have words of their own.
    cdef Py_ssize_t before = x.n // g.samples
    return before * words_of_bits(g.samples, x.c, x.s) + words_of_bits(x.n - before * g.samples, x.c, x.s)


def bits_words(View x not None, samples=None):
    """Return the number of words that the ReLU bits of arrays like `x` take.

    `samples` is that of `forward`.
    """
    cdef Geometry g = geometry_of(x, samples, 1)
    return words_of(x, &g)


cdef int set_bits(Job* job, View x, object bits, bint written=False) except -1:
    # None, or the bits of a ReLU over arrays like x.
    cdef cnp.ndarray a
    cdef Py_ssize_t words
    if bits is None:
        return 0
    words = words_of(x, &job.geometry)
    if not cnp.PyArray_CheckExact(bits):
        raise TypeError(f"bits must be a numpy.ndarray, got {type(bits).__name__}")
    a = <cnp.ndarray> bits
    if (cnp.PyArray_TYPE(a) != cnp.NPY_USHORT or not cnp.PyArray_ISCARRAY_RO(a)
            or cnp.PyArray_SIZE(a) != words):
        raise ValueError(f"bits must be uint16[{words}], C-contiguous; got {bits.dtype}{bits.shape}")
    if written and not cnp.PyArray_ISWRITEABLE(a):
        raise ValueError("bits is read-only")
    job.bits = <uint16_t*> cnp.PyArray_DATA(a)
    return 0

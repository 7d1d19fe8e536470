# The calls that Python makes: gather pointers, plan, allocate, run without the GIL.
#
# The arrays have been checked by then (_layout); what is left to fail is a vector of the wrong length, a thread count
# and memory, and nothing has been written when they do.

from libc.stdlib cimport free, malloc
from libc.string cimport memset

import numpy as np

cimport numpy as cnp

from fastbn._layout cimport View, like, load_vector, output, view

from fastbn._kernels.cpu import cache_bytes, last_cache_bytes
from fastbn._threads import resolve

cnp.import_array()

cdef Py_ssize_t CACHE = cache_bytes() * 6 // 10     # of the second level, for what one thread works on
cdef Py_ssize_t LAST_CACHE = last_cache_bytes()     # what all threads share
# Of traffic, below which a second thread costs more than it brings: a reduction has more to do for a byte, over planes
# most of all.
cdef Py_ssize_t SERIAL_BYTES = 1024 * 1024
cdef Py_ssize_t SERIAL_BYTES_ROWS = 512 * 1024
cdef Py_ssize_t SERIAL_BYTES_PLANES = 256 * 1024


cdef extern from *:
    """
    #ifdef _OPENMP
    #define FASTBN_OPENMP _OPENMP
    #else
    #define FASTBN_OPENMP 0
    #endif
    """
    int FASTBN_OPENMP


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
    job.is_double = x.is_double
    job.n = x.n
    job.c = x.c
    job.s = x.s
    job.x = block_of(x)
    job.y = job.r = job.g = job.x       # the steps of absent arrays agree with x
    job.y.p = NULL
    job.r.p = NULL
    job.g.p = NULL


cdef inline double* vector(cnp.ndarray a) noexcept:
    return <double*> cnp.PyArray_DATA(a)


cdef int execute(Job* job, bint reduce, object num_threads) except -1:
    cdef Phase[4] phases
    cdef Py_ssize_t itemsize = 8 if job.is_double else 4
    cdef Py_ssize_t bytes = job.n * job.c * job.s * itemsize * (3 if job.g.p != NULL else 2)
    cdef Py_ssize_t units, tiles = parts(job.c, TILE)
    cdef int count = 0, threads = 1
    cdef bint rows = job.s == 1
    cdef bint grouped
    cdef char* work = NULL
    try:
        if FASTBN_OPENMP and bytes >= (
                SERIAL_BYTES if not reduce else SERIAL_BYTES_ROWS if rows else SERIAL_BYTES_PLANES):
            threads = resolve(num_threads)
        if rows:
            plan_rows(job, itemsize, CACHE, LAST_CACHE, threads)
            units = job.units
        else:
            plan_planes(job, itemsize, CACHE, LAST_CACHE, threads)
            units = job.spans
        grouped = reduce and job.group != 0
        # double for the partial results, then the arrays' type for the constants
        work = <char*> malloc((2 * units * job.c if reduce else 0) * sizeof(double)
                              + (FORWARD_COEFS if job.g.p == NULL else BACKWARD_COEFS) * job.coef_step * itemsize)
        if work == NULL:
            raise MemoryError("no memory for the workspace of a batch normalization")
        job.part1 = <double*> work
        job.part2 = job.part1 + units * job.c
        job.coef = work + (2 * units * job.c if reduce else 0) * <Py_ssize_t> sizeof(double)
        if job.g.p != NULL or not reduce:
            phases[count] = Phase(COEFS, tiles)
            count += 1
        if grouped:
            phases[count] = Phase(ROWS_SLAB if rows else PLANES_GROUP,
                                  job.slabs if rows else parts(job.c, job.group))
            count += 1
        elif reduce:
            phases[count] = Phase(ROWS_REDUCE if rows else PLANES_SPAN, units * (job.slabs if rows else job.c))
            phases[count + 1] = Phase(ROWS_MERGE if rows else PLANES_MERGE, tiles if rows else job.c)
            count += 2
        if not grouped and job.y.p != NULL:
            phases[count] = Phase(ROWS_TRANSFORM if rows else PLANES_TRANSFORM,
                                  units * job.slabs if rows else parts(job.n * job.c, job.apply_planes) * job.pieces)
            count += 1
        with nogil:
            run(job, phases, count, threads)
    finally:
        free(work)
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


def training(View x, View y, View r, gamma, beta, double eps, bint relu, bits, num_threads):
    """Normalize `x` with its own statistics into `y`; returns mean, biased variance and rstd, float64."""
    cdef Job job
    cdef cnp.ndarray mean = np.empty(x.c)
    cdef cnp.ndarray var = np.empty(x.c)
    cdef cnp.ndarray rstd = np.empty(x.c)
    cdef double* scratch = scratch_of(2 * x.c)
    begin(&job, x)
    job.y = block_of(y)
    if r is not None:
        job.r = block_of(r)
    job.relu = relu
    job.eps = eps
    job.mean = vector(mean)
    job.var = vector(var)
    job.rstd = vector(rstd)
    job.bits = bits_pointer(bits)
    job.gamma = scratch
    job.beta = scratch + x.c
    try:
        load_vector(gamma, job.gamma, x.c, 1.0, "gamma")
        load_vector(beta, job.beta, x.c, 0.0, "beta")
        execute(&job, True, num_threads)
    finally:
        free(scratch)
    return mean, var, rstd


cdef int infer(
    View x, View y, View r, mean, var, gamma, beta, double eps, bint relu, bits, num_threads,
) except -1:
    cdef Job job
    cdef double* scratch = scratch_of(4 * x.c)
    cdef double least_var = 0
    cdef Py_ssize_t c
    begin(&job, x)
    job.y = block_of(y)
    if r is not None:
        job.r = block_of(r)
    job.relu = relu
    job.eps = eps
    job.bits = bits_pointer(bits)
    job.mean = scratch
    job.gamma = scratch + x.c
    job.beta = scratch + 2 * x.c
    job.var = scratch + 3 * x.c if var is not None else NULL
    try:
        load_vector(mean, job.mean, x.c, 0.0, "mean")
        load_vector(gamma, job.gamma, x.c, 1.0, "gamma")
        load_vector(beta, job.beta, x.c, 0.0, "beta")
        if var is not None:
            load_vector(var, job.var, x.c, 1.0, "var")
            for c in range(x.c):
                least_var = job.var[c] if job.var[c] < least_var else least_var
            if least_var < 0:
                raise ValueError(f"var has negative values, down to {least_var}")
        if x.size:
            execute(&job, False, num_threads)
    finally:
        free(scratch)
    return 0


def inference(x, axis, channels, residual, out, mean, var, gamma, beta, double eps, bint relu, num_threads):
    """Normalize `x` with given statistics and return y; var None stands for rstd = 1.

    From arrays to array in one call, unlike the others: a small inference spends its time between calls.
    """
    cdef View v = view(x, axis, channels)
    cdef View r = None if residual is None else like(v, residual, "residual")
    cdef View y = output(v, out, r)
    infer(v, y, r, mean, var, gamma, beta, eps, relu, None, num_threads)
    return y.finish()


def inference_bits(View x, residual, mean, var, gamma, beta, double eps, num_threads):
    """Where the ReLU of such an inference with a residual is open, as `training` leaves it for a backward."""
    bits = np.empty(bits_words(x), np.uint16)
    infer(x, output(x), like(x, residual, "residual"), mean, var, gamma, beta, eps, True, bits, num_threads)
    return bits


def backward(View g, View x, View dx, View dr, mean, rstd, gamma, scale, shift, bits, bint frozen, num_threads):
    """Gradients of `training`, or with `frozen` of `inference`; returns dgamma and dbeta, float64."""
    cdef Job job
    cdef cnp.ndarray dgamma = np.empty(x.c)
    cdef cnp.ndarray dbeta = np.empty(x.c)
    cdef double* scratch = scratch_of(5 * x.c)
    begin(&job, x)
    job.g = block_of(g)
    job.y = block_of(dx)
    if dr is not None:
        job.r = block_of(dr)
    job.frozen = frozen
    job.bits = bits_pointer(bits)
    job.gate = BITS if bits is not None else (REPLAY if scale is not None else OPEN)
    job.dgamma = vector(dgamma)
    job.dbeta = vector(dbeta)
    job.mean = scratch
    job.rstd = scratch + x.c
    job.gamma = scratch + 2 * x.c
    job.kept_scale = scratch + 3 * x.c
    job.kept_shift = scratch + 4 * x.c
    try:
        load_vector(mean, scratch, x.c, 0.0, "mean")
        load_vector(rstd, scratch + x.c, x.c, 1.0, "rstd")
        load_vector(gamma, scratch + 2 * x.c, x.c, 1.0, "gamma")
        load_vector(scale, scratch + 3 * x.c, x.c, 1.0, "scale")
        load_vector(shift, scratch + 4 * x.c, x.c, 0.0, "shift")
        execute(&job, True, num_threads)
    finally:
        free(scratch)
    return dgamma, dbeta


def statistics(View x, num_threads):
    """Mean and sum of squared distances from it, a channel, float64, in double lanes."""
    cdef Job job
    cdef cnp.ndarray mean = np.empty(x.c)
    cdef cnp.ndarray m2 = np.empty(x.c)
    begin(&job, x)
    job.exact = True
    job.mean = vector(mean)
    job.var = vector(m2)
    execute(&job, True, num_threads)
    return mean, m2

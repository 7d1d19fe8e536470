# How the units of a job are handed to threads, and how many threads there are.
#
# a) Threads decide who runs a unit, and nothing else. One parallel region; every phase ends with a barrier. Each thread
#    takes over how the caller's rounds and what it does with subnormal numbers, and then takes its own way again.
# b) Callers that are at work at the same time share the threads: two teams of two on two cores wait for each other at
#    every barrier. Inside a parallel region, ours or another library's, there is one thread.

from cpython.ref cimport Py_XDECREF
from cython.parallel cimport parallel, prange, threadid

from fastbn._core.threads import resolve, startable

cdef extern from *:
    """
    /* Rounding mode, and whether subnormal numbers are flushed to zero: a register of each thread. */
    #if defined(__SSE2__)
    #include <xmmintrin.h>
    typedef unsigned int fastbn_fp_register;
    static inline fastbn_fp_register fastbn_fp_control(void) { return _mm_getcsr(); }
    static inline void fastbn_set_fp_control(fastbn_fp_register r) { if (r != _mm_getcsr()) _mm_setcsr(r); }
    #elif defined(__aarch64__) && defined(__GNUC__)
    typedef unsigned long long fastbn_fp_register;
    static inline fastbn_fp_register fastbn_fp_control(void) {
        fastbn_fp_register r;
        __asm__ volatile("mrs %0, fpcr" : "=r"(r));
        return r;
    }
    static inline void fastbn_set_fp_control(fastbn_fp_register r) {
        if (r != fastbn_fp_control()) __asm__ volatile("msr fpcr, %0" : : "r"(r));
    }
    #else
    #include <fenv.h>
    typedef int fastbn_fp_register;
    static inline fastbn_fp_register fastbn_fp_control(void) { return fegetround(); }
    static inline void fastbn_set_fp_control(fastbn_fp_register r) { fesetround(r); }
    #endif
    """
    ctypedef unsigned long long fp_control "fastbn_fp_register"
    fp_control fastbn_fp_control() noexcept nogil
    void fastbn_set_fp_control(fp_control) noexcept nogil

cdef Py_ssize_t callers = 0     # in a team at this moment; the GIL guards it
cdef int callers_process = 0    # a forked child has none of its parent's


cdef void perform(Job* job, const real* kind, What what, Py_ssize_t unit, int thread) noexcept nogil:
    if what == PLANES_GROUP:
        planes_group(job, kind, unit)
    elif what == PLANES_SPAN:
        planes_span(job, kind, unit)
    elif what == PLANES_MERGE:
        planes_merge(job, kind, unit)
    elif what == PLANES_TRANSFORM:
        planes_transform(job, kind, unit)
    elif what == ROWS_SLAB:
        rows_slab(job, kind, unit, thread)
    elif what == ROWS_REDUCE:
        rows_reduce(job, kind, unit, thread)
    elif what == ROWS_MERGE:
        rows_merge(job, kind, unit)
    elif what == ROWS_TRANSFORM:
        rows_transform(job, kind, unit)
    else:
        replay_coefs(job, <real*> job.coef, unit * TILE, <int> least(TILE, job.c - unit * TILE))


cdef inline void perform_unit(Job* job, What what, Py_ssize_t unit, int thread) noexcept nogil:
    if stopped(job):
        return
    if what == LOOKUP_LINES:
        lookup_lines(job, unit)
    elif what == BYTES_OF_PLANES:
        bytes_planes(job, unit)
    elif what == BYTES_OF_ROWS:
        bytes_rows(job, unit)
    elif job.type == FLOAT64:
        perform(job, <const double*> NULL, what, unit, thread)
    else:
        perform(job, <const float*> NULL, what, unit, thread)


cdef void run(Job* job, int threads) noexcept nogil:
    cdef Py_ssize_t u
    cdef int p = 0
    cdef fp_control mine = 0, callers_control = fastbn_fp_control()
    if threads == 1:
        for p in range(job.count):
            for u in range(job.phases[p].count):
                perform_unit(job, job.phases[p].what, u, 0)
    else:
        with parallel(num_threads=threads):
            mine = fastbn_fp_control()
            fastbn_set_fp_control(callers_control)
            for p in range(job.count):
                for u in prange(job.phases[p].count, schedule='static'):
                    perform_unit(job, job.phases[p].what, u, threadid())
            fastbn_set_fp_control(mine)


cdef int enter_team(object num_threads) except -1:
    # How many threads this call gets; leave_team() must follow.
    global callers, callers_process
    cdef int threads = resolve(num_threads)
    if not FASTBN_OPENMP or omp_in_parallel():
        threads = 1
    if callers_process != fastbn_process():
        callers_process = fastbn_process()
        callers = 0
    threads = threads // (callers + 1) if threads > callers + 1 else 1
    if threads > 1:
        threads = startable(threads)
    callers += 1
    return threads


cdef void leave_team() noexcept:
    global callers
    if callers:     # none, where a signal handler forked in the middle of the call
        callers -= 1


cdef int run_team(Job* job, int threads) except -1:
    with nogil:
        run(job, threads)
    if job.stop:
        error = <object> job.error
        Py_XDECREF(job.error)
        raise error
    return 0

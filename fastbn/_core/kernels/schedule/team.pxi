# The distribution of units to threads, and the number of threads.
#
# a) The number of threads decides which thread runs a unit, and nothing else. There is one parallel region; every phase
#    ends with a barrier. Every thread takes over the caller's rounding mode and treatment of subnormal numbers, and
#    restores its own at the end.
# b) Concurrent callers share the threads: two teams of two on two cores would wait for each other at every barrier.
#    Inside a parallel region, of this or another library, a call has one thread.

from cpython.ref cimport Py_XDECREF
from cython.parallel cimport parallel, prange, threadid

from fastbn._core.threads import resolve, startable

cdef extern from *:
    """
    /* Rounding mode and flush-to-zero: a register of each thread. */
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

cdef Py_ssize_t callers = 0     # calls that have a team at the moment; guarded by the GIL
cdef int callers_process = 0    # the process they belong to: a forked child has none


cdef void perform(Job* job, What what, Py_ssize_t unit, int thread, const real* kind) noexcept nogil:
    if what == PLANES_GROUP:
        planes_group(job, unit, kind)
    elif what == PLANES_SPAN:
        planes_span(job, unit, kind)
    elif what == PLANES_MERGE:
        planes_merge(job, unit, kind)
    elif what == PLANES_APPLY:
        planes_apply(job, unit, kind)
    elif what == ROWS_SLAB:
        rows_slab(job, unit, thread, kind)
    elif what == ROWS_REDUCE:
        rows_reduce(job, unit, thread, kind)
    elif what == ROWS_MERGE:
        rows_merge(job, unit, kind)
    elif what == ROWS_APPLY:
        rows_apply(job, unit, kind)
    elif what == LAYER_FORWARD:
        layer_forward_unit(job, unit, kind)
    elif what == LAYER_BACKWARD:
        layer_backward_unit(job, unit, kind)
    elif what == LAYER_MERGE:
        layer_merge(job, unit)
    else:
        prepare_gradient(job, unit * TILE, <int> least(TILE, job.c - unit * TILE), kind)


cdef inline void perform_unit(Job* job, What what, Py_ssize_t unit, int thread) noexcept nogil:
    if stopped(job):
        return
    if what == SAMPLE_GROUP:
        run_group(job, unit, thread)
    elif what == GROUP_SUMS:
        add_group_sums(job, unit)
    elif what == LOOKUP_LINES:
        lookup_lines(job, unit)
    elif what == BYTES_OF_PLANES:
        bytes_planes(job, unit)
    elif what == BYTES_OF_ROWS:
        bytes_rows(job, unit)
    elif job.type == FLOAT64:
        perform(job, what, unit, thread, <const double*> NULL)
    else:
        perform(job, what, unit, thread, <const float*> NULL)


cdef void run(Job* job, int threads) noexcept nogil:
    cdef Py_ssize_t u
    cdef int p = 0
    cdef fp_control mine = 0, callers_control = fastbn_fp_control()
    if threads == 1:
        for p in range(job.cut.count):
            for u in range(job.cut.phases[p].count):
                perform_unit(job, job.cut.phases[p].what, u, 0)
    else:
        with parallel(num_threads=threads):
            mine = fastbn_fp_control()
            fastbn_set_fp_control(callers_control)
            for p in range(job.cut.count):
                for u in prange(job.cut.phases[p].count, schedule='static'):
                    perform_unit(job, job.cut.phases[p].what, u, threadid())
            fastbn_set_fp_control(mine)


cdef int enter_team(object num_threads) except -1:
    # Returns the number of threads for this call; leave_team() must follow.
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
    if callers:     # 0 if a signal handler forked during the call
        callers -= 1


cdef int run_team(Job* job, int threads) except -1:
    with nogil:
        run(job, threads)
    if job.stop:
        error = <object> job.error
        Py_XDECREF(job.error)
        raise error
    return 0


cdef inline int run_large(Job* job, int threads, bint large) except -1:
    # A team and the release of the GIL are for large jobs only.
    if large:
        return run_team(job, threads)
    run(job, 1)
    return 0

# How the units of a job are handed to threads, and how many threads there are.
#
# a) Threads decide who runs a unit, and nothing else. One parallel region; every phase ends with a barrier.
# b) Callers that are at work at the same time share the threads: two teams of two on two cores wait for each other at
#    every barrier. Inside a parallel region, ours or another library's, there is one thread.

from cpython.ref cimport Py_XDECREF
from cython.parallel cimport parallel, prange

from fastbn._threads import resolve

cdef Py_ssize_t callers = 0     # in a team at this moment; the GIL guards it
cdef int callers_process = 0    # a forked child has none of its parent's


cdef void perform(Job* job, const real* kind, What what, Py_ssize_t unit) noexcept nogil:
    if what == PLANES_GROUP:
        planes_group(job, kind, unit)
    elif what == PLANES_SPAN:
        planes_span(job, kind, unit)
    elif what == PLANES_MERGE:
        planes_merge(job, kind, unit)
    elif what == PLANES_TRANSFORM:
        planes_transform(job, kind, unit)
    elif what == ROWS_SLAB:
        rows_slab(job, kind, unit)
    elif what == ROWS_REDUCE:
        rows_reduce(job, kind, unit)
    elif what == ROWS_MERGE:
        rows_merge(job, kind, unit)
    elif what == ROWS_TRANSFORM:
        rows_transform(job, kind, unit)
    else:
        replay_coefs(job, <real*> job.coef, unit * TILE, <int> least(TILE, job.c - unit * TILE))


cdef inline void perform_unit(Job* job, What what, Py_ssize_t unit) noexcept nogil:
    if stopped(job):
        return
    if what == LOOKUP_LINES:
        lookup_lines(job, unit)
    elif what == BYTES_OF_PLANES:
        bytes_planes(job, unit)
    elif what == BYTES_OF_ROWS:
        bytes_rows(job, unit)
    elif job.type == FLOAT64:
        perform(job, <const double*> NULL, what, unit)
    else:
        perform(job, <const float*> NULL, what, unit)


cdef void run(Job* job, int threads) noexcept nogil:
    cdef Py_ssize_t u
    cdef int p = 0
    if threads == 1:
        for p in range(job.count):
            for u in range(job.phases[p].count):
                perform_unit(job, job.phases[p].what, u)
    else:
        with parallel(num_threads=threads):
            for p in range(job.count):
                for u in prange(job.phases[p].count, schedule='static'):
                    perform_unit(job, job.phases[p].what, u)


cdef int enter_team(object num_threads) except -1:
    # How many threads this call gets; leave_team() must follow.
    global callers, callers_process
    cdef int threads = resolve(num_threads)
    if not FASTBN_OPENMP or omp_in_parallel():
        threads = 1
    if callers_process != fastbn_process():
        callers_process = fastbn_process()
        callers = 0
    callers += 1
    return threads // callers if threads > callers else 1


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

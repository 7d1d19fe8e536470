# How the units of a job are handed to threads.

from cython.parallel cimport parallel, prange

cdef enum What:         # what a unit does
    COEFS
    PLANES_GROUP
    PLANES_SPAN
    PLANES_MERGE
    PLANES_TRANSFORM
    ROWS_SLAB
    ROWS_REDUCE
    ROWS_MERGE
    ROWS_TRANSFORM

cdef struct Phase:
    What what
    Py_ssize_t count


cdef void make_coefs(Job* job, const real* kind, Py_ssize_t unit) noexcept nogil:
    # The constants that are known before any reduction.
    cdef Py_ssize_t c = unit * TILE
    cdef int width = <int> least(TILE, job.c - c)
    if job.g.p == NULL:
        forward_coefs(job, <real*> job.coef, c, width, False)
    else:
        replay_coefs(job, <real*> job.coef, c, width)


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
        make_coefs(job, kind, unit)


cdef inline void perform_unit(Job* job, What what, Py_ssize_t unit) noexcept nogil:
    if job.is_double:
        perform(job, <const double*> NULL, what, unit)
    else:
        perform(job, <const float*> NULL, what, unit)


cdef void run(Job* job, Phase* phases, int count, int threads) noexcept nogil:
    # Threads decide who runs a unit, and nothing else. One parallel region; every phase ends with a barrier.
    cdef Py_ssize_t u
    cdef int p = 0
    if threads == 1:
        for p in range(count):
            for u in range(phases[p].count):
                perform_unit(job, phases[p].what, u)
    else:
        with parallel(num_threads=threads):
            for p in range(count):
                for u in prange(phases[p].count, schedule='static'):
                    perform_unit(job, phases[p].what, u)

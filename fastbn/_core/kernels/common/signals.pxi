# How a long job ends early: it looks for signals now and then, so that Ctrl-C is heard, and leaves out what remains.

from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport Py_INCREF

cdef enum:
    WATCH_BYTES = 16777216      # of traffic, from which on a job looks for signals: some milliseconds

cdef extern from *:
    """
    #ifdef _OPENMP
    #include <omp.h>
    #define FASTBN_OPENMP _OPENMP
    #else
    #define FASTBN_OPENMP 0
    static inline int omp_in_parallel(void) { return 0; }
    static inline int omp_get_thread_num(void) { return 0; }
    #endif
    #ifdef _WIN32
    #include <process.h>
    #include <windows.h>
    static inline int fastbn_process(void) { return _getpid(); }
    static inline double fastbn_seconds(void) { return (double) GetTickCount64() * 1e-3; }
    #else
    #include <time.h>
    #include <unistd.h>
    static inline int fastbn_process(void) { return (int) getpid(); }
    static inline double fastbn_seconds(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (double) t.tv_sec + 1e-9 * (double) t.tv_nsec;
    }
    #endif
    """
    int FASTBN_OPENMP
    int omp_in_parallel() noexcept nogil
    int omp_get_thread_num() noexcept nogil
    double fastbn_seconds() noexcept nogil
    int fastbn_process() noexcept nogil


cdef void look_for_signals(Job* job) noexcept nogil:
    # Python's handlers run in its main thread alone; in others this finds nothing.
    cdef double now = fastbn_seconds()
    if now < job.look_at:
        return
    job.look_at = now + 0.02
    with gil:
        try:
            PyErr_CheckSignals()
        except BaseException as error:
            Py_INCREF(error)
            job.error = <PyObject*> error
            job.stop = True


cdef inline bint stopped(Job* job) noexcept nogil:
    # The caller's own thread has number 0 in its team.
    if not job.watch:
        return False
    if not job.stop and omp_get_thread_num() == 0:
        look_for_signals(job)
    return job.stop

# Early end of a long job: it checks for signals from time to time, so that Ctrl-C interrupts it, and skips the rest.

from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport Py_INCREF

cdef enum:
    WATCH_BYTES = 16777216      # least traffic of a job that checks for signals: some milliseconds

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


cdef void check_signals(Job* job) noexcept nogil:
    # Python runs signal handlers only in its main thread; other threads find nothing here.
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
    # Thread 0 of a team is the thread of the caller.
    if not job.watch:
        return False
    if not job.stop and omp_get_thread_num() == 0:
        check_signals(job)
    return job.stop

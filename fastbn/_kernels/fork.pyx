"""Lets a process fork after parallel work, with GNU OpenMP.

The threads of GNU libgomp do not survive a fork, and a child that waits for them waits for ever. So before every fork,
by whomever (uWSGI and others fork in C), the pool of the forking thread is dissolved; parent and child make a new one
when they need it. Other runtimes see to forks themselves, and under Intel's, which answers to libgomp's names, a pause
would hang the fork: so the guard looks at which library it really is.
"""

import os

cdef extern from *:
    """
    #if defined(_OPENMP) && defined(__linux__)
    #include <dlfcn.h>
    #include <omp.h>
    #include <pthread.h>
    #include <stddef.h>

    static int (*fastbn_pause)(int);

    static void fastbn_before_fork(void) {
        fastbn_pause(2);        /* omp_pause_hard; inside a parallel region it does nothing */
    }

    static int fastbn_guard_forks(void) {
        Dl_info info;
        void *library, *pause;
        int gnu;
        if (!dladdr((void*) (size_t) &omp_get_num_threads, &info)) return 1;
        library = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
        if (!library) return 1;
        gnu = dlsym(library, "GOMP_parallel") && !dlsym(library, "__kmpc_fork_call");
        pause = dlsym(library, "omp_pause_resource_all");
        dlclose(library);       /* it stays loaded: this module needs it */
        if (!gnu) return 1;
        if (!pause) return 2;
        fastbn_pause = (int (*)(int)) (size_t) pause;
        return pthread_atfork(fastbn_before_fork, NULL, NULL) ? 3 : 0;
    }
    #else
    static int fastbn_guard_forks(void) { return 1; }
    #endif
    """
    int fastbn_guard_forks()

STATES = (
    "on",
    "not needed: the runtime is not GNU libgomp",
    "impossible: this libgomp is older than GCC 9",
    "impossible: pthread_atfork failed",
)

state = "off: FASTBN_FORK_GUARD=0"
if os.environ.get("FASTBN_FORK_GUARD", "").strip() != "0":
    state = STATES[fastbn_guard_forks()]

"""Lets a process fork after parallel work, with GNU OpenMP.

The threads of GNU libgomp do not survive a fork, and a child that waits for them waits for ever. So before every fork,
by whomever (uWSGI and others fork in C), the pool of the forking thread is dissolved; parent and child make a new one
when they need it. Other runtimes see to forks themselves, and under Intel's, which answers to libgomp's names, a pause
would hang the fork: so the guard looks at which library it really is.

Intel's runtime and LLVM's do not see to forks under KMP_INIT_AT_FORK=FALSE, which scikit-learn sets. Whether they read
it before or after it was set cannot be asked, and so neither whether a pause is safe. A child of such a process that
had other threads, which may have been theirs, has no team from then on.
"""

import os

cdef extern from *:
    """
    #if defined(_OPENMP) && defined(__linux__)
    #include <dlfcn.h>
    #include <omp.h>
    #include <pthread.h>
    #include <stddef.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/stat.h>

    static int (*fastbn_pause)(int);
    static __thread int fastbn_leaves_pool;     /* whether the fork that this thread is in leaves one behind */
    static int fastbn_pool_is_lost;

    static void fastbn_dissolve_pool(void) {
        fastbn_pause(2);        /* omp_pause_hard; inside a parallel region it does nothing */
    }

    static int fastbn_is_false(const char *setting) {
        /* As the runtimes read it: FALSE, .F., no, 0, disabled, off. */
        if (*setting == '.') setting++;
        if (*setting == 'o' || *setting == 'O') return setting[1] == 'f' || setting[1] == 'F';
        return *setting && strchr("fFnN0dD", *setting);
    }

    static void fastbn_look_for_pool(void) {
        const char *setting = getenv("KMP_INIT_AT_FORK");
        struct stat tasks;
        fastbn_leaves_pool = setting && fastbn_is_false(setting)
                             && (stat("/proc/self/task", &tasks) || tasks.st_nlink != 2 + 1);   /* ., .. and a thread */
    }

    static void fastbn_lose_pool(void) {
        if (fastbn_leaves_pool) fastbn_pool_is_lost = 1;
    }

    static int fastbn_guard_forks(void) {
        Dl_info info;
        void *library, *pause;
        int gnu, kmp;
        if (!dladdr((void*) (size_t) &omp_get_num_threads, &info)) return 1;
        library = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
        if (!library) return 1;
        kmp = dlsym(library, "__kmpc_fork_call") != NULL;
        gnu = dlsym(library, "GOMP_parallel") && !kmp;
        pause = dlsym(library, "omp_pause_resource_all");
        dlclose(library);       /* it stays loaded: this module needs it */
        if (kmp) return pthread_atfork(fastbn_look_for_pool, NULL, fastbn_lose_pool) ? 3 : 1;
        if (!gnu) return 1;
        if (!pause) return 2;
        fastbn_pause = (int (*)(int)) (size_t) pause;
        return pthread_atfork(fastbn_dissolve_pool, NULL, NULL) ? 3 : 0;
    }
    #else
    static int fastbn_pool_is_lost;
    static int fastbn_guard_forks(void) { return 1; }
    #endif
    """
    int fastbn_pool_is_lost
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


def pool_is_lost():
    """Whether this process is a child without the threads that its OpenMP runtime believes in."""
    return fastbn_pool_is_lost != 0

"""Handlers that let a process fork after parallel work.

The threads of GNU libgomp do not survive a fork, and a child that waits for them waits indefinitely. Before every fork,
also in C code such as uWSGI's, a handler shuts down the thread pool of the forking thread; parent and child start a new
pool when they need one. Other runtimes handle forks themselves. Intel's runtime exports the names of libgomp, and the
shutdown would hang the fork there, so the module first identifies the library.

With KMP_INIT_AT_FORK=FALSE, which scikit-learn sets, the runtimes of Intel and LLVM do not handle forks. Whether they
read the variable before or after it was set cannot be determined, and so neither can whether a shutdown is safe. A
child of such a process with other threads, which may belong to the runtime, uses a single thread.
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
    static __thread int fastbn_leaves_pool;     /* the current fork of this thread leaves a pool without threads */
    static int fastbn_pool_is_lost;

    static void fastbn_shut_down_pool(void) {
        fastbn_pause(2);        /* omp_pause_hard; inside a parallel region it does nothing */
    }

    static int fastbn_is_false(const char *setting) {
        /* Spellings that the runtimes accept: FALSE, .F., no, 0, disabled, off. */
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
        dlclose(library);       /* this module keeps it loaded */
        if (kmp) return pthread_atfork(fastbn_look_for_pool, NULL, fastbn_lose_pool) ? 3 : 1;
        if (!gnu) return 1;
        if (!pause) return 2;
        fastbn_pause = (int (*)(int)) (size_t) pause;
        return pthread_atfork(fastbn_shut_down_pool, NULL, NULL) ? 3 : 0;
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
    """Return whether this process is a child whose OpenMP runtime still counts on the threads of its parent."""
    return fastbn_pool_is_lost != 0

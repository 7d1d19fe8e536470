"""The limits of the OpenMP runtime: the CPUs that its threads are bound to, and the number of threads it can start.

An OpenMP runtime that cannot start a thread terminates the process; limits on processes, memory or the pids of a
container cause this. So before a thread uses a larger team than its last one, as many plain threads are started and
joined. If that fails, the caller gets the error and uses a single thread.
"""

cdef extern from *:
    """
    #ifdef _OPENMP
    #include <omp.h>
    #endif
    #if defined(_OPENMP) && (defined(__unix__) || defined(__APPLE__))
    #include <errno.h>
    #include <pthread.h>
    #include <stdlib.h>
    #include <string.h>
    #include <unistd.h>

    static __thread int fastbn_team;        /* size of the last team of this thread, which the runtime keeps */
    static __thread pid_t fastbn_team_of;   /* the process that this team belongs to */

    static size_t fastbn_stack_size(void) {
        /* The value of OMP_STACKSIZE in bytes, as the GNU runtime reads it; 0 for the default. */
        static const char units[] = "bBkKmMgG";
        const char *text = getenv("OMP_STACKSIZE"), *unit;
        char *end;
        unsigned long size;
        int shift = 10;
        if (!text) text = getenv("GOMP_STACKSIZE");
        if (!text) return 0;
        size = strtoul(text, &end, 10);
        while (*end == ' ') end++;
        if (*end && (unit = strchr(units, *end))) shift = 10 * (int) ((unit - units) / 2);
        return size > ((size_t) -1 >> shift) ? 0 : (size_t) size << shift;
    }

    static void *fastbn_wait(void *gate) {
        pthread_mutex_lock((pthread_mutex_t *) gate);
        pthread_mutex_unlock((pthread_mutex_t *) gate);
        return NULL;
    }

    static int fastbn_start(int count) {
        /* Starts `count` threads at the same time and joins them; returns 0 or an error number. */
        pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
        pthread_t *threads = malloc(count * sizeof(pthread_t));
        pthread_attr_t attributes;
        size_t stack = fastbn_stack_size();
        int i, started = 0, failure = 0;
        if (!threads) return ENOMEM;
        pthread_attr_init(&attributes);
        if (stack) pthread_attr_setstacksize(&attributes, stack);
        pthread_mutex_lock(&gate);
        while (started < count && !failure) {
            failure = pthread_create(&threads[started], &attributes, fastbn_wait, &gate);
            started += !failure;
        }
        pthread_mutex_unlock(&gate);
        for (i = 0; i < started; i++) pthread_join(threads[i], NULL);
        pthread_attr_destroy(&attributes);
        free(threads);
        return failure;
    }

    static int fastbn_try_team(int threads) {
        int failure;
        if (fastbn_team_of != getpid()) {
            fastbn_team = 1;
            fastbn_team_of = getpid();
        }
        if (threads > fastbn_team) {
            failure = fastbn_start(threads - 1);
            if (failure) return failure;
        }
        fastbn_team = threads;
        return 0;
    }

    static void fastbn_forget_team(void) {
        fastbn_team = 1;        /* fork.pyx shuts the pool down */
    }

    static int fastbn_watch_forks(void) { return pthread_atfork(fastbn_forget_team, NULL, NULL); }
    #else
    static int fastbn_try_team(int threads) { return 0; }
    static int fastbn_watch_forks(void) { return 0; }
    #endif

    #if defined(_OPENMP) && _OPENMP >= 201511
    static int fastbn_places(void) { return omp_get_proc_bind() == omp_proc_bind_false ? 0 : omp_get_num_places(); }
    static int fastbn_place_size(int place) { return omp_get_place_num_procs(place); }
    static void fastbn_place(int place, int *ids) { omp_get_place_proc_ids(place, ids); }
    #else
    static int fastbn_places(void) { return 0; }
    static int fastbn_place_size(int place) { return 0; }
    static void fastbn_place(int place, int *ids) { }
    #endif
    """
    int fastbn_try_team(int threads)
    int fastbn_watch_forks()
    int fastbn_places()
    int fastbn_place_size(int place)
    void fastbn_place(int place, int* ids)

from libc.stdlib cimport free, malloc

if fastbn_watch_forks():
    raise MemoryError("no memory for a handler of forks")


def places():
    """Return the CPUs that OMP_PLACES, OMP_PROC_BIND or GOMP_CPU_AFFINITY bind threads to, or an empty set.

    A runtime that binds its threads also binds the first thread, so the affinity of that thread is no substitute.
    """
    cdef set out = set()
    cdef int place, size, k
    cdef int* ids
    for place in range(fastbn_places()):
        size = fastbn_place_size(place)
        ids = <int*> malloc(max(size, 1) * sizeof(int))
        if ids == NULL:
            raise MemoryError("no memory for the CPUs of a place")
        fastbn_place(place, ids)
        for k in range(size):
            out.add(ids[k])
        free(ids)
    return out


def try_team(int threads):
    """Start `threads` threads, this one included, if the last team was smaller; return 0 or an error number."""
    return fastbn_try_team(threads)

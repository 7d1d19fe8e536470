# cython: language_level=3
"""Memory of large results: a pool of buffers that are used again.

A new array of 100 MB costs more in page faults than a forward pass over it. So the memory of a result goes back to a
pool when the array is deleted, and the next result of that size gets it.

a) Arrays own their memory as always (NumPy's NEP 49): the pool is the allocator of the arrays that `empty` makes, and
   of no others. A program that sets an allocator of its own keeps it.
b) Buffers in use and idle ones together take no more than those in use took at most during the last one or two periods
   of PERIOD calls, and SPARE bytes. So a loop needs hardly more memory than without a pool, and while calls need none
   of it, all goes back to the system. At most MOST buffers and `limit` bytes are idle.
c) A buffer begins at a huge page, or at a page if it is smaller, and its Block lies in front of it.
d) Arrays may be deleted in any thread, at any time. The lock is held for a few instructions, without a system call,
   a Python object or an error inside.
e) A forked child begins with an empty pool, and never keeps a buffer of its parent: writing there copies every page.
"""

cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_New
from cpython.ref cimport Py_INCREF, PyObject
from libc.string cimport memcpy, memset, strcpy

cdef extern from *:
    """
    #define FASTBN_BLOCK 64     /* bytes in front of the data */
    #ifdef _WIN32
    #include <malloc.h>
    #include <windows.h>
    static SRWLOCK fastbn_mutex = SRWLOCK_INIT;
    static void fastbn_lock(void) { AcquireSRWLockExclusive(&fastbn_mutex); }
    static void fastbn_unlock(void) { ReleaseSRWLockExclusive(&fastbn_mutex); }
    static int fastbn_at_fork(void (*child)(void)) { return 0; }
    static char *fastbn_map(size_t bytes) {
        char *p = bytes < (size_t) -1 / 2 ? _aligned_malloc(FASTBN_BLOCK + bytes, FASTBN_BLOCK) : NULL;
        return p ? p + FASTBN_BLOCK : NULL;
    }
    static void fastbn_unmap(char *data, size_t bytes) { _aligned_free(data - FASTBN_BLOCK); }
    #else
    #include <pthread.h>
    #include <stdint.h>
    #include <sys/mman.h>
    #include <unistd.h>
    #ifndef MAP_ANONYMOUS
    #define MAP_ANONYMOUS MAP_ANON
    #endif
    #define FASTBN_HUGE ((size_t) 2 << 20)

    static pthread_mutex_t fastbn_mutex = PTHREAD_MUTEX_INITIALIZER;
    static void fastbn_lock(void) { pthread_mutex_lock(&fastbn_mutex); }
    static void fastbn_unlock(void) { pthread_mutex_unlock(&fastbn_mutex); }
    static int fastbn_at_fork(void (*child)(void)) { return pthread_atfork(fastbn_lock, fastbn_unlock, child); }

    static size_t fastbn_whole(size_t bytes, size_t unit) { return (bytes + unit - 1) & ~(unit - 1); }

    static char *fastbn_map(size_t bytes) {
        size_t page = (size_t) sysconf(_SC_PAGESIZE), align = page, length;
        char *p, *data;
    #ifdef MADV_HUGEPAGE
        if (bytes >= FASTBN_HUGE && page < FASTBN_HUGE) align = FASTBN_HUGE;
    #endif
        if (bytes > (size_t) -1 / 2) return NULL;
        length = fastbn_whole(bytes, page);
        p = mmap(NULL, align + length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) return NULL;
        /* One page is kept in front of the data, for the Block. */
        data = (char *) fastbn_whole((uintptr_t) p + page, align);
        if (data - page > p) munmap(p, data - page - p);
        if (p + align > data) munmap(data + length, p + align - data);
    #ifdef MADV_HUGEPAGE
        if (align == FASTBN_HUGE) madvise(data - page, page + length, MADV_HUGEPAGE);
    #endif
        return data;
    }

    static void fastbn_unmap(char *data, size_t bytes) {
        size_t page = (size_t) sysconf(_SC_PAGESIZE);
        munmap(data - page, page + fastbn_whole(bytes, page));
    }
    #endif
    """
    enum:
        FASTBN_BLOCK
    void fastbn_lock() noexcept nogil
    void fastbn_unlock() noexcept nogil
    int fastbn_at_fork(void (*child)() noexcept nogil) noexcept nogil
    char* fastbn_map(size_t bytes) noexcept nogil
    void fastbn_unmap(char* data, size_t bytes) noexcept nogil

cdef extern from *:
    """
    /* Until Python 3.11 any new object may start a garbage collection, and finalizers of the program. */
    #if PY_VERSION_HEX < 0x030C0000 && !defined(PYPY_VERSION)
    static int fastbn_pause_collector(void) { return PyGC_Disable(); }
    static void fastbn_resume_collector(int enabled) { if (enabled) PyGC_Enable(); }
    #else
    static int fastbn_pause_collector(void) { return 0; }
    static void fastbn_resume_collector(int enabled) { (void) enabled; }
    #endif
    """
    bint fastbn_pause_collector() noexcept
    void fastbn_resume_collector(bint enabled) noexcept

cdef extern from "numpy/arrayobject.h":
    ctypedef struct PyDataMemAllocator:
        void* ctx
        void* (*malloc)(void*, size_t) noexcept nogil
        void* (*calloc)(void*, size_t, size_t) noexcept nogil
        void* (*realloc)(void*, void*, size_t) noexcept nogil
        void (*free)(void*, void*, size_t) noexcept nogil
    ctypedef struct PyDataMem_Handler:
        char name[127]
        unsigned char version
        PyDataMemAllocator allocator
    object PyDataMem_SetHandler(object)
    object PyDataMem_GetHandler()
    PyObject* PyDataMem_DefaultHandler
    cnp.ndarray PyArray_Empty(int, const cnp.npy_intp*, cnp.dtype, bint)

cnp.import_array()

cdef enum:
    AXES = 64               # most of an array of NumPy
    MOST = 256              # idle buffers
    PERIOD = 1000           # calls
    CLOSE = 16              # a buffer fits a request if at most 1/CLOSE of the request is left over
cdef size_t LEAST = 1 << 20         # bytes of a large result
cdef size_t SPARE = 32 << 20        # so that results of several sizes below it all find buffers

cdef struct Block:
    Block* next
    size_t bytes
    long forks

# Guarded by the lock.
cdef Block* idle = NULL             # the buffers of the pool, the last one that was used first
cdef size_t idle_bytes = 0
cdef int idle_count = 0
cdef size_t used_bytes = 0          # of buffers in use
cdef size_t peak = 0                # the maximum of used_bytes at the calls of this period, and of the one before
cdef size_t last_peak = 0
cdef int calls = 0                  # of this period
cdef long forks = 0                 # generations between the process that loaded this module and this one
cdef size_t limit = 0


cdef inline Block* block_of(void* data) noexcept nogil:
    return <Block*> (<char*> data - FASTBN_BLOCK)


cdef inline char* data_of(Block* block) noexcept nogil:
    return <char*> block + FASTBN_BLOCK


cdef void unmap(Block* block) noexcept nogil:
    # A chain of buffers that are in no list any more.
    cdef Block* next
    while block != NULL:
        next = block.next
        fastbn_unmap(data_of(block), block.bytes)
        block = next


cdef bint count_call() noexcept nogil:
    # Whether a period ended, so that the bounds may be lower.
    global calls, peak, last_peak
    calls += 1
    if calls < PERIOD:
        return False
    calls = 0
    last_peak = peak
    peak = 0
    return True


cdef size_t bound(size_t wanted=0) noexcept nogil:
    # Bytes that may be idle; `wanted` are to be in use.
    cdef size_t most = max(max(peak, last_peak), wanted)
    if most != 0:
        most += SPARE
    return min(limit, most - used_bytes if most > used_bytes else 0)


cdef Block* cut(size_t most) noexcept nogil:
    # Takes out of the pool what exceeds the bounds, the buffers of longest ago.
    global idle, idle_bytes, idle_count
    cdef Block** link = &idle
    cdef Block* rest
    cdef size_t total = 0
    cdef int count = 0
    if idle_bytes <= most and idle_count <= MOST:
        return NULL
    while link[0] != NULL and count < MOST and total + link[0].bytes <= most:
        total += link[0].bytes
        count += 1
        link = &link[0].next
    rest = link[0]
    link[0] = NULL
    idle_bytes = total
    idle_count = count
    return rest


cdef Block* pick(size_t bytes) noexcept nogil:
    # The idle buffer that fits best, or NULL.
    global idle_bytes, idle_count
    cdef Block** link = &idle
    cdef Block** best = NULL
    cdef Block* found
    while link[0] != NULL:
        if link[0].bytes >= bytes and (best == NULL or link[0].bytes < best[0].bytes):
            best = link
        link = &link[0].next
    if best == NULL or best[0].bytes - bytes > bytes // CLOSE:
        return NULL
    found = best[0]
    best[0] = found.next
    idle_bytes -= found.bytes
    idle_count -= 1
    return found


cdef size_t empty_pool() noexcept nogil:
    # Unmaps all idle buffers; returns their bytes.
    cdef size_t bytes
    cdef Block* all
    fastbn_lock()
    bytes = idle_bytes
    all = cut(0)
    fastbn_unlock()
    unmap(all)
    return bytes


cdef void* take(size_t bytes) noexcept nogil:
    """Return memory, aligned to 64 bytes, or NULL."""
    global used_bytes, peak
    cdef Block* block
    cdef Block* excess
    cdef char* data
    fastbn_lock()
    count_call()
    block = pick(bytes)
    used_bytes += bytes if block == NULL else block.bytes
    if block != NULL:
        peak = max(peak, used_bytes)
    excess = cut(bound(used_bytes))
    fastbn_unlock()
    unmap(excess)
    if block != NULL:
        return data_of(block)
    data = fastbn_map(bytes)
    if data == NULL and empty_pool():
        data = fastbn_map(bytes)
    fastbn_lock()
    if data == NULL:
        used_bytes -= bytes
    else:
        peak = max(peak, used_bytes)
    fastbn_unlock()
    if data == NULL:
        return NULL
    block = block_of(data)
    block.bytes = bytes
    block.forks = forks
    return data


cdef void give(void* data) noexcept nogil:
    """Take back memory of `take`, or NULL."""
    global idle, idle_bytes, idle_count, used_bytes
    cdef Block* block = block_of(data)
    cdef Block* excess
    if data == NULL:
        return
    fastbn_lock()
    used_bytes -= block.bytes
    if block.forks != forks:
        block.next = NULL
        excess = block
    else:
        block.next = idle
        idle = block
        idle_bytes += block.bytes
        idle_count += 1
        excess = cut(bound())
    fastbn_unlock()
    unmap(excess)


cdef void pass_over() noexcept nogil:
    # A call that needs no memory of the pool. Many of them in a row release what is idle.
    cdef Block* excess
    fastbn_lock()
    excess = cut(bound()) if count_call() else NULL
    fastbn_unlock()
    unmap(excess)


cdef void* numpy_malloc(void* ctx, size_t bytes) noexcept nogil:
    return take(bytes)


cdef void* numpy_calloc(void* ctx, size_t count, size_t size) noexcept nogil:
    cdef void* data = take(count * size) if size == 0 or count <= <size_t> -1 // size else NULL
    if data != NULL:
        memset(data, 0, count * size)
    return data


cdef void* numpy_realloc(void* ctx, void* data, size_t bytes) noexcept nogil:
    # Of ndarray.resize.
    cdef void* moved = take(bytes)
    if data != NULL and moved != NULL:
        memcpy(moved, data, min(bytes, block_of(data).bytes))
        give(data)
    return moved


cdef void numpy_free(void* ctx, void* data, size_t bytes) noexcept nogil:
    give(data)


cdef PyDataMem_Handler handler
strcpy(handler.name, b"fastbn")
handler.version = 1
handler.allocator = PyDataMemAllocator(NULL, numpy_malloc, numpy_calloc, numpy_realloc, numpy_free)
cdef object capsule = PyCapsule_New(&handler, "mem_handler", NULL)


cdef cnp.ndarray new_array(int ndim, const cnp.npy_intp* shape, cnp.dtype kind):
    """Return a new array, C-contiguous; a large one gets its memory from the pool."""
    cdef size_t bytes = kind.itemsize
    cdef bint collects
    cdef int i
    for i in range(ndim):
        bytes *= <size_t> shape[i]
    Py_INCREF(kind)     # PyArray_Empty takes it over
    if bytes < LEAST or bytes > limit:
        if idle != NULL:
            pass_over()
        return PyArray_Empty(ndim, shape, kind, False)
    before = PyDataMem_GetHandler()
    if <PyObject*> before != PyDataMem_DefaultHandler:      # the program has an allocator of its own
        return PyArray_Empty(ndim, shape, kind, False)
    PyDataMem_SetHandler(capsule)       # of this thread and context only
    try:
        return PyArray_Empty(ndim, shape, kind, False)
    finally:
        collects = fastbn_pause_collector()
        try:
            PyDataMem_SetHandler(before)
        finally:
            fastbn_resume_collector(collects)


cpdef cnp.ndarray empty(tuple shape, cnp.dtype kind):
    """Return a new array like `numpy.empty`; a large one gets its memory from the pool."""
    cdef cnp.npy_intp[AXES] lengths
    cdef int i
    if len(shape) > AXES:
        raise ValueError(f"shape is {shape}; expected {AXES} lengths at most")
    for i in range(len(shape)):
        lengths[i] = shape[i]
    return new_array(len(shape), lengths, kind)


def release():
    """Return all idle buffers to the system, and their bytes."""
    return empty_pool()


def set_limit(size_t most):
    """Set the bytes that may be idle; 0 turns the pool off."""
    global limit
    limit = most
    empty_pool()


def state():
    """Return the limit, the number and the bytes of idle buffers, and the bytes in use."""
    return limit, idle_count, idle_bytes, used_bytes


cdef void begin_child() noexcept nogil:
    # In a child, after the fork; the lock was taken before it. What the parent had in use may be in use here.
    global forks, calls, peak, last_peak
    cdef Block* all
    forks += 1
    calls = 0
    peak = last_peak = 0
    all = cut(0)
    fastbn_unlock()
    unmap(all)


if fastbn_at_fork(begin_child):
    raise MemoryError("no memory for a handler of forks")

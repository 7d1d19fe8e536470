# Memory traffic: prefetches of what is reduced next, and stores that bypass the caches.
#
# a) A reduction that first waits for memory and then computes takes the sum of both times. So it prefetches a few cache
#    lines at a time, in the order in which they lie.
# b) An output far larger than the last cache is not found there by the next reader, and a plain store first reads the
#    line that it overwrites: a third of the traffic. Such an output is streamed.

cdef extern from *:
    """
    #include <string.h>
    #define FASTBN_TOUCH(p) ((void) *(const volatile char*) (p))
    #if defined(__GNUC__)
    #define FASTBN_PREFETCH(p) __builtin_prefetch(p)
    #define FASTBN_PREFETCH_FAR(p) __builtin_prefetch(p, 0, 2)
    #else
    #define FASTBN_PREFETCH_FAR(p) ((void) (p))
    #define FASTBN_PREFETCH(p) ((void) (p))
    #endif
    #if defined(__SSE2__) && (defined(__GNUC__) || defined(__clang__))
    #include <immintrin.h>
    #define FASTBN_STREAMS 1
    /* p and bytes are multiples of 16. A loop of one store may take twice as long, because of where its code lies. */
    static inline __attribute__((always_inline)) void fastbn_stream(void* p, const void* from, Py_ssize_t bytes) {
        Py_ssize_t i = 0;
    #ifdef __AVX__
        if (((size_t) p & 31) == 0)
    #pragma GCC unroll 4
            for (; i + 32 <= bytes; i += 32)
                _mm256_stream_si256((__m256i*) ((char*) p + i),
                                    _mm256_loadu_si256((const __m256i*) ((const char*) from + i)));
    #endif
    #pragma GCC unroll 4
        for (; i < bytes; i += 16)
            _mm_stream_si128((__m128i*) ((char*) p + i), _mm_loadu_si128((const __m128i*) ((const char*) from + i)));
    }
    static inline void fastbn_fence(void) { _mm_sfence(); }
    #else
    #define FASTBN_STREAMS 0
    static inline void fastbn_stream(void* p, const void* from, Py_ssize_t bytes) { memcpy(p, from, bytes); }
    static inline void fastbn_fence(void) {}
    #endif
    """
    void FASTBN_TOUCH(const void*) noexcept nogil
    void FASTBN_PREFETCH(const void*) noexcept nogil
    void FASTBN_PREFETCH_FAR(const void*) noexcept nogil
    bint FASTBN_STREAMS
    void fastbn_stream(void* p, const void* source, Py_ssize_t bytes) noexcept nogil
    void fastbn_fence() noexcept nogil

cdef enum:
    LINE = 64           # bytes of a cache line
    AHEAD = 2048        # distance of a prefetch in a run, in bytes
    AHEAD_ROWS = 8      # and in rows, in rows of all arrays together


cdef inline void prefetch(const void* p, int bytes) noexcept nogil:
    # The address may be any.
    cdef int i
    for i in range((bytes + LINE - 1) // LINE):
        FASTBN_PREFETCH(<const char*> p + i * LINE)


cdef inline void prefetch_far(const void* p, int bytes) noexcept nogil:
    # Into the second-level cache.
    cdef int i
    for i in range((bytes + LINE - 1) // LINE):
        FASTBN_PREFETCH_FAR(<const char*> p + i * LINE)


cdef void touch(const char* p, Py_ssize_t rows, Py_ssize_t width, Py_ssize_t step) noexcept nogil:
    # Loads memory into the cache; width and step in bytes. Unlike prefetch instructions, plain loads train the CPU's
    # own prefetcher.
    cdef Py_ssize_t i, w
    for i in range(rows):
        w = 0
        while w < width:
            FASTBN_TOUCH(p + i * step + w)
            w += LINE

# Stores of a forward that go around the caches. An output far larger than the last of them is not found there by
# whoever reads it next, and a plain store first reads what it is about to overwrite: a third of the traffic.

cdef extern from *:
    """
    #include <string.h>
    #if defined(__SSE2__) && (defined(__GNUC__) || defined(__clang__))
    #include <immintrin.h>
    #define FASTBN_STREAMS 1
    /* p and bytes are multiples of 16. */
    static inline __attribute__((always_inline)) void fastbn_stream(void* p, const void* from, Py_ssize_t bytes) {
        Py_ssize_t i = 0;
    #ifdef __AVX__
        if (((size_t) p & 31) == 0)
            for (; i + 32 <= bytes; i += 32)
                _mm256_stream_si256((__m256i*) ((char*) p + i),
                                    _mm256_loadu_si256((const __m256i*) ((const char*) from + i)));
    #endif
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
    bint FASTBN_STREAMS
    void fastbn_stream(void* p, const void* source, Py_ssize_t bytes) noexcept nogil
    void fastbn_fence() noexcept nogil


cdef void choose_stores(Job* job, Py_ssize_t last_cache) noexcept nogil:
    # Runs of whole 16 bytes, and not in place, where a cache has them already. Twice the last cache, because the host
    # of a virtual machine may have more of it than it tells.
    cdef Py_ssize_t size = job.itemsize
    cdef Py_ssize_t run = (job.c if job.s == 1 else job.s) * size
    cdef Py_ssize_t steps = job.y.step_n * size | (0 if job.s == 1 else job.y.step_c * size)
    job.stream = (FASTBN_STREAMS and job.g.p == NULL and job.y.p != NULL and job.y.p != job.x.p and job.y.p != job.r.p
                  and job.n * job.c * job.s * size > 2 * last_cache
                  and ((<Py_ssize_t> job.y.p) | run | steps) % 16 == 0)

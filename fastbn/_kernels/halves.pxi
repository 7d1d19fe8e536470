# Arrays of float16 and bfloat16: kernels compute in float, and a piece of such an array passes through a local one.
#
# a) Integer arithmetic on the bits, of which the compiler makes vectors; every ISA level gives the same.
# b) To float is exact. From float rounds to nearest even; what is too large becomes Inf, and NaN stays NaN.
# c) `loaded` is where a kernel gets the elements it reads: of float and double they are where they are, at no cost.

from libc.stdint cimport uint32_t

cdef enum:
    STAGE = 256                 # elements of a piece of the elementwise passes: while one is stored, the next is read
    APART = 80                  # so that no two local arrays begin at the same place in a page (rows_reduce.pxi)


cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    static inline uint32_t fastbn_bits(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }
    static inline float fastbn_float(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
    """
    uint32_t fastbn_bits(float f) noexcept nogil
    float fastbn_float(uint32_t u) noexcept nogil

cdef extern from *:
    """
    /* The same conversions with the instructions that CPUs have for them: gcc 12 makes no vectors of _Float16, and slow
       ones of the integer arithmetic (docs/kernels.md). Each returns how many it did; the rest is done below. */
    #if defined(__F16C__) && defined(__AVX2__) && (defined(__GNUC__) || defined(__clang__))
    #include <immintrin.h>
    static inline Py_ssize_t fastbn_unpack(int is_bfloat16, const uint16_t* p, Py_ssize_t n, float* out) {
        Py_ssize_t j = 0;
    #ifdef __AVX512F__
        for (; j + 16 <= n; j += 16) {
            __m256i h = _mm256_loadu_si256((const __m256i*) (p + j));
            _mm512_storeu_ps(out + j, is_bfloat16
                ? _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16)) : _mm512_cvtph_ps(h));
        }
    #endif
        for (; j + 8 <= n; j += 8) {
            __m128i h = _mm_loadu_si128((const __m128i*) (p + j));
            _mm256_storeu_ps(out + j, is_bfloat16
                ? _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16)) : _mm256_cvtph_ps(h));
        }
        return j;
    }
    #ifdef __AVX512F__
    static inline __m256i fastbn_bfloat16x16(__m512 x) {
        __m512i u = _mm512_castps_si512(x), even = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
        __m512i rounded = _mm512_add_epi32(u, _mm512_add_epi32(even, _mm512_set1_epi32(0x7fff)));
        rounded = _mm512_mask_or_epi32(rounded, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), u, _mm512_set1_epi32(0x400000));
        return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
    }
    #endif
    static inline __m128i fastbn_bfloat16x8(__m256 x) {
        __m256i u = _mm256_castps_si256(x), even = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
        __m256i rounded = _mm256_add_epi32(u, _mm256_add_epi32(even, _mm256_set1_epi32(0x7fff)));
        __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
        rounded = _mm256_blendv_epi8(rounded, _mm256_or_si256(u, _mm256_set1_epi32(0x400000)), nan);
        rounded = _mm256_srli_epi32(rounded, 16);
        return _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
    }
    static inline Py_ssize_t fastbn_pack(int is_bfloat16, const float* x, Py_ssize_t n, uint16_t* out) {
        Py_ssize_t j = 0;
    #ifdef __AVX512F__
        for (; j + 16 <= n; j += 16) {
            __m512 t = _mm512_loadu_ps(x + j);
            _mm256_storeu_si256((__m256i*) (out + j),
                is_bfloat16 ? fastbn_bfloat16x16(t) : _mm512_cvtps_ph(t, _MM_FROUND_TO_NEAREST_INT));
        }
    #endif
        for (; j + 8 <= n; j += 8) {
            __m256 t = _mm256_loadu_ps(x + j);
            _mm_storeu_si128((__m128i*) (out + j),
                is_bfloat16 ? fastbn_bfloat16x8(t) : _mm256_cvtps_ph(t, _MM_FROUND_TO_NEAREST_INT));
        }
        return j;
    }
    #else
    static inline Py_ssize_t fastbn_unpack(int is_bfloat16, const uint16_t* p, Py_ssize_t n, float* out) { return 0; }
    static inline Py_ssize_t fastbn_pack(int is_bfloat16, const float* x, Py_ssize_t n, uint16_t* out) { return 0; }
    #endif
    """
    Py_ssize_t fastbn_unpack(int is_bfloat16, const uint16_t* p, Py_ssize_t n, float* out) noexcept nogil
    Py_ssize_t fastbn_pack(int is_bfloat16, const float* x, Py_ssize_t n, uint16_t* out) noexcept nogil


cdef inline bint is_half(int type) noexcept nogil:
    return type == FLOAT16 or type == BFLOAT16


cdef inline float from_float16(uint32_t h) noexcept nogil:
    cdef uint32_t em = (h & 0x7fff) << 13               # exponent and fraction, in a float's place
    cdef uint32_t rebiased = em + 0x38000000            # exponent + 127 - 15
    cdef uint32_t top = rebiased + (0x38000000 if em >= 0x0f800000 else 0)          # Inf and NaN
    cdef uint32_t low = fastbn_bits(fastbn_float(rebiased + 0x00800000) - fastbn_float(0x38800000))     # subnormal
    return fastbn_float((low if em < 0x00800000 else top) | (h & 0x8000) << 16)


cdef inline uint32_t to_float16(float f) noexcept nogil:
    cdef uint32_t u = fastbn_bits(f)
    cdef uint32_t a = u & 0x7fffffff
    cdef uint32_t even = (a - 0x37fff001 + ((a >> 13) & 1)) >> 13                   # exponent - 127 + 15, rounded
    cdef uint32_t low = fastbn_bits(fastbn_float(a) + 0.5) - 0x3f000000         # subnormals are multiples of 2^-24
    cdef uint32_t top = 0x7c00 if a <= 0x7f800000 else 0x7e00 | ((a >> 13) & 0x3ff)
    return (low if a < 0x38800000 else (even if a < 0x47800000 else top)) | (u >> 16 & 0x8000)


cdef inline float from_bfloat16(uint32_t h) noexcept nogil:
    return fastbn_float(h << 16)


cdef inline uint32_t to_bfloat16(float f) noexcept nogil:
    cdef uint32_t u = fastbn_bits(f)
    return ((u if f == f else u | 0x400000) + (0x7fff + ((u >> 16) & 1) if f == f else 0)) >> 16


cdef void unpack(int type, const uint16_t* p, Py_ssize_t n, float* out) noexcept nogil:
    cdef Py_ssize_t j = fastbn_unpack(type == BFLOAT16, p, n, out)
    if type == FLOAT16:
        while j < n:
            out[j] = from_float16(p[j])
            j += 1
    else:
        while j < n:
            out[j] = from_bfloat16(p[j])
            j += 1


cdef void pack(int type, const float* x, Py_ssize_t n, uint16_t* out) noexcept nogil:
    cdef Py_ssize_t j = fastbn_pack(type == BFLOAT16, x, n, out)
    if type == FLOAT16:
        while j < n:
            out[j] = <uint16_t> to_float16(x[j])
            j += 1
    else:
        while j < n:
            out[j] = <uint16_t> to_bfloat16(x[j])
            j += 1


cdef inline const real* loaded(
    int type, const char* p, Py_ssize_t* step, Py_ssize_t runs, Py_ssize_t length,     # IN  (runs, length), step apart
    float* room,
    const real* kind,
) noexcept nogil:
    # The elements as the kernels compute with them; `step` becomes theirs.
    cdef Py_ssize_t i
    if real is float:
        if is_half(type):
            if step[0] == length:
                unpack(type, <const uint16_t*> p, runs * length, room)
            else:
                for i in range(runs):
                    unpack(type, <const uint16_t*> p + i * step[0], length, room + i * length)
            step[0] = length
            return room
    return <const real*> p


cdef inline void stored(
    int type, const real* x, Py_ssize_t runs, Py_ssize_t length,                # IN  (runs, length), packed
    char* p, Py_ssize_t step,                                                   # OUT (runs, length), step apart
) noexcept nogil:
    cdef Py_ssize_t i, j
    cdef real* out
    for i in range(1 if step == length else runs):
        if step == length:
            length *= runs
        if real is float:
            if is_half(type):
                pack(type, x + i * length, length, <uint16_t*> p + i * step)
                continue
        out = <real*> p + i * step
        for j in range(length):
            out[j] = x[i * length + j]

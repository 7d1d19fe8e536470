# float16 and bfloat16: kernels compute in float and convert on the way in and out.
#
# a) The conversions are integer arithmetic on the bits, which compilers vectorize, or CPU instructions that give the
#    same bits, so all ISA levels agree.
# b) Conversion to float is exact. Conversion from float rounds to nearest even; values out of range become Inf, and
#    NaN stays NaN. Conversion to bfloat16 does not test for NaN: the low half of the bits of a NaN is zero, whether
#    it comes from a half, a constant (set_coefs) or the CPU, so rounding cannot turn it into a number.
# c) load_block() and store_block() convert in registers: their type and width are literals. load_runs() and
#    store_runs() convert pieces through a local array. For float and double the loads return the address itself.

cdef enum:
    STAGE = 1024                # elements of a piece: one is stored while the next is read


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
    /* The same conversions with CPU instructions: gcc 12 does not vectorize _Float16, and makes slow vectors of the
       integer arithmetic. Each returns the number of elements converted; unpack() and pack() convert the rest. `loose`
       permits the cheapest order of sixteen floats, the same one in both directions. */
    #if defined(__F16C__) && defined(__AVX2__) && (defined(__GNUC__) || defined(__clang__))
    #include <immintrin.h>
    #define FASTBN_INLINE static inline __attribute__((always_inline))
    FASTBN_INLINE Py_ssize_t fastbn_unpack(
        int is_bfloat16, int loose, const uint16_t* p, Py_ssize_t n, float* out
    ) {
        Py_ssize_t j = 0;
    #ifdef __AVX512F__
        for (; j + 16 <= n; j += 16) {
            __m256i h = _mm256_loadu_si256((const __m256i*) (p + j));
            _mm512_storeu_ps(out + j, is_bfloat16
                ? _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16)) : _mm512_cvtph_ps(h));
        }
    #else
        for (; j + 16 <= n && is_bfloat16 && loose; j += 16) {
            __m256i h = _mm256_loadu_si256((const __m256i*) (p + j)), zero = _mm256_setzero_si256();
            _mm256_storeu_ps(out + j, _mm256_castsi256_ps(_mm256_unpacklo_epi16(zero, h)));
            _mm256_storeu_ps(out + j + 8, _mm256_castsi256_ps(_mm256_unpackhi_epi16(zero, h)));
        }
    #endif
        for (; j + 8 <= n; j += 8) {
            __m128i h = _mm_loadu_si128((const __m128i*) (p + j));
            _mm256_storeu_ps(out + j, is_bfloat16
                ? _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16)) : _mm256_cvtph_ps(h));
        }
        for (; j + 4 <= n; j += 4) {
            __m128i h = _mm_loadl_epi64((const __m128i*) (p + j));
            _mm_storeu_ps(out + j, is_bfloat16
                ? _mm_castsi128_ps(_mm_slli_epi32(_mm_cvtepu16_epi32(h), 16)) : _mm_cvtph_ps(h));
        }
        for (; j < n && !is_bfloat16; j++)
            out[j] = _cvtsh_ss(p[j]);
        return j;
    }
    #ifdef __AVX512F__
    FASTBN_INLINE __m512i fastbn_rounded16(__m512 x) {
        __m512i u = _mm512_castps_si512(x), even = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
        return _mm512_srli_epi32(_mm512_add_epi32(u, _mm512_add_epi32(even, _mm512_set1_epi32(0x7fff))), 16);
    }
    #endif
    FASTBN_INLINE __m256i fastbn_rounded8(__m256 x) {
        __m256i u = _mm256_castps_si256(x), even = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
        return _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(even, _mm256_set1_epi32(0x7fff))), 16);
    }
    FASTBN_INLINE __m128i fastbn_rounded4(__m128 x) {
        __m128i u = _mm_castps_si128(x), even = _mm_and_si128(_mm_srli_epi32(u, 16), _mm_set1_epi32(1));
        return _mm_srli_epi32(_mm_add_epi32(u, _mm_add_epi32(even, _mm_set1_epi32(0x7fff))), 16);
    }
    FASTBN_INLINE Py_ssize_t fastbn_pack(
        int is_bfloat16, int loose, const float* x, Py_ssize_t n, uint16_t* out
    ) {
        Py_ssize_t j = 0;
    #ifdef __AVX512F__
        for (; j + 16 <= n; j += 16) {
            __m512 t = _mm512_loadu_ps(x + j);
            _mm256_storeu_si256((__m256i*) (out + j), is_bfloat16
                ? _mm512_cvtepi32_epi16(fastbn_rounded16(t)) : _mm512_cvtps_ph(t, _MM_FROUND_TO_NEAREST_INT));
        }
    #endif
        for (; j + 16 <= n && is_bfloat16; j += 16) {
            __m256i low = fastbn_rounded8(_mm256_loadu_ps(x + j)), high = fastbn_rounded8(_mm256_loadu_ps(x + j + 8));
            __m256i h = _mm256_packus_epi32(low, high);
            _mm256_storeu_si256((__m256i*) (out + j), loose ? h : _mm256_permute4x64_epi64(h, 0xd8));
        }
        for (; j + 8 <= n && !is_bfloat16; j += 8)
            _mm_storeu_si128((__m128i*) (out + j),
                _mm256_cvtps_ph(_mm256_loadu_ps(x + j), _MM_FROUND_TO_NEAREST_INT));
        for (; j + 4 <= n; j += 4) {
            __m128 t = _mm_loadu_ps(x + j);
            __m128i h = is_bfloat16 ? fastbn_rounded4(t) : _mm_cvtps_ph(t, _MM_FROUND_TO_NEAREST_INT);
            _mm_storel_epi64((__m128i*) (out + j), is_bfloat16 ? _mm_packus_epi32(h, h) : h);
        }
        for (; j < n && !is_bfloat16; j++)
            out[j] = _cvtss_sh(x[j], _MM_FROUND_TO_NEAREST_INT);
        return j;
    }
    #else
    #define fastbn_unpack(is_bfloat16, loose, p, n, out) 0
    #define fastbn_pack(is_bfloat16, loose, x, n, out) 0
    #endif
    """
    Py_ssize_t fastbn_unpack(int is_bfloat16, int loose, const uint16_t* p, Py_ssize_t n, float* out) noexcept nogil
    Py_ssize_t fastbn_pack(int is_bfloat16, int loose, const float* x, Py_ssize_t n, uint16_t* out) noexcept nogil


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
    return (u + 0x7fff + ((u >> 16) & 1)) >> 16


cdef inline void unpack(int type, bint loose, const uint16_t* p, Py_ssize_t n, float* out) noexcept nogil:
    cdef Py_ssize_t j = fastbn_unpack(type == BFLOAT16, loose, p, n, out)
    if type == FLOAT16:
        while j < n:
            out[j] = from_float16(p[j])
            j += 1
    else:
        while j < n:
            out[j] = from_bfloat16(p[j])
            j += 1


cdef inline void pack(int type, bint loose, const float* x, Py_ssize_t n, uint16_t* out) noexcept nogil:
    cdef Py_ssize_t j = fastbn_pack(type == BFLOAT16, loose, x, n, out)
    if type == FLOAT16:
        while j < n:
            out[j] = <uint16_t> to_float16(x[j])
            j += 1
    else:
        while j < n:
            out[j] = <uint16_t> to_bfloat16(x[j])
            j += 1


cdef inline const real* load_block(
    int type, bint loose, const char* p, int width, float* room, const real* kind,
) noexcept nogil:
    # With literals for type and width the elements stay in registers.
    if real is float:
        if is_half(type):
            unpack(type, loose, <const uint16_t*> p, width, room)
            return room
    return <const real*> p


cdef inline void store_block(
    int type, bint loose, bint stream, const real* t, int width, int lanes, char* p,
) noexcept nogil:
    # Stores the first `width` of `lanes` elements, which are literals too, except in the last block of a run.
    cdef uint16_t room[TILE]
    cdef bint streams = stream and width * size_of(type) % 16 == 0
    cdef int j
    if real is float:
        if is_half(type):
            if streams:
                pack(type, loose, t, width, room)
                fastbn_stream(p, room, 2 * width)
            else:
                pack(type, loose, t, width, <uint16_t*> p)
            return
    if streams:
        fastbn_stream(p, t, width * <int> sizeof(real))
        return
    for j in range(lanes):
        if j < width:
            (<real*> p)[j] = t[j]


cdef inline const real* load_runs(
    int type, Runs a, Py_ssize_t runs, Py_ssize_t length,                       # IN  (runs, length)
    float* room,                                                                # (runs * length,) for halves
    Py_ssize_t* step,                                                           # OUT from run to run, in elements
    const real* kind,
) noexcept nogil:
    cdef Py_ssize_t i
    if real is float:
        if is_half(type):
            if a.step == 2 * length:
                unpack(type, False, <const uint16_t*> a.p, runs * length, room)
            else:
                for i in range(runs):
                    unpack(type, False, <const uint16_t*> (a.p + i * a.step), length, room + i * length)
            step[0] = length
            return room
    step[0] = a.step // <Py_ssize_t> sizeof(real)
    return <const real*> a.p


cdef inline void store_runs(
    int type, bint stream, const real* x,                                       # IN  (runs, length), packed
    Runs a, Py_ssize_t runs, Py_ssize_t length,                                 # OUT (runs, length)
) noexcept nogil:
    cdef uint16_t room[STAGE]
    cdef Py_ssize_t i, j
    cdef char* out
    cdef bint packed = a.step == length * size_of(type)
    if packed:
        length *= runs
    for i in range(1 if packed else runs):
        out = a.p + i * a.step
        if real is float:
            if is_half(type):
                if stream:
                    pack(type, False, x + i * length, length, room)
                    fastbn_stream(out, room, length * 2)
                else:
                    pack(type, False, x + i * length, length, <uint16_t*> out)
                continue
        if stream:
            fastbn_stream(out, x + i * length, length * <Py_ssize_t> sizeof(real))
            continue
        for j in range(length):
            (<real*> out)[j] = x[i * length + j]

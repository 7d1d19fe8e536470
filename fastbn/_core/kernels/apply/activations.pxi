# Activations of inference: elementwise and in place, on a piece in the first-level cache.
#
# a) ReLU is not among them: it is part of the pass itself (affine.pxi), which training shares.
# b) exp is written out, because the last bit of the C library's depends on its version and on the CPU.
#    exp(x) = 2^k (1 + p(r)) with x = k ln 2 + r and abs(r) <= ln(2) / 2. p is the Taylor series of exp(r) - 1; its
#    first neglected term is below a rounding unit of the type. ln 2 has two words, and k times the first is exact (Cody
#    and Waite, 1980).
# c) NaN passes through. Every activation has its limit at -Inf: silu and hardswish are 0 there.

cdef enum:
    NO_ACTIVATION = 0
    RELU = 1
    RELU6 = 2
    LEAKY_RELU = 3
    HARDSWISH = 4
    SIGMOID = 5
    SILU = 6
    TANH = 7


cdef extern from *:
    """
    static inline uint64_t fastbn_bits_of_double(double f) { uint64_t u; memcpy(&u, &f, 8); return u; }
    static inline double fastbn_double(uint64_t u) { double f; memcpy(&f, &u, 8); return f; }
    """
    uint64_t fastbn_bits_of_double(double f) noexcept nogil
    double fastbn_double(uint64_t u) noexcept nogil


cdef inline real expm1_of(real x, real* half1, real* half2) noexcept nogil:
    # Returns p of exp(x) - 1 = 2^k p + (2^k - 1). 2^k comes in two factors, which are in range even if 2^k is not.
    # abs(x) is at most 170 in float and 1400 in double.
    cdef real k, r, p
    cdef uint32_t u
    cdef uint64_t v
    if real is float:
        # Adding 1.5 * 2^23 rounds to an integer, which then fills the low bits.
        k = x * <real> 1.4426950408889634 + <real> 12582912.0
        u = fastbn_bits(k) - 0x4b400000 + 512
        half1[0] = fastbn_float(((u >> 1) - 256 + 127) << 23)
        half2[0] = fastbn_float((u - (u >> 1) - 256 + 127) << 23)
        k -= <real> 12582912.0
        r = (x - k * <real> 0.693359375) - k * <real> -2.12194440e-4
        p = <real> (1.0 / 5040)
        p = p * r + <real> (1.0 / 720)
    else:
        k = x * 1.4426950408889634 + 6755399441055744.0
        v = fastbn_bits_of_double(k) - (<uint64_t> 0x43380000 << 32) + 4096
        half1[0] = fastbn_double(((v >> 1) - 2048 + 1023) << 52)
        half2[0] = fastbn_double((v - (v >> 1) - 2048 + 1023) << 52)
        k -= 6755399441055744.0
        r = (x - k * 0.6931471803691238) - k * 1.9082149292705877e-10
        p = 1.0 / 6227020800.0
        p = p * r + 1.0 / 479001600.0
        p = p * r + 1.0 / 39916800.0
        p = p * r + 1.0 / 3628800.0
        p = p * r + 1.0 / 362880.0
        p = p * r + 1.0 / 40320.0
        p = p * r + 1.0 / 5040.0
        p = p * r + 1.0 / 720.0
    p = p * r + <real> (1.0 / 120)
    p = p * r + <real> (1.0 / 24)
    p = p * r + <real> (1.0 / 6)
    p = p * r + <real> 0.5
    return r + (r * r) * p


cdef inline real clamped(real x, real least_x, real most_x) noexcept nogil:
    # NaN passes through.
    return least_x if x < least_x else (most_x if x > most_x else x)


cdef inline real times_sigmoid(real x, bint by_x) noexcept nogil:
    # 1 / (1 + exp(-x)), or x times that. exp(-abs(x)) cannot overflow, and x is multiplied before the factors that make
    # the result small. Beyond the bound the result is below the smallest subnormal.
    cdef real half1, half2, p, e, small
    cdef real bound = <real> 120.0 if real is float else <real> 800.0
    cdef real low = -bound if x < -bound else x
    p = 1 + expm1_of(clamped(-low if low > 0 else low, -bound, 0), &half1, &half2)
    e = p * half1 * half2
    small = (low * p * half1 * half2 if by_x else e)
    return (small if low < 0 else (low if by_x else 1)) / (1 + e)


cdef inline real tanh_of(real x) noexcept nogil:
    # (e - 1) / (e + 1) with e = exp(2 x), and e - 1 without cancellation. It is 1 long before the bound.
    cdef real half1, half2, power, p, below
    cdef real bound = <real> 40.0
    p = expm1_of(clamped(2 * x, -bound, bound), &half1, &half2)
    power = half1 * half2
    below = power * p + (power - 1)
    return x if x == 0 else below / (below + 2)         # keeps the sign of zero


cdef void activate(int activation, real slope, real* t, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    cdef real g
    if activation == RELU6:
        for j in range(n):
            t[j] = clamped(t[j], 0, 6)
    elif activation == LEAKY_RELU:
        for j in range(n):
            t[j] = t[j] * slope if t[j] < 0 else t[j]
    elif activation == HARDSWISH:
        for j in range(n):
            g = clamped(t[j] + 3, 0, 6)
            t[j] = 0 if t[j] <= -3 else t[j] * (g * <real> (1.0 / 6))
    elif activation == SIGMOID:
        for j in range(n):
            t[j] = times_sigmoid(t[j], False)
    elif activation == SILU:
        for j in range(n):
            t[j] = times_sigmoid(t[j], True)
    elif activation == TANH:
        for j in range(n):
            t[j] = tanh_of(t[j])

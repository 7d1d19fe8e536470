# exp, log(1 + exp) and the normal distribution, for activations: + - * /, comparisons and integer shifts only, because
# the last bit of the C library's functions depends on its version and on the CPU.
#
# a) exp(x) = 2^k (1 + q) with x = k ln 2 + r, abs(r) <= ln(2) / 2 and q = exp(r) - 1, a polynomial. ln 2 has two words,
#    and k times the first is exact (Cody and Waite, 1980).
# b) 2^k is multiplied by the unit, 2^48 or 2^80, so that no product is subnormal. A caller divides by the unit last, so
#    a subnormal result is rounded once.
# c) Coefficients are those of least relative error (Remez, 1934), below 2^-27 in float and 2^-57 in double.


cdef extern from *:
    """
    static inline uint64_t fastbn_bits_of_double(double f) { uint64_t u; memcpy(&u, &f, 8); return u; }
    static inline double fastbn_double(uint64_t u) { double f; memcpy(&f, &u, 8); return f; }
    static inline float fastbn_opaque_float(float f) { volatile float v = f; return v; }
    static inline double fastbn_opaque_double(double f) { volatile double v = f; return v; }
    """
    uint64_t fastbn_bits_of_double(double f) noexcept nogil
    double fastbn_double(uint64_t u) noexcept nogil
    float fastbn_opaque_float(float f) noexcept nogil
    double fastbn_opaque_double(double f) noexcept nogil


cdef inline real exp_unit(const real* kind) noexcept nogil:
    return <real> 281474976710656.0 if real is float else <real> 1208925819614629174706176.0


cdef inline real least_exponent(const real* kind) noexcept nogil:
    # x exp(x) rounds to 0 from here on.
    return -120 if real is float else -760


cdef inline real most_exponent(const real* kind) noexcept nogil:
    # 1 + exp(-x) rounds to 1 from here on, with bits to spare.
    return 20 if real is float else 40


cdef inline real opaque(real bound) noexcept nogil:
    # The same number. gcc makes max and min instructions only of bounds that it does not know.
    if real is float:
        return fastbn_opaque_float(bound)
    else:
        return fastbn_opaque_double(bound)


cdef inline real at_least(real bound, real x) noexcept nogil:
    # NaN passes through, here and in at_most().
    return bound if x < bound else x


cdef inline real at_most(real bound, real x) noexcept nogil:
    return bound if bound < x else x


cdef inline real negative(real x) noexcept nogil:
    # -abs(x)
    if real is float:
        return fastbn_float(fastbn_bits(x) | (<uint32_t> 1 << 31))
    else:
        return fastbn_double(fastbn_bits_of_double(x) | (<uint64_t> 1 << 63))


cdef inline real reduced(real x, real low, real* scale) noexcept nogil:
    # Returns r of x + low, and the unit times 2^k. Adding 1.5 * 2^23 or 2^52 rounds k to an integer, which then fills
    # the low bits. With the bias of an exponent added too, they are the exponent of 2^k.
    cdef real k, magic
    if real is float:
        magic = <real> (12582912.0 + 127 + 48)
        k = x * <real> 1.4426950408889634 + magic
        scale[0] = fastbn_float(fastbn_bits(k) << 23)
        k -= magic
        return (x - k * <real> 0.693359375) - (k * <real> -2.12194440e-4 - low)
    else:
        magic = 6755399441055744.0 + 1023 + 80
        k = x * 1.4426950408889634 + magic
        scale[0] = fastbn_double(fastbn_bits_of_double(k) << 52)
        k -= magic
        return (x - k * 0.6931471803691238) - (k * 1.9082149292705877e-10 - low)


cdef inline real exp_of(bint minus_1, real r, real scale) noexcept nogil:
    # The unit times exp, or times exp - 1.
    cdef real p, q
    if real is float:
        p = <real> 0.00138145804119469187
        p = p * r + <real> 0.00836874518713295202
        p = p * r + <real> 0.0416683901489481547
        p = p * r + <real> 0.166665203989139159
        p = p * r + <real> 0.49999993434036817
    else:
        p = 2.50000112081237116e-8
        p = p * r + 2.76303062926276353e-7
        p = p * r + 2.75575868264560728e-6
        p = p * r + 2.48014929494630149e-5
        p = p * r + 1.98412695057508537e-4
        p = p * r + 1.38888889437602105e-3
        p = p * r + 8.33333333349498622e-3
        p = p * r + 4.16666666665297268e-2
        p = p * r + 0.166666666666664115
        p = p * r + 0.500000000000001067
    q = r + (r * r) * p
    return scale * q + (scale - exp_unit(&r) if minus_1 else scale)


cdef inline real log1p_of(real v) noexcept nogil:
    # log(1 + e) = 2 artanh(v / 2) with v = 2 e / (2 + e), for e from -1/2 to 1.
    cdef real w = v * v, p
    if real is float:
        p = <real> 0.00054710956456694836
        p = p * w + <real> 0.0021876405585128746
        p = p * w + <real> 0.012506727429792081
        p = p * w + <real> 0.083333020339254466
    else:
        p = 8.1108948447359761e-08
        p = p * w + 1.5916747406210058e-07
        p = p * w + 9.2353420255382255e-07
        p = p * w + 4.0591800132575516e-06
        p = p * w + 1.87824077331536e-05
        p = p * w + 8.8778049209479369e-05
        p = p * w + 0.00043402781159514875
        p = p * w + 0.0022321428553216914
        p = p * w + 0.012500000000048474
        p = p * w + 0.083333333333332885
    return v + (v * w) * p


cdef inline real log_above_minus_1(real u) noexcept nogil:
    # log(1 + u), for u from -1 to 0, as log(m) + k ln 2 with m from 1/2 to 1. At -1, that of the largest 1 + u that
    # rounds to 0 there.
    cdef real least_sum = <real> 2.98023223876953125e-8 if real is float else <real> 5.5511151231257827e-17
    cdef real d = at_least(least_sum, 1 + u), q
    cdef int k
    if real is float:
        k = <int> (fastbn_bits(d) >> 23) - 126
        q = fastbn_float((fastbn_bits(d) & <uint32_t> 0x7fffff) | <uint32_t> 0x3f000000) - 1
    else:
        k = <int> (fastbn_bits_of_double(d) >> 52) - 1022
        q = fastbn_double(
            (fastbn_bits_of_double(d) & <uint64_t> 0xfffffffffffff) | <uint64_t> 0x3fe0000000000000) - 1
    k = 0 if d >= <real> 0.5 else k
    q = u if d >= <real> 0.5 else q
    return <real> k * <real> 0.6931471805599453 + log1p_of((q + q) / (2 + q))


cdef inline real tail_numerator(real x) noexcept nogil:
    # The lower tail of the normal distribution is exp(-x^2 / 2) N(x) / D(x), for x <= 0. All terms are positive.
    cdef real p
    if real is float:
        p = <real> 0.004130658647542783
        p = p * x - <real> 0.040728829504972371
        p = p * x + <real> 0.18351687516040022
        p = p * x - <real> 0.43867213306216518
    else:
        p = 2.2549272910118779e-07
        p = p * x - 7.0105075736437699e-06
        p = p * x + 0.00010702082237831069
        p = p * x - 0.001043407218704465
        p = p * x + 0.0071439755185748804
        p = p * x - 0.035754214339156119
        p = p * x + 0.13229972388038072
        p = p * x - 0.35786086538950279
        p = p * x + 0.68027624826132638
        p = p * x - 0.82835131704731402
    return p * x + <real> 0.5


cdef inline real tail_denominator(real x) noexcept nogil:
    # The unit times D(x).
    cdef real p, unit = exp_unit(&x)
    if real is float:
        p = unit * <real> -0.010353908771896727
        p = p * x + unit * <real> 0.10209836661846003
        p = p * x - unit * <real> 0.470214845050203
        p = p * x + unit * <real> 1.2036684163273557
        p = p * x - unit * <real> 1.6752292549342891
    else:
        p = unit * -5.6522645048862496e-07
        p = p * x + unit * 1.7572736503638595e-05
        p = p * x - unit * 0.00026882664579519705
        p = p * x + unit * 0.0026330067730588867
        p = p * x - unit * 0.018174421985838841
        p = p * x + unit * 0.092202813447327781
        p = p * x - unit * 0.3490026420004731
        p = p * x + unit * 0.98159168535871011
        p = p * x - unit * 2.0036499456058019
        p = p * x + unit * 2.8190297224757686
        p = p * x - unit * 2.4545871948974933
    return p * x + unit


cdef inline real leading_half(real x) noexcept nogil:
    # Half of the digits, whose square is exact.
    if real is float:
        return fastbn_float(fastbn_bits(x) & <uint32_t> 0xfffff000)
    else:
        return fastbn_double(fastbn_bits_of_double(x) & ~<uint64_t> 0x7ffffff)

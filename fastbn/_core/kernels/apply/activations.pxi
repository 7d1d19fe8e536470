# Activations: elementwise and in place, on a piece in the first-level cache.
#
# a) ReLU is not among them: it is part of the pass itself (affine.pxi).
# b) A step goes through three loops, which leave their results in local arrays: the argument of exp and its reduction,
#    exp, and the activation. One loop would be a chain of 30 dependent operations, and a CPU holds too few at once.
# c) e is the unit times exp (exponentials.pxi). Every activation divides once.
# d) NaN passes through. Every activation has its limit at -Inf and at Inf.

cdef enum:
    NO_ACTIVATION = 0
    RELU = 1
    RELU6 = 2
    LEAKY_RELU = 3
    HARDSWISH = 4
    HARD_SIGMOID = 5
    SIGMOID = 6             # this and those that follow contain exp
    SILU = 7
    TANH = 8
    GELU = 9
    GELU_TANH = 10
    MISH = 11
    SOFTPLUS = 12
    ELU = 13
    INVERSE_ELU = 14        # from y to x, for a backward that has y alone

cdef enum:
    ACTIVATION_STEP = 128   # floats, and half as many doubles


cdef inline real least_input(int activation, const real* kind) noexcept nogil:
    # From here on down the activation is 0, or its limit.
    if activation == TANH:
        return -most_exponent(kind)
    if activation == GELU:
        return <real> -14.6 if real is float else -39
    return least_exponent(kind)


cdef inline real most_input(int activation, const real* kind) noexcept nogil:
    # From here on up the activation is x, or its limit. The formulas of gelu and softplus compare x with 0 instead.
    return 0 if activation == GELU or activation == SOFTPLUS else most_exponent(kind)


cdef inline real exp_argument(int activation, real least_x, real most_x, real x, real* low) noexcept nogil:
    # In two words. It is bounded only where the value counts.
    cdef real half
    low[0] = 0
    if activation == GELU:
        # -x^2 / 2. An error of a rounding unit in the square would be many in exp.
        x = at_least(least_x, negative(x))
        half = leading_half(x)
        low[0] = (x - half) * (x + half) * <real> -0.5
        return half * half * <real> -0.5
    if activation == GELU_TANH:
        # 2 sqrt(2 / pi) (x + 0.044715 x^3)
        x = x * (<real> 1.5957691216057308 + x * x * <real> 0.07135481627260025)
    elif activation == SOFTPLUS:
        x = negative(x)
    elif activation == TANH:
        x = x + x
    x = at_least(least_x, x)
    return at_most(most_x, x) if activation == SIGMOID or activation == TANH or activation == GELU_TANH else x


cdef inline real activated(int activation, real alpha, real least_x, real most_x, real x, real e) noexcept nogil:
    cdef real unit = exp_unit(&x), inverse = 1 / exp_unit(&x)
    cdef real low = at_least(least_x, x), d = unit + e
    if activation == SIGMOID:
        return e / d
    if activation == TANH:
        return x if x == 0 else e / (unit + d)          # keeps the sign of zero
    if activation == ELU:
        return alpha * (e * inverse) if x < 0 else x
    if activation == SOFTPLUS:
        return at_least(most_x, x) + log1p_of((e + e) / (unit + d))
    if activation == GELU:
        # x times the lower tail of the normal distribution at x, or times 1 - that at -x
        low = at_least(least_x, negative(x))
        return at_least(most_x, x) + low * (e * tail_numerator(low)) / tail_denominator(low)
    if activation == MISH:
        # x n / (n + 2) with n = exp(x) (exp(x) + 2)
        e = e * (e * inverse + <real> 2)
        d = unit + (unit + e)
    return x if x > most_x else low * e / d


cdef inline void activate_with_exp(
    int activation, real alpha, real* t, Py_ssize_t n, const real* ahead,
) noexcept nogil:
    cdef real r[ACTIVATION_STEP]
    cdef real scale[ACTIVATION_STEP]
    cdef real rest[ACTIVATION_STEP]         # the last step, if it is partial
    cdef real high, low
    cdef real* p
    cdef real least_x = opaque(least_input(activation, t)), most_x = opaque(most_input(activation, t))
    cdef Py_ssize_t i = 0
    cdef int j, step = ACTIVATION_STEP if real is float else ACTIVATION_STEP // 2
    while i < n:
        p = t + i
        prefetch(ahead + i, <int> (step * sizeof(real)))
        if n - i < step:
            p = rest
            for j in range(step):
                rest[j] = t[i + j] if i + j < n else 0
        for j in range(step):
            high = exp_argument(activation, least_x, most_x, p[j], &low)
            r[j] = reduced(high, low, &scale[j])
        for j in range(step):
            r[j] = exp_of(activation == TANH or activation == ELU, r[j], scale[j])
        for j in range(step):
            p[j] = activated(activation, alpha, least_x, most_x, p[j], r[j])
        if n - i < step:
            for j in range(<int> (n - i)):
                t[i + j] = rest[j]
        i += step


cdef void activate(int activation, real alpha, real* t, Py_ssize_t n, const real* ahead) noexcept nogil:
    # alpha is the slope of a leaky ReLU, or that of an ELU. `ahead` is what the next piece reads, to fetch meanwhile.
    cdef Py_ssize_t j
    cdef real zero = opaque(<real> 0), six = opaque(<real> 6), g
    if activation == RELU6:
        for j in range(n):
            t[j] = at_most(six, at_least(zero, t[j]))
    elif activation == LEAKY_RELU:
        for j in range(n):
            t[j] = t[j] * alpha if t[j] < 0 else t[j]
    elif activation == HARDSWISH:
        for j in range(n):
            g = at_most(six, at_least(zero, t[j] + 3))
            t[j] = 0 if t[j] <= -3 else t[j] * (g * <real> (1.0 / 6))
    elif activation == HARD_SIGMOID:
        for j in range(n):
            t[j] = at_most(six, at_least(zero, t[j] + 3)) * <real> (1.0 / 6)
    elif activation == SIGMOID:
        activate_with_exp(SIGMOID, alpha, t, n, ahead)
    elif activation == SILU:
        activate_with_exp(SILU, alpha, t, n, ahead)
    elif activation == TANH:
        activate_with_exp(TANH, alpha, t, n, ahead)
    elif activation == GELU:
        activate_with_exp(GELU, alpha, t, n, ahead)
    elif activation == GELU_TANH:
        activate_with_exp(GELU_TANH, alpha, t, n, ahead)
    elif activation == MISH:
        activate_with_exp(MISH, alpha, t, n, ahead)
    elif activation == SOFTPLUS:
        activate_with_exp(SOFTPLUS, alpha, t, n, ahead)
    elif activation == ELU:
        activate_with_exp(ELU, alpha, t, n, ahead)
    elif activation == INVERSE_ELU:
        for j in range(n):
            t[j] = log_above_minus_1(t[j] / alpha) if t[j] < 0 else t[j]

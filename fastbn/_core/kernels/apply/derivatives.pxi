# Backward passes of activations: dy times the derivative, elementwise, on a piece in the first-level cache.
#
# a) Loops and arithmetic are those of activations.pxi. That of ReLU is part of the reduction and of the gradient pass,
#    except in layer norm.
# b) q = exp(-abs(x)), or of another argument that is not positive, so nothing overflows. e is the unit times q.
# c) The derivatives of silu, gelu and gelu_tanh are w at x < 0 and 1 - w at the other side, with w that at -abs(x).
# d) At a kink the derivative is that of PyTorch. NaN gives NaN, and an infinity the limit, 0 or 1.


cdef inline real least_argument(int activation, const real* kind) noexcept nogil:
    # From here on down the derivative is 0, or its limit.
    if activation == TANH:
        return least_exponent(kind) / 2
    if activation == GELU:
        return <real> -14.6 if real is float else -39
    if activation == GELU_TANH:
        return -12 if real is float else -22
    return least_exponent(kind)


cdef inline real decay_argument(int activation, real least_x, real x, real* low) noexcept nogil:
    # The argument of exp at -abs(x), in two words.
    x = at_least(least_x, negative(x))
    if activation == GELU or activation == GELU_TANH:
        return exp_argument(activation, least_exponent(&x), <real> 0, x, low)
    low[0] = 0
    return x + x if activation == TANH else x


cdef inline real derived(int activation, real alpha, real least_x, real x, real e) noexcept nogil:
    cdef real unit = exp_unit(&x), inverse = 1 / exp_unit(&x)
    cdef real q = e * inverse, d = 1 + q, a = at_least(least_x, negative(x)), w
    if activation == ELU:
        return alpha * q if x <= 0 else (1 if x > 0 else x)
    if activation == SOFTPLUS:
        return (e if x < 0 else unit) / (unit + e)
    if activation == SIGMOID:
        return e / (unit * (d * d))
    if activation == TANH:
        return 4 * e / (unit * (d * d))
    if activation == MISH:
        return mish_derived(x, a, q, e)
    if activation == SILU:
        w = e * (d + a) / (unit * (d * d))
    elif activation == GELU:
        # The lower tail of the normal distribution at a, plus a times its density
        d = tail_denominator(a)
        w = e * (tail_numerator(a) + a * (d * inverse) * <real> 0.3989422804014327) / d
    else:
        # With s = 1 / (1 + exp(-u)), s + a u' s (1 - s)
        w = e * (d + a * (<real> 1.5957691216057308 + a * a * <real> 0.21406444881780075)) / (unit * (d * d))
    return w if x < 0 else 1 - w


cdef inline real mish_derived(real x, real a, real q, real e) noexcept nogil:
    # t + x t' with t = tanh(log(1 + exp(x))) = n / d, or q n / d below zero, where d has the terms of n.
    cdef real first = <real> 2 if x < 0 else <real> 1, last = <real> 1 if x < 0 else <real> 2
    cdef real n = first + last * q
    cdef real d = first + q * (<real> 2 + last * q)
    cdef real slope = 4 * a * (1 + q)
    n = n * d + (slope if x < 0 else -slope * (q * q))
    return (e if x < 0 else exp_unit(&x)) * n / (exp_unit(&x) * (d * d))


cdef inline void derive_with_exp(
    int activation, real alpha, const real* dy, real* t, Py_ssize_t n, const real* ahead,
) noexcept nogil:
    cdef real r[ACTIVATION_STEP]
    cdef real scale[ACTIVATION_STEP]
    cdef real rest[ACTIVATION_STEP]         # the last step, if it is partial
    cdef real rest_dy[ACTIVATION_STEP]
    cdef real high, low
    cdef real* p
    cdef const real* v
    cdef real least_x = opaque(least_argument(activation, t))
    cdef Py_ssize_t i = 0
    cdef int j, step = ACTIVATION_STEP if real is float else ACTIVATION_STEP // 2
    while i < n:
        p = t + i
        v = dy + i
        prefetch(ahead + i, <int> (step * sizeof(real)))
        if n - i < step:
            p = rest
            v = rest_dy
            for j in range(step):
                rest[j] = t[i + j] if i + j < n else 0
                rest_dy[j] = dy[i + j] if i + j < n else 0
        for j in range(step):
            high = decay_argument(activation, least_x, p[j], &low)
            r[j] = reduced(high, low, &scale[j])
        for j in range(step):
            r[j] = exp_of(False, r[j], scale[j])
        for j in range(step):
            p[j] = v[j] * derived(activation, alpha, least_x, p[j], r[j])
        if n - i < step:
            for j in range(<int> (n - i)):
                t[i + j] = rest[j]
        i += step


cdef void derive(
    int activation, real alpha, const real* dy, real* t, Py_ssize_t n, const real* ahead,
) noexcept nogil:
    # t becomes dy times the derivative there. The other arguments are those of activate().
    cdef Py_ssize_t j
    if activation == RELU:
        for j in range(n):
            t[j] = 0 if t[j] <= 0 else dy[j]
    elif activation == RELU6:
        for j in range(n):
            t[j] = dy[j] * (0 if t[j] <= 0 or t[j] >= 6 else (1 if t[j] < 6 else t[j]))
    elif activation == LEAKY_RELU:
        for j in range(n):
            t[j] = dy[j] * (alpha if t[j] <= 0 else (1 if t[j] > 0 else t[j]))
    elif activation == HARDSWISH:
        for j in range(n):
            t[j] = dy[j] * (0 if t[j] <= -3 else (1 if t[j] >= 3 else (t[j] + <real> 1.5) * <real> (1.0 / 3)))
    elif activation == HARD_SIGMOID:
        for j in range(n):
            t[j] = dy[j] * (0 if t[j] <= -3 or t[j] >= 3 else (<real> (1.0 / 6) if t[j] < 3 else t[j]))
    elif activation == SIGMOID:
        derive_with_exp(SIGMOID, alpha, dy, t, n, ahead)
    elif activation == SILU:
        derive_with_exp(SILU, alpha, dy, t, n, ahead)
    elif activation == TANH:
        derive_with_exp(TANH, alpha, dy, t, n, ahead)
    elif activation == GELU:
        derive_with_exp(GELU, alpha, dy, t, n, ahead)
    elif activation == GELU_TANH:
        derive_with_exp(GELU_TANH, alpha, dy, t, n, ahead)
    elif activation == MISH:
        derive_with_exp(MISH, alpha, dy, t, n, ahead)
    elif activation == SOFTPLUS:
        derive_with_exp(SOFTPLUS, alpha, dy, t, n, ahead)
    elif activation == ELU:
        derive_with_exp(ELU, alpha, dy, t, n, ahead)

# Reductions over one channel of `planes`: `runs` pieces of `length` contiguous elements, `step` elements apart.
#
# a) Every running sum is TILE lanes wide; element i of a run goes to lane i % TILE, and the lanes stay in registers
#    from run to run. The caller hands over at most CHUNK elements (or one run), so a float lane sees few additions.
# b) Moments are taken about a pivot, the mean of the first p of the n elements. (mean - pivot)^2 n <= M2 (n - p) / p
#    holds whatever the data, so the correction e^2/n costs three bits at the very worst, and none on data without a
#    trend: one reading is enough.
# c) A tail shorter than TILE goes through the same lanes under a condition that becomes a vector mask.
# d) One run of no more than TILE elements, an image's own 7x7 plane, say, is read once into the lanes, and its own
#    mean is the pivot.
# e) A chunk whose float lanes overflowed or underflowed is summed again in double lanes.


cdef inline double sum_lanes(const lane* a) noexcept nogil:
    # A fixed tree: four lanes to one as they are, the rest in double.
    cdef lane f[16]
    cdef double t[8]
    cdef int j
    for j in range(16):
        f[j] = (a[j] + a[j + 16]) + (a[j + 32] + a[j + 48])
    for j in range(8):
        t[j] = <double> f[j] + <double> f[j + 8]
    return ((t[0] + t[4]) + (t[2] + t[6])) + ((t[1] + t[5]) + (t[3] + t[7]))


cdef double chunk_sum(
    const real* x, Py_ssize_t runs, Py_ssize_t length, Py_ssize_t step,         # IN  (runs, length)
    lane kind,
) noexcept nogil:
    cdef lane s[TILE]
    cdef const real* p
    cdef Py_ssize_t r, i
    cdef int j, rest
    for j in range(TILE):
        s[j] = 0
    for r in range(runs):
        p = x + r * step
        i = 0
        while i + TILE <= length:
            for j in range(TILE):
                s[j] += p[i + j]
            i += TILE
        rest = <int> (length - i)
        if rest > SHORT:
            for j in range(TILE):
                s[j] += p[i + j] if j < rest else 0
        elif rest:
            for j in range(SHORT):
                s[j] += p[i + j] if j < rest else 0
    return sum_lanes(s)


cdef Moments chunk_moments(
    const real* x, Py_ssize_t runs, Py_ssize_t length, Py_ssize_t step,         # IN  (runs, length)
    lane kind,
) noexcept nogil:
    cdef lane e[TILE]
    cdef lane q[TILE]
    cdef lane d, pivot
    cdef const real* p
    cdef Py_ssize_t r, i
    cdef Py_ssize_t pivot_runs = 1 if runs < PIVOT else parts(runs, PIVOT)
    cdef Py_ssize_t pivot_length = least(length, parts(runs * length, PIVOT * pivot_runs))
    cdef int j, rest
    cdef double n = <double> runs * <double> length
    cdef double e_sum, q_sum
    pivot = <lane> (<real> (chunk_sum(x, pivot_runs, pivot_length, step, kind)
                            / (<double> pivot_runs * <double> pivot_length)))
    for j in range(TILE):
        e[j] = 0
        q[j] = 0
    for r in range(runs):
        p = x + r * step
        i = 0
        while i + TILE <= length:
            for j in range(TILE):
                d = p[i + j] - pivot
                e[j] += d
                q[j] += d * d
            i += TILE
        rest = <int> (length - i)
        if rest > SHORT:
            for j in range(TILE):
                d = p[i + j] - pivot if j < rest else 0
                e[j] += d
                q[j] += d * d
        elif rest:
            for j in range(SHORT):
                d = p[i + j] - pivot if j < rest else 0
                e[j] += d
                q[j] += d * d
    e_sum = sum_lanes(e)
    q_sum = sum_lanes(q)
    if lane is float:
        if not squares_held(n, e_sum, q_sum):
            return chunk_moments(x, runs, length, step, <double> 0)
    return moments_about(<double> pivot, n, e_sum, q_sum)


cdef Moments short_moments(const real* x, int length, lane kind) noexcept nogil:
    # IN (length,), length <= TILE
    cdef lane v[TILE]
    cdef lane q[TILE]
    cdef lane pivot
    cdef double n = length
    cdef double e_sum, q_sum
    cdef int j
    for j in range(TILE):
        v[j] = x[j] if j < length else 0
    pivot = <lane> (<real> (sum_lanes(v) / n))
    for j in range(TILE):
        v[j] = v[j] - pivot if j < length else 0
        q[j] = v[j] * v[j]
    e_sum = sum_lanes(v)
    q_sum = sum_lanes(q)
    if lane is float:
        if not squares_held(n, e_sum, q_sum):
            return short_moments(x, length, <double> 0)
    return moments_about(<double> pivot, n, e_sum, q_sum)


cdef inline void add_gradient_sums(
    const real* g, Py_ssize_t g_step, const real* x, Py_ssize_t x_step,         # IN  (runs, length)
    const uint64_t* bits, Py_ssize_t bits_step,                                 # IN  (runs, parts(length, TILE))
    Py_ssize_t runs, Py_ssize_t length, real m, real scale, real shift, int gate,
    double* out,                                                                # OUT (2,), added to
    lane kind,
) noexcept nogil:
    cdef lane s1[TILE]
    cdef lane s2[TILE]
    cdef real d, v
    cdef const real* p
    cdef const real* h
    cdef uint64_t word = 0
    cdef Py_ssize_t r, i, k
    cdef int j, rest
    for j in range(TILE):
        s1[j] = 0
        s2[j] = 0
    for r in range(runs):
        p = x + r * x_step
        h = g + r * g_step
        i = 0
        k = r * bits_step
        while i + TILE <= length:
            if gate == BITS:
                word = bits[k]
            for j in range(TILE):
                d = p[i + j] - m
                v = h[i + j]
                if gate == REPLAY:
                    v = opened(v, d, scale, shift)
                elif gate == BITS:
                    v = v if (word >> j) & 1 else 0
                s1[j] += v
                s2[j] += <lane> v * <lane> d
            i += TILE
            k += 1
        rest = <int> (length - i)
        if gate == BITS and rest:
            word = bits[k]
        if rest > SHORT:
            for j in range(TILE):
                d = p[i + j] - m if j < rest else 0
                v = h[i + j] if j < rest else 0
                if gate == REPLAY:
                    v = opened(v, d, scale, shift)
                elif gate == BITS:
                    v = v if (word >> j) & 1 else 0
                s1[j] += v
                s2[j] += <lane> v * <lane> d
        elif rest:
            for j in range(SHORT):
                d = p[i + j] - m if j < rest else 0
                v = h[i + j] if j < rest else 0
                if gate == REPLAY:
                    v = opened(v, d, scale, shift)
                elif gate == BITS:
                    v = v if (word >> j) & 1 else 0
                s1[j] += v
                s2[j] += <lane> v * <lane> d
    out[0] += sum_lanes(s1)
    out[1] += sum_lanes(s2)


cdef void chunk_gradient_sums(
    const real* g, Py_ssize_t g_step, const real* x, Py_ssize_t x_step, const uint64_t* bits, Py_ssize_t bits_step,
    Py_ssize_t runs, Py_ssize_t length, real m, real scale, real shift, int gate,
    double* total,                                                              # OUT (2,), added to
    lane kind,
) noexcept nogil:
    # sum of dy and sum of dy * (x - m), of one chunk
    cdef double out[2]
    out[0] = 0
    out[1] = 0
    if gate == OPEN:
        add_gradient_sums(g, g_step, x, x_step, bits, bits_step, runs, length, m, scale, shift, OPEN, out, kind)
    elif gate == REPLAY:
        add_gradient_sums(g, g_step, x, x_step, bits, bits_step, runs, length, m, scale, shift, REPLAY, out, kind)
    else:
        add_gradient_sums(g, g_step, x, x_step, bits, bits_step, runs, length, m, scale, shift, BITS, out, kind)
    if lane is float:
        if not (finite(out[0]) and finite(out[1])):
            chunk_gradient_sums(g, g_step, x, x_step, bits, bits_step, runs, length, m, scale, shift, gate, total,
                                <double> 0)
            return
    total[0] += out[0]
    total[1] += out[1]

# One call of the library as the kernels see it, and the constants of its elementwise pass.

from cpython.ref cimport PyObject

cdef enum:              # the rows of job.coef
    SUBTRACT = 0        # m: the mean, rounded to the arrays' type
    SCALE = 1           # gamma * rstd
    SHIFT = 2           # beta, less what rounding m left over
    FORWARD_COEFS = 3
    DX_X = 3            # dx = DX_SCALE * ((dy + DX_X * (x - m)) + DX_1)
    DX_1 = 4
    DX_SCALE = 5
    BACKWARD_COEFS = 6

cdef enum What:         # what a unit does
    COEFS
    PLANES_GROUP
    PLANES_SPAN
    PLANES_MERGE
    PLANES_TRANSFORM
    ROWS_SLAB
    ROWS_REDUCE
    ROWS_MERGE
    ROWS_TRANSFORM
    LOOKUP_LINES
    BYTES_OF_PLANES
    BYTES_OF_ROWS

cdef struct Phase:
    What what
    Py_ssize_t count

cdef struct Lookup     # lookup.pxi

cdef struct Job:
    # the arrays, (n, c, s); s is contiguous, and 1 in `rows`
    Py_ssize_t n
    Py_ssize_t c
    Py_ssize_t s
    Block x
    Block y                 # OUT y, or dx; p is NULL where only statistics are asked for
    Block r                 # IN  the residual; OUT its gradient
    Block g                 # IN  dy; p is NULL in a forward
    uint16_t* bits          # OUT of the forward, IN of the backward
    const Py_ssize_t* index     # (n,), in `rows`: which rows of the arrays count, rising; NULL for all
    Py_ssize_t rows             # of the arrays, where there is an index
    bint fill                   # the others become zero in y; in the gradient of a residual they always do
    # what to compute
    int type                # of the arrays' elements
    Py_ssize_t itemsize
    bint exact              # double lanes
    bint whole              # the elements are integers: sums about a pivot that is one are exact
    int activation
    double slope            # of a leaky ReLU
    int gate
    bint frozen             # the statistics are constants
    bint given              # dbeta and dgamma hold the sums of the backward already
    double values           # per channel, that sums run over
    double eps
    # per channel, (c,) in double
    double* gamma           # IN
    double* beta            # IN
    double* mean            # OUT of a training forward, IN elsewhere
    double* low             # likewise, its second word
    double* var             # OUT of a training forward (M2 of statistics alone)
    double* rstd            # as mean
    double* dgamma          # OUT
    double* dbeta           # OUT
    const double* kept_scale    # IN  scale and shift of the forward, for REPLAY
    const double* kept_shift
    # the constants of the elementwise passes: (FORWARD_COEFS or BACKWARD_COEFS, coef_step) of the type that the kernels
    # compute in
    char* coef
    Py_ssize_t coef_step
    # partial results, one a unit and channel: mean, M2 and the mean's second word, or the two sums of the backward
    double* part1
    double* part2
    double* part3
    char* rooms             # of `rows`: a Room for each thread (rows_reduce.pxi)
    # how the work is cut (planes.pxi, rows.pxi)
    Py_ssize_t spans
    Py_ssize_t span_images
    Py_ssize_t pieces
    Py_ssize_t group
    Py_ssize_t apply_planes
    Py_ssize_t repeats
    Py_ssize_t wide_rows
    Py_ssize_t unit_rows
    Py_ssize_t units
    Py_ssize_t slab
    Py_ssize_t slabs
    bint four
    bint fetch              # touch small planes before they are reduced (planes.pxi)
    bint stream             # store around the caches
    Lookup* lookup          # of a LOOKUP_LINES
    Phase[4] phases
    int count
    # how it may end early (team.pxi)
    bint watch
    bint stop
    double look_at
    PyObject* error


cdef inline char* at(Job* job, Block* b, Py_ssize_t n, Py_ssize_t c, Py_ssize_t i) noexcept nogil:
    return b.p + (n * b.step_n + c * b.step_c + i) * job.itemsize


cdef inline void set_result(Job* job, Py_ssize_t c, const Moments* moments, double* sums) noexcept nogil:
    # What a reduction leaves for a channel.
    if job.g.p != NULL:
        job.dbeta[c] = sums[0]
        job.dgamma[c] = sums[1]
    else:
        job.mean[c] = moments.mean
        job.low[c] = moments.low
        job.var[c] = whole_sum(moments.m2, moments.rest)
        if job.y.p == NULL and not finite(job.var[c]):
            scale_channel(job, c, NULL)


cdef struct Place:      # where the constants of a channel go: `rows` repeats the channels along a wide row
    Py_ssize_t step         # from one kind of constant to the next
    Py_ssize_t c
    Py_ssize_t repeats


cdef inline Place place_of(Job* job) noexcept nogil:
    cdef Place out
    out.step = job.coef_step
    out.c = job.c
    out.repeats = job.repeats
    return out


cdef inline void set_coefs(
    Place place, real* coef, Py_ssize_t c, int width, int row, const double* values,
) noexcept nogil:
    # A NaN becomes the one without a payload (halves.pxi).
    cdef Py_ssize_t k
    cdef int j
    coef += row * place.step + c
    for k in range(place.repeats):
        for j in range(width):
            coef[j] = <real> (values[j] if values[j] == values[j] else NAN)
        coef += place.c


cdef void affine_coefs(
    Place place, real* coef, Py_ssize_t c, int width,
    const double* mean, const double* low, const double* scale, const double* beta,     # IN  (width,)
) noexcept nogil:
    # The constants of y for `width` <= TILE channels from c on.
    cdef double m[TILE]
    cdef double shift[TILE]
    cdef int j
    for j in range(width):
        m[j] = <real> mean[j]
        shift[j] = beta[j] - ((mean[j] - m[j]) + low[j]) * scale[j]
    set_coefs(place, coef, c, width, SUBTRACT, m)
    set_coefs(place, coef, c, width, SCALE, scale)
    set_coefs(place, coef, c, width, SHIFT, shift)


cdef inline double left_of_rstd(double m2, double n, double var, double eps, double rstd) noexcept nogil:
    # What the roundings of var = m2 / n and rstd = 1 / sqrt(var + eps) left over, by a step of Newton's iteration: in
    # float64 a scale with four roundings of its own would leave too few of the four units of y.
    cdef double total = var + eps, part = total - var
    cdef double rest = (var - (total - part)) + (eps - part)
    cdef double product = var * n
    cdef double left
    rest += ((m2 - product) - left_of_product(var, n, product)) / n
    product = total * rstd
    left = left_of_product(total, rstd, product)
    part = product * rstd
    left = 0.5 * rstd * (((1.0 - part) - left_of_product(product, rstd, part)) - (left + rest * rstd) * rstd)
    return left if finite(left) else 0.0


cdef inline double scaled_by(double gamma, double rstd, double left) noexcept nogil:
    # gamma * (rstd + left), rounded once.
    cdef double product = gamma * rstd
    cdef double rest = left_of_product(gamma, rstd, product) + gamma * left
    return product + rest if finite(rest) else product


cdef void forward_coefs(Job* job, real* coef, Py_ssize_t c, int width) noexcept nogil:
    # From mean and M2, which var holds until here, to the constants of y.
    cdef double m2[TILE]
    cdef double var[TILE]
    cdef double scale[TILE]
    cdef double left[TILE]
    cdef double n = job.values, eps = job.eps, bad = 0
    cdef int j
    for j in range(width):
        m2[j] = job.var[c + j]
    for j in range(width):
        var[j] = m2[j] / n
        scale[j] = 1.0 / sqrt(var[j] + eps)
        left[j] = left_of_rstd(m2[j], n, var[j], eps, scale[j]) if real is double else 0.0
    for j in range(width):
        job.var[c + j] = var[j]
        bad += var[j] - var[j]      # NaN, once one is not finite
    for j in range(width):
        if bad != 0 and not finite(var[j]):
            scale_channel(job, c + j, &scale[j])
            left[j] = 0
    for j in range(width):
        job.rstd[c + j] = scale[j] + left[j]
        scale[j] = scaled_by(job.gamma[c + j], scale[j], left[j]) if real is double else scale[j] * job.gamma[c + j]
    affine_coefs(place_of(job), coef, c, width, job.mean + c, job.low + c, scale, job.beta + c)


cdef void backward_coefs(Job* job, real* coef, Py_ssize_t c, int width) noexcept nogil:
    # From sum dy and sum dy (x - m), which dbeta and dgamma hold until here, to the constants of dx. The mean of
    # (x - mean) is zero, that of (x - m) is `left`. DX_X is of the order of dy / x, and in range wherever dx is for a
    # gamma of ordinary size.
    cdef double a[TILE]
    cdef double b[TILE]
    cdef double d[TILE]
    cdef double n = job.values
    cdef double rstd, left, s_hat
    cdef int j
    for j in range(width):
        rstd = job.rstd[c + j]
        left = (job.mean[c + j] - <double> (<real> job.mean[c + j])) + job.low[c + j]
        s_hat = (job.dgamma[c + j] - left * job.dbeta[c + j]) * rstd    # sum dy * x_hat
        job.dgamma[c + j] = s_hat
        a[j] = job.gamma[c + j] * rstd
        b[j] = -(s_hat / n) * rstd
        d[j] = -(job.dbeta[c + j] / n) - b[j] * left
    set_coefs(place_of(job), coef, c, width, DX_X, b)
    set_coefs(place_of(job), coef, c, width, DX_1, d)
    set_coefs(place_of(job), coef, c, width, DX_SCALE, a)


cdef void replay_coefs(Job* job, real* coef, Py_ssize_t c, int width) noexcept nogil:
    # What the backward needs before its reduction: m, and with REPLAY the constants of y; without one, those of dx.
    cdef double m[TILE]
    cdef int j
    if job.gate == REPLAY:
        affine_coefs(place_of(job), coef, c, width, job.mean + c, job.low + c, job.kept_scale + c, job.kept_shift + c)
    else:
        for j in range(width):
            m[j] = job.mean[c + j]
        set_coefs(place_of(job), coef, c, width, SUBTRACT, m)
    if job.given:
        backward_coefs(job, coef, c, width)


cdef void finish_channels(Job* job, real* coef, Py_ssize_t c0, Py_ssize_t c1) noexcept nogil:
    # From the results of the reduction to the constants of the elementwise pass.
    cdef Py_ssize_t c = c0
    while c < c1:
        if job.g.p == NULL:
            forward_coefs(job, coef, c, <int> least(TILE, c1 - c))
        else:
            backward_coefs(job, coef, c, <int> least(TILE, c1 - c))
        c += TILE

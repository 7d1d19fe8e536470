# One call of the library as the kernels see it, and the constants of its elementwise pass.

cdef enum:              # the rows of job.coef
    SUBTRACT = 0        # m: the mean, rounded to the arrays' type
    SCALE = 1           # gamma * rstd
    SHIFT = 2           # beta, less what rounding m left over
    FORWARD_COEFS = 3
    DX_DY = 3           # dx = DX_DY * dy + DX_X * ((x - m) * RSTD) + DX_1
    DX_X = 4
    DX_1 = 5
    RSTD = 6
    BACKWARD_COEFS = 7

cdef struct Job:
    # the arrays, (n, c, s); s is contiguous, and 1 in `rows`
    Py_ssize_t n
    Py_ssize_t c
    Py_ssize_t s
    Block x
    Block y                 # OUT y, or dx; p is NULL where only statistics are asked for
    Block r                 # IN  the residual; OUT its gradient
    Block g                 # IN  dy; p is NULL in a forward
    uint64_t* bits          # OUT of the forward, IN of the backward
    # what to compute
    bint is_double          # the arrays' type
    bint exact              # double lanes
    bint relu
    int gate
    bint frozen             # the statistics are constants
    double eps
    # per channel, (c,) in double
    double* gamma           # IN
    double* beta            # IN
    double* mean            # OUT of a training forward, IN elsewhere
    double* var             # OUT of a training forward (the sum of squares M2 where only statistics are asked for)
    double* rstd            # as mean
    double* dgamma          # OUT
    double* dbeta           # OUT
    const double* kept_scale    # IN  scale and shift of the forward, for REPLAY
    const double* kept_shift
    # the constants of the elementwise passes: (FORWARD_COEFS or BACKWARD_COEFS, coef_step) of the arrays' type
    char* coef
    Py_ssize_t coef_step
    # partial results, one a unit and channel: mean and M2, or the two sums of the backward
    double* part1
    double* part2
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

cdef inline void set_coef(Job* job, real* coef, Py_ssize_t c, int row, double value) noexcept nogil:
    # `rows` repeats the channels along a wide row.
    cdef Py_ssize_t k
    for k in range(job.repeats):
        coef[row * job.coef_step + k * job.c + c] = <real> value


cdef inline void forward_coefs(Job* job, real* coef, Py_ssize_t c) noexcept nogil:
    cdef double rstd = 1.0 / sqrt(job.var[c] + job.eps) if job.var != NULL else 1.0
    cdef double scale = rstd * job.gamma[c]
    cdef double m = <real> job.mean[c]
    if job.rstd != NULL:
        job.rstd[c] = rstd
    set_coef(job, coef, c, SUBTRACT, m)
    set_coef(job, coef, c, SCALE, scale)
    set_coef(job, coef, c, SHIFT, job.beta[c] - (job.mean[c] - m) * scale)


cdef inline void replay_coefs(Job* job, real* coef, Py_ssize_t c) noexcept nogil:
    # What the backward needs before its reduction.
    cdef double m = <real> job.mean[c]
    cdef double scale
    set_coef(job, coef, c, SUBTRACT, m)
    if job.gate == REPLAY:
        scale = job.kept_scale[c]
        set_coef(job, coef, c, SCALE, scale)
        set_coef(job, coef, c, SHIFT, job.kept_shift[c] - (job.mean[c] - m) * scale)


cdef inline void backward_coefs(Job* job, real* coef, Py_ssize_t c, double s1, double s2) noexcept nogil:
    # s1 = sum dy, s2 = sum dy (x - m). The mean of (x - mean) is zero, that of (x - m) is `left`.
    cdef double n = <double> job.n * <double> job.s
    cdef double rstd = job.rstd[c]
    cdef double left = job.mean[c] - <double> (<real> job.mean[c])
    cdef double s_hat = (s2 - left * s1) * rstd         # sum dy * x_hat
    cdef double a = job.gamma[c] * rstd
    cdef double b = -a * (s_hat / n)
    job.dbeta[c] = s1
    job.dgamma[c] = s_hat
    set_coef(job, coef, c, DX_DY, a)
    set_coef(job, coef, c, DX_X, b)
    set_coef(job, coef, c, DX_1, -a * (s1 / n) - b * (left * rstd))
    set_coef(job, coef, c, RSTD, rstd)

# Layer norm and RMS norm over the last axis of rows.


cdef int check_rows(View x) except -1:
    check_input(x)
    if x.s != 1 or x.chosen is not None:
        raise ValueError("x must be rows without a choice: the normalized axis last in memory")
    return 0


cdef void begin_layer(Job* job, View x, bint about_zero) noexcept:
    begin(job, x)
    job.geometry = Geometry(samples=1, channels=x.c, groups=x.n)
    job.values = x.c
    job.reduces = True
    job.applies = True
    job.from_zero = about_zero


cdef double* load_parameters(Job* job, gamma, beta) except? NULL:
    # Sets gamma and beta of a job, if there are any; the memory belongs to the caller.
    cdef double* out
    if gamma is None and beta is None:
        return NULL
    out = scratch_of(2 * job.c)
    try:
        load_vector(gamma, out, job.c, 1.0, "gamma")
        load_vector(beta, out + job.c, job.c, 0.0, "beta")
    except BaseException:
        free(out)
        raise
    job.gamma = out
    if beta is not None:
        job.beta = out + job.c
    return out


cdef double* row_vector(object a, Py_ssize_t rows, str name) except NULL:
    # A statistic of every row, as a forward returns it.
    if not cnp.PyArray_CheckExact(a):
        raise TypeError(f"{name} must be a numpy.ndarray, got {type(a).__name__}")
    if cnp.PyArray_TYPE(<cnp.ndarray> a) != cnp.NPY_DOUBLE:
        raise TypeError(f"{name} has dtype {a.dtype}; expected float64")
    if a.shape != (rows,) or not cnp.PyArray_ISCARRAY_RO(<cnp.ndarray> a):
        raise ValueError(f"{name} must be contiguous, aligned and of shape ({rows},), one value per row; got {a.shape}")
    return vector(<cnp.ndarray> a)


cdef int execute_layer(Job* job, object num_threads) except -1:
    cdef bint large = is_large(job)
    cdef int threads = enter_team(num_threads) if large else 1
    cdef Py_ssize_t sums
    cdef char* work = NULL
    try:
        plan_layer(job, LAST_CACHE, threads)
        choose_stores(job, LAST_CACHE // 2)
        add_phase(job, LAYER_BACKWARD if job.gradient else LAYER_FORWARD, job.cut.units)
        sums = job.cut.units * UNIT_SUMS * job.coefs.step if job.gradient and job.gamma != NULL else 0
        if sums:
            add_phase(job, LAYER_MERGE, parts(job.c, TILE))
        work = <char*> malloc((sums + PARAMETERS * job.coefs.step) * sizeof(double) + LINE)
        if work == NULL:
            raise MemoryError("no memory for the workspace of a layer normalization")
        job.partials.sum_dy = <double*> (work + (-<Py_ssize_t> work & (LINE - 1)))
        job.coefs.p = <char*> (job.partials.sum_dy + sums)
        if job.gamma != NULL and job.type == FLOAT64:
            parameter_coefs(job, <const double*> NULL)
        elif job.gamma != NULL:
            parameter_coefs(job, <const float*> NULL)
        run_large(job, threads, large)
    finally:
        free(work)
        if large:
            leave_team()
    return 0


cdef int forward_layer(Job* job, View x, View y, gamma, beta, double eps, View residual, num_threads) except -1:
    cdef double* parameters
    check_beside(x, y, "y", True)
    job.y = array_of(y)
    if residual is not None:
        check_beside(x, residual, "residual")
        job.residual = array_of(residual)
    job.eps = eps
    parameters = load_parameters(job, gamma, beta)
    try:
        execute_layer(job, num_threads)
    finally:
        free(parameters)
    return 0


def layer_forward(
    View x not None, View y not None, gamma, beta, double eps, *, bint about_zero, num_threads,
    View residual=None, tuple activation=(NO_ACTIVATION, 0.0), bits=None,
):
    """Normalize every row of `x` with its own statistics into `y`.

    Parameters
    ----------
    x : View                    IN
        Rows (R, C), one statistic per row.
    y : View                    OUT
        May be `x`, or `residual`.
    gamma, beta : array_like of float32 or float64, shape (C,), or None
    eps : float
    about_zero : bool
        RMS norm: ``x / sqrt(mean(x**2) + eps)`` instead of ``(x - mean) / sqrt(var + eps)``.
    num_threads : int or None
    residual : View or None     IN
    activation : tuple of int and float
        What `check_activation` returns. After a residual, only a ReLU has a backward.
    bits : ndarray of uint16, shape (bits_words(x, 1),), or None  OUT
        Where the ReLU is open; used with a residual only.

    Returns
    -------
    mean, low, rstd : ndarray of float64, shape (R,)
        The mean has two words, `mean` and `low`; both are None for RMS norm.
    """
    cdef Job job
    cdef cnp.ndarray mean = None, low = None, rstd
    check_rows(x)
    begin_layer(&job, x, about_zero)
    set_activation(&job, activation)
    if bits is not None and (residual is None or job.activation != RELU):
        raise ValueError("bits requires a residual and a ReLU")
    set_bits(&job, x, bits, True)
    rstd = np.empty(x.n)
    job.rstd = vector(rstd)
    if not about_zero:
        mean = np.empty(x.n)
        low = np.empty(x.n)
        job.mean = vector(mean)
        job.low = vector(low)
    forward_layer(&job, x, y, gamma, beta, eps, residual, num_threads)
    return mean, low, rstd


def layer_inference(
    View x not None, View y not None, gamma, beta, double eps, *, bint about_zero, num_threads,
    View residual=None, tuple activation=(NO_ACTIVATION, 0.0),
):
    """Normalize as `layer_forward` does, with the same bits, without keeping statistics."""
    cdef Job job
    check_rows(x)
    begin_layer(&job, x, about_zero)
    set_activation(&job, activation)
    forward_layer(&job, x, y, gamma, beta, eps, residual, num_threads)


def layer_backward(
    View dy not None, View x not None, View dx not None, tuple statistics not None, gamma, *, num_threads,
    View dresidual=None, beta=None, tuple activation=(NO_ACTIVATION, 0.0), bits=None,
):
    """Compute the gradients of `layer_forward`.

    Parameters
    ----------
    dy, x : View                IN
    dx : View                   OUT
        May be `dy`, or `x`.
    statistics : tuple
        What `layer_forward` returned.
    gamma : array_like of float32 or float64, shape (C,), or None
        None without parameters; ones for beta alone.
    num_threads : int or None
    dresidual : View or None    OUT
        If the forward had a residual.
    beta : array_like of float32 or float64, shape (C,), or None
        That of the forward, which an activation without bits needs.
    activation : tuple of int and float
        That of the forward; after a residual a ReLU or none.
    bits : ndarray of uint16, shape (bits_words(x, 1),), or None  IN
        What the forward left: after a residual and a ReLU.

    Returns
    -------
    dgamma, dbeta : ndarray of float64, shape (C,)
        None without gamma.
    """
    cdef Job job
    cdef cnp.ndarray dgamma = None, dbeta = None
    cdef double* vectors
    cdef View before
    check_rows(x)
    check_beside(x, dy, "dy")
    check_beside(x, dx, "dx", True)
    if len(statistics) != 3:
        raise ValueError(f"statistics must be (mean, low, rstd), got {len(statistics)} values")
    mean, low, rstd = statistics
    begin_layer(&job, x, mean is None)
    job.gradient = True
    job.rstd = row_vector(rstd, x.n, "rstd")
    if mean is not None:
        job.mean = row_vector(mean, x.n, "mean")
        job.low = row_vector(low, x.n, "mean_low")
    job.dy = array_of(dy)
    job.dx = array_of(dx)
    before = before_layer(&job, x, dx, dresidual, activation, bits)
    if gamma is not None:
        dgamma = np.empty(x.c)
        dbeta = np.empty(x.c)
        job.dgamma = vector(dgamma)
        job.sum_dy = vector(dbeta)
    elif beta is not None:
        raise ValueError("beta requires gamma")
    vectors = load_parameters(&job, gamma, beta)
    try:
        execute_layer(&job, num_threads)
    finally:
        free(vectors)
    return dgamma, dbeta


cdef View before_layer(Job* job, View x, View dx, View dresidual, tuple activation, bits):
    # Sets where the gradient before activation and residual is written, and returns the array, to be kept alive: it is
    # that of the residual, or dx, or a new one if x is read from dx.
    cdef View out = dx
    set_activation(job, activation)
    set_bits(job, x, bits)
    if (bits is not None) != (dresidual is not None and job.activation == RELU):
        raise ValueError("bits and dresidual must be given together for a ReLU after a residual, and bits only then")
    if dresidual is not None:
        if job.activation > RELU:
            raise ValueError("an activation after a residual has no backward, except for a ReLU")
        check_beside(x, dresidual, "dresidual", True)
        out = dresidual
    elif job.activation == NO_ACTIVATION:
        return None
    elif dx.p == x.p:
        out = output(x)
    job.upstream = job.dy
    job.dy = array_of(out)
    return out

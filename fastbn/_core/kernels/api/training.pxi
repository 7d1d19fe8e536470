# Training: forward, backward, and the halves of a backward whose sums come from several parts of a batch.
#
# Forward and backward take a geometry; (statistics,) is ceil(N / samples) * (C / channels) values, sample group by
# sample group. Everything else is batch norm, whose statistics are those of the channels.


def forward(
    View x not None, View y not None, View residual, gamma, beta, double eps, *, tuple activation, bits, bint fill,
    num_threads, samples=None, Py_ssize_t channels=1,
):
    """Normalize `x` with its own statistics into `y`.

    Parameters
    ----------
    x : View                    IN
    y : View                    OUT
    residual : View or None     IN
    gamma, beta : array_like of float32 or float64, shape (C,), or None
    eps : float
    activation : tuple of int and float
        What `check_activation` returns. After a residual, only a ReLU has a backward.
    bits : ndarray of uint16, shape (bits_words(x, samples),), or None  OUT
        Where the ReLU is open; used with a residual only.
    fill : bool
        Zero the rows of `y` that do not count.
    num_threads : int or None
    samples : int or None
        Consecutive samples of a statistic: N of planes, rows of rows. All by default; the last ones may be fewer.
    channels : int
        Consecutive channels of a statistic.

    Returns
    -------
    mean, low, var, rstd : ndarray of float64, shape (statistics,)
        The mean has two words, `mean` and `low`. The variance is biased.
    """
    cdef Job job
    cdef Py_ssize_t statistics
    cdef double* parameters
    cdef cnp.ndarray mean, low, var, rstd
    check_input(x)
    check_beside(x, y, "y", True)
    if residual is not None:
        check_beside(x, residual, "residual")
    begin(&job, x)
    set_geometry(&job, x, samples, channels)
    packed = join_planes(&job)
    statistics = statistics_of(&job)
    mean = np.empty(statistics)
    low = np.empty(statistics)
    var = np.empty(statistics)
    rstd = np.empty(statistics)
    job.reduces = True
    job.applies = True
    job.y = array_of(y)
    if residual is not None:
        job.residual = array_of(residual)
    set_activation(&job, activation)
    if bits is not None and (residual is None or job.activation != RELU):
        raise ValueError("bits requires a residual and a ReLU")
    set_bits(&job, x, bits, True)
    job.fill = fill
    job.eps = eps
    job.mean = job.channel_mean = vector(mean)
    job.low = job.channel_low = vector(low)
    job.var = vector(var)
    job.rstd = vector(rstd)
    parameters = scratch_of(3 * x.c)
    job.gamma = parameters
    job.beta = parameters + x.c
    job.m2 = parameters + 2 * x.c
    try:
        load_vector(gamma, job.gamma, x.c, 1.0, "gamma")
        load_vector(beta, job.beta, x.c, 0.0, "beta")
        execute(&job, num_threads)
    finally:
        free(parameters)
    return mean, low, var, rstd


cdef object join_planes(Job* job):
    # The channels of a statistic are reduced as one (schedule/planes.pxi): planes with gaps between them are packed.
    # Returns what keeps the copy alive.
    cdef cnp.ndarray packed
    cdef Array x
    cdef Py_ssize_t n, c
    if job.s == 1 or job.x.step_c == job.s or not joins(&job.geometry, job.gradient):
        return None
    packed = np.empty(job.n * job.c * job.s * job.itemsize, np.uint8)
    x = Array(<char*> cnp.PyArray_DATA(packed), job.c * job.s, job.s)
    for n in range(job.n):
        for c in range(job.c):
            memcpy(at(job, &x, n, c, 0), at(job, &job.x, n, c, 0), job.s * job.itemsize)
    job.x = x
    return packed


cdef bint are_doubles(object a, Py_ssize_t n) noexcept:
    # Whether the kernels can read a vector of `kept` where it is.
    return (cnp.PyArray_CheckExact(a) and cnp.PyArray_TYPE(<cnp.ndarray> a) == cnp.NPY_DOUBLE
            and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray> a) and cnp.PyArray_NDIM(<cnp.ndarray> a) == 1
            and cnp.PyArray_DIMS(<cnp.ndarray> a)[0] == n)


cdef double* doubles_of(object a, double* room, Py_ssize_t n, str name) except NULL:
    # The values of a vector of `kept`: those of an array of double as they are, others in `room`. A copy would move
    # from the cache of this thread to those of the others. They must not change during the call.
    if not isinstance(a, np.ndarray):
        raise TypeError(f"{name} of kept must be a numpy.ndarray, got {type(a).__name__}")
    if are_doubles(a, n):
        return vector(<cnp.ndarray> a)
    load_vector(a, room, n, 0.0, name)
    return room


cdef inline Py_ssize_t room_of(object a, Py_ssize_t n) noexcept:
    # Numbers that doubles_of() writes.
    return 0 if are_doubles(a, n) else n


cdef int begin_backward(Job* job, View dy, View x, kept, gamma, double** vectors) except -1:
    # What all backward calls share. The caller frees `vectors`, which is NULL before, after an error too.
    cdef Py_ssize_t c = job.c, statistics = statistics_of(job), scales = job.geometry.groups * job.c
    cdef double* room
    if not isinstance(kept, tuple):
        raise TypeError(f"kept must be a Kept, got {type(kept).__name__}")
    check_beside(x, dy, "dy")
    mean, low, rstd, kept_scale, kept_shift, bits, frozen, activation = <tuple> kept
    job.gradient = True
    job.dy = array_of(dy)
    job.frozen = frozen
    set_bits(job, x, bits)
    if (kept_scale is None) != (kept_shift is None):
        raise ValueError("kept must have both scale and shift, or neither")
    set_gate(job, activation, kept_scale is not None)
    if kept_scale is None:
        scales = 0
    vectors[0] = room = scratch_of(5 * c + room_of(mean, statistics) + room_of(rstd, statistics)
                                   + room_of(low, statistics) + room_of(kept_scale, scales))
    job.products = room
    job.sum_dy = room + c
    job.dgamma = room + 2 * c
    job.gamma = room + 3 * c
    load_vector(gamma, job.gamma, c, 1.0, "gamma")
    if kept_scale is not None:      # as set_gate() found, exactly if the gate reads them
        job.shift = doubles_of(kept_shift, room + 4 * c, c, "shift")
    room += 5 * c
    job.mean = doubles_of(mean, room, statistics, "mean")
    room += room_of(mean, statistics)
    job.rstd = doubles_of(rstd, room, statistics, "rstd")
    room += room_of(rstd, statistics)
    if low is None:
        job.low = room
        load_vector(None, job.low, statistics, 0.0, "mean_low")
    else:
        job.low = doubles_of(low, room, statistics, "mean_low")
    room += room_of(low, statistics)
    if kept_scale is not None:
        job.scale = doubles_of(kept_scale, room, scales, "scale")
    return 0


cdef int set_gate(Job* job, activation, bint replayed) except -1:
    # How the gradient passes the activation. The kernels have no other combinations.
    if not isinstance(activation, tuple):
        raise TypeError(f"the activation of kept must be a tuple, got {type(activation).__name__}")
    set_activation(job, activation)
    if job.bits == NULL and replayed != (job.activation != NO_ACTIVATION):
        raise ValueError("kept must have scale and shift if, and only if, it has an activation without bits")
    if job.bits != NULL and (replayed or job.activation != RELU):
        raise ValueError("kept must have bits of a ReLU only, and neither scale nor shift with them")
    job.gate = BITS if job.bits != NULL else (REPLAY if job.activation == RELU else OPEN)
    if job.activation > RELU:
        job.upstream = job.dy
    return 0


cdef View before_activation(Job* job, View x, View dx):
    # The array of the gradient before an activation other than ReLU, to be kept alive: dx, unless x is read from it.
    cdef View dy = dx
    if job.upstream.p == NULL:
        return None
    if dx is None or dx.p == x.p:
        dy = output(x)
    job.dy = array_of(dy)
    return dy


cdef int set_gradients(Job* job, View x, View dx, View dresidual, bint fill) except -1:
    # Where the gradients go. The kernels have no other combinations: bits belong to a residual, replay to none.
    if (job.gate == BITS) != (dresidual is not None and job.activation != NO_ACTIVATION):
        raise ValueError("kept has bits without a residual, or scale and shift with one")
    check_beside(x, dx, "dx", True)
    job.applies = True
    job.dx = array_of(dx)
    if dresidual is not None:
        check_beside(x, dresidual, "dresidual", True)
        job.dresidual = array_of(dresidual)
    job.fill = fill
    return 0


def backward(
    View dy not None, View x not None, View dx not None, View dresidual, kept, gamma, *, bint fill, num_threads,
    samples=None, Py_ssize_t channels=1,
):
    """Compute the gradients of `forward`, or with frozen statistics of `apply`.

    Parameters
    ----------
    dy, x : View                    IN
    dx : View                       OUT
    dresidual : View or None        OUT
        If the forward had a residual.
    kept : Kept
        What the forward left.
    gamma : array_like of float32 or float64, shape (C,), or None
    fill : bool
        Zero the rows of `dx` that do not count; those of `dresidual` always become zero.
    num_threads : int or None
    samples, channels
        As in `forward`.

    Returns
    -------
    dgamma, dbeta : ndarray of float64, shape (C,)
    """
    cdef Job job
    cdef cnp.ndarray dgamma, dbeta
    cdef double* vectors = NULL
    cdef View before
    check_input(x)
    begin(&job, x)
    set_geometry(&job, x, samples, channels)
    dgamma = np.empty(x.c)
    dbeta = np.empty(x.c)
    try:
        begin_backward(&job, dy, x, kept, gamma, &vectors)
        set_gradients(&job, x, dx, dresidual, fill)
        before = before_activation(&job, x, dx)
        job.reduces = True
        if job.frozen and not is_batch_norm(&job.geometry):
            raise ValueError("kept has frozen statistics, which cannot be combined with samples and channels")
        job.dgamma = vector(dgamma)
        job.sum_dy = vector(dbeta)      # of a channel these are the same
        execute(&job, num_threads)
    finally:
        free(vectors)
    return dgamma, dbeta


def reduce_gradient(View dy not None, View x not None, kept, *, num_threads):
    """Compute the sums of a backward, for one part of a batch.

    Parameters
    ----------
    dy, x : View                    IN
    kept : Kept
    num_threads : int or None

    Returns
    -------
    products, sum_dy : ndarray of float64, shape (C,)
        Sums of dy * (x - m), with m the mean rounded to the type that elements are computed in, and of dy.
    """
    cdef Job job
    cdef cnp.ndarray products, sum_dy
    cdef double* vectors = NULL
    cdef View before
    check_input(x)
    begin(&job, x)
    products = np.empty(x.c)
    sum_dy = np.empty(x.c)
    try:
        begin_backward(&job, dy, x, kept, None, &vectors)
        before = before_activation(&job, x, None)
        job.reduces = True
        job.products = vector(products)
        job.sum_dy = vector(sum_dy)
        execute(&job, num_threads)
    finally:
        free(vectors)
    return products, sum_dy


def apply_gradient(
    View dy not None, View x not None, View dx not None, View dresidual, kept, gamma, *, sums, double count,
    bint fill, num_threads,
):
    """Compute dx, and dresidual, from given sums.

    Parameters
    ----------
    dy, x, dx, dresidual, kept, gamma, fill, num_threads
        As in `backward`.
    sums : tuple of two ndarray of float64, shape (C,)
        Those of `reduce_gradient`, added over all parts of the batch.
    count : float
        Values per channel of the whole batch.
    """
    cdef Job job
    cdef double* vectors = NULL
    cdef View before
    products, sum_dy = sums
    check_input(x)
    begin(&job, x)
    try:
        begin_backward(&job, dy, x, kept, gamma, &vectors)
        set_gradients(&job, x, dx, dresidual, fill)
        before = before_activation(&job, x, dx)
        job.values = count
        load_vector(products, job.products, x.c, 0.0, "sums")
        load_vector(sum_dy, job.sum_dy, x.c, 0.0, "sums")
        execute(&job, num_threads)
    finally:
        free(vectors)

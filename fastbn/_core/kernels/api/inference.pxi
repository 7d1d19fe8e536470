# Inference: from arrays to array in one call, because a small call spends its time between calls.


cdef int begin_inference(Job* job, View x, View residual, View y, tuple activation) except -1:
    begin(job, x)
    job.applies = True
    job.y = array_of(y)
    if residual is not None:
        job.residual = array_of(residual)
    set_activation(job, activation, INVERSE_ELU)
    return 0


cdef void plan_inference(Job* job, Constants constants, int threads) noexcept:
    plan(job, threads, LAST_CACHE)
    choose_stores(job, LAST_CACHE)
    job.coefs = constants.wide if job.type == FLOAT64 else constants.single


cdef int execute_inference(Job* job, Constants constants, object num_threads) except -1:
    cdef int threads
    if not is_large(job):
        plan_inference(job, constants, 1)
        run(job, 1)
        return 0
    threads = enter_team(num_threads)
    try:
        plan_inference(job, constants, threads)
        run_team(job, threads)
    finally:
        leave_team()
    return 0


def apply(x, axis, Constants constants not None, residual, out, tuple activation, num_threads):
    """Transform an array by constants.

    Parameters
    ----------
    x : array_like                      IN
    axis : int
        The channel axis.
    constants : Constants
    residual : array_like or None       IN
    out : ndarray or None               OUT
    activation : tuple of int and float
        What `check_activation` returns.
    num_threads : int or None

    Returns
    -------
    ndarray
        `out`, or a new array.

    Notes
    -----
    All arguments are positional: keyword-only arguments make a small call 3 % slower.
    """
    return apply_to(view(x, axis, constants.channels), constants, residual, out, activation, num_threads)


def apply_once(
    x, axis, mean, var, gamma, beta, *, double eps, residual, out, tuple activation, num_threads,
):
    """Transform an array by statistics and parameters that are used once."""
    cdef View v = view(x, axis)
    return apply_to(v, Constants(v.c, mean, var, gamma, beta, eps), residual, out, activation, num_threads)


cdef apply_to(View v, Constants constants, residual, out, tuple activation, num_threads):
    cdef Job job
    cdef View r = None if residual is None else like(v, residual, "residual")
    cdef View y = output(v, out, r)
    if v.size:
        begin_inference(&job, v, r, y, activation)
        execute_inference(&job, constants, num_threads)
    return y.finish()


def apply_bits(View x not None, residual, Constants constants not None, *, num_threads):
    """Return the bits that `forward` would leave for an `apply` with this residual and a ReLU."""
    cdef Job job
    cdef View r = like(x, residual, "residual")
    cdef View y = output(x)
    if x.c != constants.channels:
        raise ValueError(f"x has {x.c} channels; expected {constants.channels}")
    bits = empty((bits_words(x),), np.dtype(np.uint16))
    if x.size:
        begin_inference(&job, x, r, y, (RELU, 0.0))
        set_bits(&job, x, bits, True)
        execute_inference(&job, constants, num_threads)
    return bits

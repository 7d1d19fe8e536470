# The calls that Python makes for inference: from arrays to array in one call, because a small one spends its time
# between calls.

from fastbn._core.tensors import as_array


cdef class Constants:
    """What batch norm is at inference, ready for the kernels: y = (x - mean) * gamma * rstd + beta, a channel.

    Immutable, so that any number of threads may share one. It knows what it was made of, so that a layer need not make
    it again while its parameters stay the same.
    """
    cdef readonly Py_ssize_t channels
    cdef double* source         # (5, channels): mean, var, gamma, beta, and the second word of the mean, as given
    cdef bint with_var
    cdef double eps
    cdef Place place
    cdef float* single          # (FORWARD_COEFS, place.step): of the longest wide row, of which any other is a prefix
    cdef double* wide           # the same for float64

    def __cinit__(self, Py_ssize_t channels, mean, var, gamma, beta, double eps, low=None):
        cdef double[TILE] scale
        cdef Py_ssize_t c = 0, width
        cdef double least_var = 0
        cdef const double* beta_here
        cdef const double* low_here
        cdef int j
        self.channels = channels
        self.with_var = var is not None
        self.eps = eps
        self.place.c = channels
        self.place.repeats = repeats_of(2 * TILE, channels)
        self.place.step = channels * self.place.repeats
        self.source = <double*> malloc((5 * channels + 1) * sizeof(double))
        self.single = <float*> malloc((FORWARD_COEFS * self.place.step + 1) * sizeof(float))
        self.wide = <double*> malloc((FORWARD_COEFS * self.place.step + 1) * sizeof(double))
        if self.source == NULL or self.single == NULL or self.wide == NULL:
            raise MemoryError("no memory for the parameters of a batch normalization")
        load_vector(mean, self.source, channels, 0.0, "mean")
        load_vector(var, self.source + channels, channels, 1.0, "var")
        load_vector(gamma, self.source + 2 * channels, channels, 1.0, "gamma")
        load_vector(beta, self.source + 3 * channels, channels, 0.0, "beta")
        load_vector(low, self.source + 4 * channels, channels, 0.0, "mean_low")
        for c in range(channels):
            least_var = self.source[channels + c] if self.source[channels + c] < least_var else least_var
        if least_var < 0:
            raise ValueError(f"var has negative values, down to {least_var}")
        c = 0
        while c < channels:
            width = least(TILE, channels - c)
            for j in range(width):
                scale[j] = 1.0 / sqrt(self.source[channels + c + j] + eps) if self.with_var else 1.0
                scale[j] *= self.source[2 * channels + c + j]
            beta_here = self.source + 3 * channels + c
            low_here = self.source + 4 * channels + c
            affine_coefs(self.place, self.single, c, <int> width, self.source + c, low_here, scale, beta_here)
            affine_coefs(self.place, self.wide, c, <int> width, self.source + c, low_here, scale, beta_here)
            c += TILE

    def __dealloc__(self):
        free(self.source)
        free(self.single)
        free(self.wide)

    cpdef bint made_of(self, mean, var, gamma, beta, double eps) except -1:
        """Whether these are the values that this was made of, without a second word of the mean."""
        cdef Py_ssize_t c = self.channels
        return (eps == self.eps and same_vector(mean, self.source, c, 0.0)
                and same_vector(var, self.source + c, c, 1.0) and same_vector(gamma, self.source + 2 * c, c, 1.0)
                and same_vector(beta, self.source + 3 * c, c, 0.0))


cdef void begin_inference(Job* job, View x, View r, View y, int activation, double slope) noexcept:
    begin(job, x)
    job.y = block_of(y)
    if r is not None:
        job.r = block_of(r)
    job.activation = activation
    job.slope = slope


cdef void set_constants(Job* job, Constants constants) noexcept:
    # After the plan, which does not know of them.
    job.coef = <char*> constants.wide if job.type == FLOAT64 else <char*> constants.single
    job.coef_step = constants.place.step


cdef int execute_inference(Job* job, Constants constants, object num_threads) except -1:
    cdef int threads
    if not is_large(job, False):
        plan(job, False, 1)
        set_constants(job, constants)
        run(job, 1)
        return 0
    threads = enter_team(num_threads)
    try:
        plan(job, False, threads)
        set_constants(job, constants)
        run_team(job, threads)
    finally:
        leave_team()
    return 0


def inference(x, axis, Constants constants, residual, out, int activation, double slope, num_threads):
    """Transform `x` and return y."""
    return infer(view(x, axis, constants.channels), constants, residual, out, activation, slope, num_threads)


def inference_once(
    x, axis, mean, var, gamma, beta, double eps, residual, out, int activation, double slope, num_threads,
):
    """The same with statistics that are not met again."""
    cdef View v = view(x, axis)
    return infer(v, Constants(v.c, mean, var, gamma, beta, eps), residual, out, activation, slope, num_threads)


cdef infer(View v, Constants constants, residual, out, int activation, double slope, num_threads):
    cdef Job job
    cdef View r = None if residual is None else like(v, residual, "residual")
    cdef View y = output(v, out, r)
    if v.size:
        begin_inference(&job, v, r, y, activation, slope)
        execute_inference(&job, constants, num_threads)
    return y.finish()


def inference_bits(View x, residual, Constants constants, num_threads):
    """Where the ReLU of such an inference with a residual is open, as `training` leaves it for a backward."""
    cdef Job job
    cdef View r = like(x, residual, "residual")
    cdef View y = output(x)
    bits = np.empty(bits_words(x), np.uint16)
    if x.size:
        begin_inference(&job, x, r, y, RELU, 0)
        job.bits = bits_pointer(bits)
        execute_inference(&job, constants, num_threads)
    return bits


cdef class Plan:
    """An inference for arrays of one shape and dtype, planned once: see `fastbn.ChannelAffine.bind`.

    Immutable, so that any number of threads may share one. What it holds is of this process and this ISA level, so a
    pickle has `origin` instead: the function that planned it, and its arguments.
    """
    cdef Job job
    cdef Constants constants
    cdef tuple origin
    cdef readonly tuple shape
    cdef readonly object dtype
    cdef readonly object num_threads
    cdef bint large
    cdef int dims, number
    cdef cnp.npy_intp* lengths

    def __cinit__(self, example, axis, Constants constants, int activation, double slope, num_threads, tuple origin):
        cdef View v = view(example, axis, constants.channels)
        cdef int k
        self.origin = origin
        self.shape = example.shape
        self.dtype = example.dtype
        self.num_threads = num_threads
        self.constants = constants
        self.dims = cnp.PyArray_NDIM(v.array)
        self.number = cnp.PyArray_TYPE(v.array)
        self.lengths = <cnp.npy_intp*> malloc(self.dims * sizeof(cnp.npy_intp))
        if self.lengths == NULL:
            raise MemoryError("no memory for a plan")
        for k in range(self.dims):
            self.lengths[k] = cnp.PyArray_DIMS(v.array)[k]
        begin_inference(&self.job, v, None, v, activation, slope)
        if v.size:
            self.large = is_large(&self.job, False)
            plan(&self.job, False, resolve(num_threads) if self.large else 1)
            set_constants(&self.job, constants)

    def __dealloc__(self):
        free(self.lengths)

    def __repr__(self):
        return f"Plan({self.shape}, {self.dtype})"

    def __reduce__(self):
        return self.origin

    cdef char* pointer(self, a, str name, bint written) except NULL:
        # Of memory that the caller holds, an array's or a tensor's.
        cdef cnp.ndarray b
        cdef int k
        cdef bint fits
        if not cnp.PyArray_CheckExact(a):
            a = as_array(a, name)
        fits = cnp.PyArray_CheckExact(a)
        if fits:
            b = <cnp.ndarray> a
            fits = (cnp.PyArray_NDIM(b) == self.dims and cnp.PyArray_TYPE(b) == self.number
                    and cnp.PyArray_ISCARRAY_RO(b))
            if fits:
                for k in range(self.dims):
                    fits = fits and cnp.PyArray_DIMS(b)[k] == self.lengths[k]
        if not fits:
            have = f"{a.dtype}{a.shape}" if isinstance(a, np.ndarray) else type(a).__name__
            raise ValueError(f"{name} must be a C-contiguous, aligned numpy.ndarray of {self.dtype}{self.shape}, as "
                             f"bound; got {have}")
        if written and not cnp.PyArray_ISWRITEABLE(b):
            raise ValueError(f"{name} is read-only")
        return cnp.PyArray_BYTES(b)

    def __call__(self, x, out, residual=None):
        """Write the transform of `x` into `out`, and return `out`.

        Parameters
        ----------
        x, residual : ndarray
            Of the shape and dtype that were bound, C-contiguous; or tensors of PyTorch on the CPU.
        out : ndarray
            The same; `x` or `residual` itself for in place, and else apart from them.

        Returns
        -------
        ndarray
            `out`.

        Raises
        ------
        TypeError, ValueError
            If an array is not as it was bound, or `out` is read-only or overlaps an input in part.
        """
        cdef Job job = self.job
        cdef Py_ssize_t bytes = job.n * job.c * job.s * job.itemsize
        cdef int threads
        job.x.p = self.pointer(x, "x", False)
        job.y.p = self.pointer(out, "out", True)
        if residual is not None:
            job.r.p = self.pointer(residual, "residual", False)
            if job.r.p != job.y.p and job.r.p < job.y.p + bytes and job.y.p < job.r.p + bytes:
                raise ValueError("out overlaps residual without being the same array")
        if job.x.p != job.y.p and job.x.p < job.y.p + bytes and job.y.p < job.x.p + bytes:
            raise ValueError("out overlaps x without being the same array")
        if not bytes:
            return out
        if not self.large:
            run(&job, 1)
            return out
        choose_stores(&job, LAST_CACHE)
        threads = enter_team(self.num_threads)
        try:
            run_team(&job, threads)
        finally:
            leave_team()
        return out

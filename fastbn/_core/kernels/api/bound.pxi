# Inference planned once, for arrays of one shape and dtype.

from fastbn._core.tensors import as_array


cdef class Plan:
    """An inference for arrays of one shape and dtype, planned once; see `fastbn.ChannelAffine.bind`.

    Immutable, so that threads may share it. Its memory belongs to this process and this ISA level, so a pickle contains
    `origin` instead: the function that made the plan, and its arguments.
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

    def __cinit__(
        self, example, axis, Constants constants not None, *, tuple activation, num_threads, tuple origin,
    ):
        cdef View v = view(example, axis, constants.channels)
        cdef int k
        if v.array is not example or not cnp.PyArray_ISCARRAY_RO(<cnp.ndarray> v.array):
            raise ValueError("example must be a C-contiguous, aligned numpy.ndarray, like the arrays of the calls")
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
        begin_inference(&self.job, v, None, v, activation)
        if v.size:
            self.large = is_large(&self.job)
            plan_inference(&self.job, constants, resolve(num_threads) if self.large else 1)

    def __dealloc__(self):
        free(self.lengths)

    def __repr__(self):
        return f"Plan({self.shape}, {self.dtype})"

    def __reduce__(self):
        return self.origin

    cdef char* pointer(self, a, str name, bint written) except NULL:
        # The memory of an array or a tensor, which the caller keeps alive.
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
            have = type(a).__name__
            if isinstance(a, np.ndarray):
                have = f"{a.dtype}{a.shape}"
                if a.shape == self.shape and a.dtype == self.dtype:
                    have += f", which is not {'aligned' if a.flags.c_contiguous else 'C-contiguous'}"
            raise ValueError(f"{name} must be a C-contiguous, aligned numpy.ndarray of {self.dtype}{self.shape}, as "
                             f"bound; got {have}")
        if written and not cnp.PyArray_ISWRITEABLE(b):
            raise ValueError(f"{name} is read-only")
        return cnp.PyArray_BYTES(b)

    def __call__(self, x, out=None, residual=None):     # without out, the error names it
        """Write the transform of `x` into `out`, and return `out`.

        Parameters
        ----------
        x, residual : ndarray
            C-contiguous, of the shape and dtype that were bound; or PyTorch tensors on the CPU.
        out : ndarray
            Likewise. Pass `x` or `residual` itself to work in place; `out` must not overlap them otherwise.

        Returns
        -------
        ndarray
            `out`.

        Raises
        ------
        TypeError, ValueError
            If an array does not have the bound shape and dtype, or `out` is read-only or partly overlaps an input.
        """
        cdef Job job = self.job
        cdef Py_ssize_t bytes = job.n * job.c * job.s * job.itemsize
        job.x.p = self.pointer(x, "x", False)
        job.y.p = self.pointer(out, "out", True)
        if residual is not None:
            job.residual.p = self.pointer(residual, "residual", False)
            if job.residual.p != job.y.p and job.residual.p < job.y.p + bytes and job.y.p < job.residual.p + bytes:
                raise ValueError("out overlaps residual without being the same array")
        if job.x.p != job.y.p and job.x.p < job.y.p + bytes and job.y.p < job.x.p + bytes:
            raise ValueError("out overlaps x without being the same array")
        if not bytes:
            return out
        if not self.large:
            run(&job, 1)
            return out
        choose_stores(&job, LAST_CACHE)
        run_job(&job, self.num_threads)
        return out

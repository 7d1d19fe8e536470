# The constants of inference, made once from statistics and parameters.

from cpython.pyport cimport PY_SSIZE_T_MAX

from fastbn._core.checks import channels as channels_text

cdef Py_ssize_t MOST_CHANNELS = PY_SSIZE_T_MAX // 64     # whose constants have an address


cdef class Constants:
    """Batch norm at inference, ready for the kernels: y = (x - mean) * gamma * rstd + beta per channel.

    Immutable, so that threads may share it. It keeps the values that it was made from, so that a layer reuses it while
    its parameters do not change.
    """
    cdef readonly Py_ssize_t channels
    cdef double* source         # (5, channels): mean, var, gamma, beta, and the second word of the mean, as given
    cdef bint with_var
    cdef double eps
    cdef Coefs single           # for the longest wide row, of which any other is a prefix
    cdef Coefs wide             # the same for float64

    def __cinit__(self, Py_ssize_t channels, mean, var, gamma, beta, double eps, *, low=None):
        cdef double[TILE] scale
        cdef Py_ssize_t c = 0, width, step, repeats
        cdef double least_var = 0
        cdef Affine given
        cdef int j
        if not 0 <= channels <= MOST_CHANNELS:
            raise ValueError(f"channels must be between 0 and {MOST_CHANNELS}, got {channels}")
        self.channels = channels
        self.with_var = var is not None
        self.eps = eps
        repeats = repeats_of(2 * TILE, channels)
        step = channels * repeats
        self.source = <double*> malloc((5 * channels + 1) * sizeof(double))
        self.single = Coefs(<char*> malloc((FORWARD_COEFS * step + 1) * sizeof(float)), step, channels, repeats)
        self.wide = Coefs(<char*> malloc((FORWARD_COEFS * step + 1) * sizeof(double)), step, channels, repeats)
        if self.source == NULL or self.single.p == NULL or self.wide.p == NULL:
            raise MemoryError("no memory for the parameters of a batch normalization")
        load_vector(mean, self.source, channels, 0.0, "mean")
        load_vector(var, self.source + channels, channels, 1.0, "var")
        load_vector(gamma, self.source + 2 * channels, channels, 1.0, "gamma")
        load_vector(beta, self.source + 3 * channels, channels, 0.0, "beta")
        load_vector(low, self.source + 4 * channels, channels, 0.0, "mean_low")
        for c in range(channels):
            least_var = self.source[channels + c] if self.source[channels + c] < least_var else least_var
        if least_var < 0:
            raise ValueError(f"var has negative values, down to {least_var}, in "
                             f"{channels_text([c for c in range(channels) if self.source[channels + c] < 0])}")
        c = 0
        while c < channels:
            width = least(TILE, channels - c)
            for j in range(width):
                scale[j] = 1.0 / sqrt(self.source[channels + c + j] + eps) if self.with_var else 1.0
                scale[j] *= self.source[2 * channels + c + j]
            given = Affine(self.source + c, self.source + 4 * channels + c, &scale[0], self.source + 3 * channels + c)
            affine_coefs(self.single, c, <int> width, given, <const float*> NULL)
            affine_coefs(self.wide, c, <int> width, given, <const double*> NULL)
            c += TILE

    def __dealloc__(self):
        free(self.source)
        free(self.single.p)
        free(self.wide.p)

    cpdef bint made_of(self, mean, var, gamma, beta, double eps) except -1:
        """Return whether this was made from these values, without a second word of the mean."""
        cdef Py_ssize_t c = self.channels
        return (eps == self.eps and same_vector(mean, self.source, c, 0.0)
                and same_vector(var, self.source + c, c, 1.0) and same_vector(gamma, self.source + 2 * c, c, 1.0)
                and same_vector(beta, self.source + 3 * c, c, 0.0))

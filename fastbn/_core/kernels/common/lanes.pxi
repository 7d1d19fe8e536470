# Fused types, constants and scalar functions that all kernels share.
#
# a) `real` is the type that elements are computed in: float for float32 and both halves, double for float64.
# b) `lane` is the type of a running sum.
# c) A fused function without an argument of its type takes `const real* kind` or `lane of`, which is not read.

from libc.math cimport NAN, fabs, rint, sqrt
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

ctypedef fused real:
    float
    double

ctypedef fused lane:
    float
    double

cdef enum:
    LANES = 16          # lanes of a running sum, elements of a short step over a run, bits of a word of ReLU bits
    STEP = 32           # elements of a step over columns
    # Elements by which local arrays are lengthened. If two began at the same place in a page, a store to one would hold
    # up a load from the other.
    PADDING = 80
    FEW = 48            # values per channel up to which sums are double: too few for rounding errors to average out

cdef enum:              # the source of the gradient of a fused ReLU
    OPEN = 0            # no activation
    REPLAY = 1          # compute the forward again from x
    BITS = 2            # read the bits of the forward, one per element
    MOMENTS = 3         # no gradient: reduce x - m instead of dy


cdef extern from *:
    """
    /* A table, because SSE2 cannot shift each lane by another count. */
    static const int fastbn_bit[16] = {
        1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768};
    """
    const int* BIT "fastbn_bit"     # (LANES,)


cdef inline Py_ssize_t least(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return a if a < b else b


cdef inline Py_ssize_t parts(Py_ssize_t total, Py_ssize_t part) noexcept nogil:
    return (total + part - 1) // part


cdef inline bint finite(double a) noexcept nogil:
    return a - a == 0.0


cdef inline real rectified_if(bint relu, real t) noexcept nogil:
    # NaN passes through, and -0 becomes 0.
    return 0 if relu and t <= 0 else t


cdef inline real opened(real dy, real d, real scale, real shift) noexcept nogil:
    # The gradient behind a ReLU. The expression is that of affine.pxi, so both agree in every bit.
    return 0 if d * scale + shift <= 0 else dy


cdef inline real opened_bit(real dy, int word, int j) noexcept nogil:
    # The gradient of element j behind a ReLU that left bits.
    return dy if word & BIT[j] else 0

# cython: language_level=3
"""The only file that knows axes: checks an array once and turns it into one of the two shapes that kernels walk.

``planes`` is (N, C, S): everything before the channel axis, the channels, everything after it. ``rows`` is (R, C): the
channels lie last. Which axes come "before" and "after" is a matter of memory, not of the order in which the array names
them: a Fortran-ordered (N, C) array is planes with N = 1, and the channels-last view of an image batch is rows.

It is compiled because a small call spends its time here: in Python these checks take longer than the arithmetic.
"""

import numpy as np

cimport numpy as cnp

from fastbn._core.checks import counted
from fastbn._core.tensors import SUPPORTED, as_array, as_constant, is_tensor, to_tensor

include "kernels/common/sizes.pxi"

cnp.import_array()

cdef extern from "numpy/arrayobject.h":
    enum:
        NPY_HALF
        NPY_USERDEF

cdef int bfloat16_number = -1       # NumPy's number for the dtype of ml_dtypes, once it was seen


cdef class View:
    """One array as the kernels walk it."""

    @property
    def shape(self):
        """(n, c, s) of planes; rows have s == 1."""
        return self.n, self.c, self.s

    @property
    def axis(self):
        """The channel axis, not negative."""
        return self.outer if self.order is None else self.order[self.outer]

    @property
    def arrangement(self):
        """The order in which the elements are walked."""
        return self.outer, self.order

    cpdef finish(self):
        """The array that the caller gets: a packed result is copied to where it belongs."""
        if self.target is not None:
            np.copyto(self.target, self.array)
        if self.result is None:
            return self.array
        return to_tensor(self.array) if self.result is True else self.result


cdef int type_of(cnp.ndarray a) except -2:
    # As in sizes.pxi; -1 for what is not supported.
    global bfloat16_number
    cdef int number = cnp.PyArray_TYPE(a)
    if number == cnp.NPY_FLOAT:
        return FLOAT32
    if number == cnp.NPY_DOUBLE:
        return FLOAT64
    if number == NPY_HALF:
        return FLOAT16
    if number == cnp.NPY_UBYTE:
        return UINT8
    if number >= NPY_USERDEF and bfloat16_number == -1 and a.dtype.name == "bfloat16":
        bfloat16_number = number
    return BFLOAT16 if number == bfloat16_number else -1


cpdef cnp.ndarray as_plain(object x, str name):
    """An array of whatever dtype: `x` itself, the memory of a tensor, or what NumPy makes of it; no masks."""
    if cnp.PyArray_CheckExact(x):
        return <cnp.ndarray> x
    if isinstance(x, np.ma.MaskedArray):
        hint = "" if name != "x" else (
            "; BatchNorm and ChannelStats take x.data with mask=~x.mask, the values that count")
        raise TypeError(f"{name} is a masked array, whose mask would be ignored; expected a plain array{hint}")
    try:
        return np.asarray(as_array(x, name))
    except ValueError as error:
        raise ValueError(f"{name} does not make an array: {error}") from None


cdef cnp.ndarray array_of(object x, str name, bint statistics=False):
    cdef cnp.ndarray a = as_plain(x, name)
    cdef int type = type_of(a)
    if type < 0 or (type == UINT8 and not statistics):
        raise TypeError(f"{name} has dtype {a.dtype}; expected {SUPPORTED}; see astype")
    return a


cpdef cnp.ndarray as_target(object out):
    """The array that `out` is, of whatever dtype, or the memory of a tensor; anything else is no place to write to."""
    if not cnp.PyArray_CheckExact(out) and not isinstance(out, np.ndarray) and not is_tensor(out):
        raise TypeError(f"out must be a numpy.ndarray, got {type(out).__name__}")
    return as_plain(out, "out")


cpdef int axis_of(object axis, int ndim, str name="axis") except -1:
    """An axis that is not negative."""
    cdef Py_ssize_t k
    if isinstance(axis, bool):
        raise TypeError(f"{name} must be an integer, got {axis!r}")
    try:
        k = axis
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {axis!r}") from None
    except OverflowError:
        raise ValueError(f"{name} {axis} is out of range for an array of {ndim} dimensions") from None
    if k < -ndim or k >= ndim:
        raise ValueError(f"{name} {k} is out of range for an array of {ndim} dimensions")
    return <int> (k + ndim if k < 0 else k)


cpdef int channel_axis(cnp.ndarray a, object axis, object channels, str name) except -1:
    """The channel axis of an input, not negative, with as many channels as there must be, or None for any."""
    cdef int k
    if cnp.PyArray_NDIM(a) < 2:
        raise ValueError(f"{name} has shape {(<object> a).shape}; expected two or more dimensions")
    k = axis_of(axis, cnp.PyArray_NDIM(a))
    if channels is not None and cnp.PyArray_DIMS(a)[k] != <Py_ssize_t> channels:
        raise ValueError(f"{name} has shape {(<object> a).shape}, which is "
                         f"{counted((<object> a).shape[k], 'channel')} along axis {axis}; expected {channels}")
    return k


cdef inline bint plain(cnp.ndarray a) noexcept:
    return cnp.PyArray_ISALIGNED(a) and cnp.PyArray_ISNOTSWAPPED(a)


cdef inline bint narrow(Py_ssize_t channels) noexcept:
    # Rows that do not fill vectors are read several at once (rows.pxi), whatever the array, so that the bits do not
    # depend on its strides; then there may be no gaps between them.
    return channels % TILE != 0 and 2 * channels <= SLAB


cdef bint walk(View v, cnp.ndarray a, int axis) noexcept:
    # Fill in shape and steps for the order of axes that v has; False where no single step covers the outer axes, or the
    # inner ones are not contiguous.
    cdef cnp.npy_intp* shape = cnp.PyArray_DIMS(a)
    cdef cnp.npy_intp* strides = cnp.PyArray_STRIDES(a)
    cdef Py_ssize_t itemsize = cnp.PyArray_ITEMSIZE(a)
    cdef Py_ssize_t n = 1, s = 1, step_n = 0, step_c
    cdef int ndim = cnp.PyArray_NDIM(a), i, k
    cdef bint nothing = cnp.PyArray_SIZE(a) == 0        # and strides that mean nothing
    if not (plain(a) or nothing):
        return False
    for i in range(ndim - 1, -1, -1):
        k = i if v.order is None else v.order[i]
        if k == axis or shape[k] == 1:
            continue
        if i > v.outer:
            if strides[k] != itemsize * s and not nothing:
                return False
            s *= shape[k]
        else:
            if n == 1:
                step_n = strides[k]
            elif strides[k] != step_n * n and not nothing:
                return False
            n *= shape[k]
    step_c = strides[axis] if shape[axis] > 1 else itemsize * s
    if n == 1:
        step_n = step_c * shape[axis]
    if s == 1 and n > 1 and step_n != step_c * shape[axis] and narrow(shape[axis]):
        if step_n != 0 or not v.broadcast:
            return False
    if not nothing and (step_n % itemsize or step_c % itemsize or (s == 1 and step_c != itemsize)):
        return False
    v.array = a
    v.p = cnp.PyArray_BYTES(a)
    v.type = type_of(a)
    v.itemsize = itemsize
    v.n = n
    v.c = shape[axis]
    v.s = s
    v.step_n = step_n // itemsize
    v.step_c = step_c // itemsize
    v.size = n * v.c * s
    return True


cdef void find_order(View v, cnp.ndarray a, int axis):
    # The axes by falling distance in memory; a broadcast axis (stride 0) repeats everything, so it is outermost.
    cdef int ndim = cnp.PyArray_NDIM(a)
    reach = [abs(a.strides[k]) if a.strides[k] else 1 << 62 for k in range(ndim)]
    rest = [k for k in range(ndim) if k != axis]
    if a.shape[axis] == 1:
        # Its stride means nothing: the channel stays between the axes that it was between.
        is_outer = [k < axis for k in range(ndim)]
    else:
        is_outer = [reach[k] > reach[axis] for k in range(ndim)]
    outer = sorted((k for k in rest if is_outer[k]), key=lambda k: -reach[k])
    inner = sorted((k for k in rest if not is_outer[k]), key=lambda k: -reach[k])
    v.order = (*outer, axis, *inner)
    v.outer = len(outer)


cdef bint settle(View v, cnp.ndarray a, int axis):
    # Walk an array in the order of its memory; False where the kernels cannot.
    v.outer = axis
    if cnp.PyArray_IS_C_CONTIGUOUS(a) and walk(v, a, axis):
        return True
    find_order(v, a, axis)
    return walk(v, a, axis)


def is_walkable(cnp.ndarray a, int axis):
    """Whether statistics of an array, whose channel axis is not negative, need no copy of it."""
    cdef View v = View.__new__(View)
    v.broadcast = True
    return settle(v, a, axis)


cdef cnp.ndarray arranged(View v, cnp.ndarray a, bint empty):
    # A contiguous array in the order of v: a copy of a, or an empty one of its shape and type.
    dtype = a.dtype.newbyteorder("=")
    if v.order is None:
        return np.empty((<object> a).shape, dtype) if empty else np.array(a, dtype, order="C", subok=False)
    moved = a.transpose(v.order)
    out = np.empty(moved.shape, dtype) if empty else np.array(moved, dtype, order="C", subok=False)
    return out.transpose(np.argsort(v.order))


cpdef View view(x, axis, channels=None, str name="x", arrangement=None, bint statistics=False):
    """Check an input and turn it into a View.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, two or more dimensions
    axis : int
        The channel axis.
    channels : int, optional
        How many channels there must be.
    name : str
        What errors call it.
    arrangement : tuple, optional
        That of another View, to walk the elements in the same order.
    statistics : bool
        Whether only statistics are asked for: of uint8 too, and rows that are one row in memory (stride 0) may be
        walked as they are.

    Returns
    -------
    View
        Of a packed copy where the kernels cannot walk `x`.
    """
    cdef cnp.ndarray a = array_of(x, name, statistics)
    cdef View v = View.__new__(View)
    cdef int k = channel_axis(a, axis, channels, name)
    v.name = name
    v.tensor = not cnp.PyArray_CheckExact(x) and is_tensor(x)
    v.source = a
    v.broadcast = statistics
    if arrangement is not None:
        v.outer, v.order = arrangement
        if not walk(v, a, k):
            walk(v, arranged(v, a, False), k)
        return v
    if not settle(v, a, k):
        walk(v, arranged(v, a, False), k)
    return v


cdef View beside(View x, cnp.ndarray a, cnp.ndarray source, str name, object target):
    cdef View v = View.__new__(View)
    v.name = name
    v.source = source
    v.order = x.order
    v.outer = x.outer
    v.target = target
    if walk(v, a, x.outer if x.order is None else x.order[x.outer]) and x.chosen is not None:
        set_chosen(v, x.chosen)
    return v


cdef void set_chosen(View v, cnp.ndarray index):
    v.chosen = index
    v.rows = v.n
    v.n = cnp.PyArray_SIZE(index)
    v.size = v.n * v.c


cpdef bint choose(View x, cnp.ndarray index) except -1:
    """Let only some rows count, where the kernels can walk them one by one.

    Parameters
    ----------
    x : View
    index : ndarray of intp, shape (K,)
        Positions along all axes but the channels', in C order, rising.

    Returns
    -------
    bool
        Whether it was done: the channels must be contiguous, and fill vectors.
    """
    if x.s != 1 or x.order is not None or x.outer != cnp.PyArray_NDIM(<cnp.ndarray> x.array) - 1 or narrow(x.c):
        return False
    set_chosen(x, index)
    return True


cpdef View like(View x, a, str name):
    """A View of another input of the shape, dtype and axis of `x` (a residual, a gradient)."""
    cdef View v
    cdef cnp.ndarray b = array_of(a, name)
    if not same_shape(<cnp.ndarray> x.array, b):
        raise ValueError(f"{name} has shape {(<object> b).shape}; expected the shape of x, {x.array.shape}")
    if cnp.PyArray_TYPE(b) != cnp.PyArray_TYPE(<cnp.ndarray> x.array):
        raise TypeError(f"{name} has dtype {b.dtype}; expected that of x, {x.array.dtype}")
    v = beside(x, b, b, name, None)
    return v if v.p != NULL else beside(x, arranged(x, b, False), b, name, None)


cpdef View output(View x, out=None, View other=None):
    """A View of what the caller wants filled: of `out`, or of a new array that lies in memory as `x` does.

    Parameters
    ----------
    x : View
        The array to transform.
    out : numpy.ndarray, optional
        Of the shape and dtype of `x`, writable. It may be one of the inputs; it must not overlap one in any other way.
    other : View, optional
        A second input.

    Returns
    -------
    View
        Of a packed array where the kernels cannot walk `out`; ``finish()`` copies it back.
    """
    cdef View v
    cdef cnp.ndarray a
    if out is None:
        a = arranged(x, <cnp.ndarray> x.array, True)
        v = beside(x, a, a, "out", None)
        v.result = True if x.tensor else None
        return v
    a = as_target(out)
    if not same_shape(<cnp.ndarray> x.array, a):
        raise ValueError(f"out has shape {(<object> a).shape}; expected the shape of {x.name}, {x.array.shape}")
    if cnp.PyArray_TYPE(a) != cnp.PyArray_TYPE(<cnp.ndarray> x.array):
        raise TypeError(f"out has dtype {a.dtype}; expected that of {x.name}, {x.array.dtype}")
    check_writable(a)
    refuse_overlap(a, x)
    if other is not None:
        refuse_overlap(a, other)
    v = beside(x, a, a, "out", None)
    if v.p == NULL:
        v = beside(x, arranged(x, a, True), a, "out", a)
    v.result = out
    return v


cpdef int check_writable(cnp.ndarray a) except -1:
    """Raise an error where `out` cannot take a result: read-only, or elements that share memory."""
    if not cnp.PyArray_ISWRITEABLE(a):
        raise ValueError("out is read-only")
    if not cnp.PyArray_IS_C_CONTIGUOUS(a) and overlaps_itself(a):
        raise ValueError("out has elements that share memory")
    return 0


cdef bint same_shape(cnp.ndarray a, cnp.ndarray b) noexcept:
    cdef int i
    if cnp.PyArray_NDIM(a) != cnp.PyArray_NDIM(b):
        return False
    for i in range(cnp.PyArray_NDIM(a)):
        if cnp.PyArray_DIMS(a)[i] != cnp.PyArray_DIMS(b)[i]:
            return False
    return True


cdef bint overlaps_itself(cnp.ndarray a):
    # Sorted by stride, each axis must step over all that the shorter ones reach; what does not is refused, though some
    # odd strides would do.
    reach = <Py_ssize_t> cnp.PyArray_ITEMSIZE(a)
    for stride, length in sorted((abs(s), n) for s, n in zip((<object> a).strides, (<object> a).shape) if n > 1):
        if stride < reach:
            return True
        reach = stride * (length - 1) + reach
    return False


cdef int refuse_overlap(cnp.ndarray a, View other) except -1:
    cdef cnp.ndarray b = other.source
    cdef int i
    cdef bint same = cnp.PyArray_DATA(a) == cnp.PyArray_DATA(b) and same_shape(a, b)
    if same:
        for i in range(cnp.PyArray_NDIM(a)):
            if cnp.PyArray_STRIDES(a)[i] != cnp.PyArray_STRIDES(b)[i] and cnp.PyArray_DIMS(a)[i] > 1:
                same = False
    if same:
        return 0
    if cnp.PyArray_IS_C_CONTIGUOUS(a) and cnp.PyArray_IS_C_CONTIGUOUS(b):
        if (cnp.PyArray_BYTES(a) + cnp.PyArray_NBYTES(a) <= cnp.PyArray_BYTES(b)
                or cnp.PyArray_BYTES(b) + cnp.PyArray_NBYTES(b) <= cnp.PyArray_BYTES(a)):
            return 0
    elif not np.may_share_memory(a, b):
        return 0
    try:
        shared = np.shares_memory(a, b, max_work=100000)
    except np.exceptions.TooHardError:
        shared = True
    if shared:
        raise ValueError(f"out overlaps {other.name} without being the same array; pass the same array or one apart")
    return 0


def is_image(x):
    """Whether `x` is an array of uint8 or uint16, or a tensor, or an object that exports such memory."""
    cdef int number
    if not cnp.PyArray_CheckExact(x):
        x = as_array(x, "x")
        if not isinstance(x, np.ndarray):
            return False
    number = cnp.PyArray_TYPE(<cnp.ndarray> x)
    return number == cnp.NPY_UBYTE or number == cnp.NPY_USHORT


def same_memory(a, b):
    """Whether `a`, which `output` took, is the memory of the input `b`; it may not overlap it in any other way."""
    return cnp.PyArray_DATA(array_of(a, "a")) == cnp.PyArray_DATA(array_of(b, "b"))


include "vectors.pxi"

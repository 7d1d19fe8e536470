# cython: language_level=3
"""Check an array once and turn it into one of the two shapes of the kernels.

``planes`` is (N, C, S): the axes before the channel axis, the channels, the axes after it. ``rows`` is (R, C): the
channels lie last. "Before" and "after" refer to the order in memory, not to the order of the axes: a Fortran-ordered
(N, C) array is planes with N = 1, and the channels-last view of an image batch is rows.

The module is compiled because a small call spends its time here; in Python the checks take longer than the arithmetic.
"""

import numpy as np

cimport numpy as cnp

from fastbn._core.memory cimport new_array

from fastbn._core.checks import channels as channels_text
from fastbn._core.checks import counted
from fastbn._core.overlap import overlap
from fastbn._core.tensors import SUPPORTED, as_array, as_constant, is_tensor, to_tensor

include "kernels/common/sizes.pxi"
include "arrays/arguments.pxi"
include "arrays/merge.pxi"
include "arrays/walk.pxi"
include "arrays/overlap.pxi"
include "arrays/vectors.pxi"

cnp.import_array()


cdef class View:
    """An array as the kernels walk it, with one channel axis."""

    @property
    def shape(self):
        """(n, c, s); rows have s == 1."""
        return self.n, self.c, self.s

    @property
    def axis(self):
        """The channel axis of `array`, counted from 0."""
        return self.outer if self.order is None else self.order[self.outer]

    @property
    def arrangement(self):
        """The order in which the elements are walked, for another `view`."""
        return self.outer, self.order

    cpdef finish(self):
        """Return the array for the caller; a packed result is copied to its target first."""
        array = self.array if self.merge is None else self.merge.split(self.array)
        if self.target is not None:
            np.copyto(self.target, array)
        if self.result is None:
            return array
        return to_tensor(array) if self.result is True else self.result

    @property
    def merges(self):
        """Whether several channel axes of the caller's array are one axis of `array`."""
        return self.merge is not None

    def merged(self, cnp.ndarray a not None):
        """Return another array of the caller's shape in the shape of `array`."""
        return a if self.merge is None else self.merge.merge(a)

    def split(self, cnp.ndarray a not None):
        """Return an array of the shape of `array` in the caller's shape, without a copy."""
        return a if self.merge is None else self.merge.split(a)


def is_walkable(cnp.ndarray a not None, int axis):
    """Return whether the statistics of an array can be computed without a copy; `axis` is counted from 0."""
    cdef View v = View.__new__(View)
    v.broadcast = True
    return settle(v, a, axis)


cpdef View view(x, axis, channels=None, str name="x", arrangement=None, bint statistics=False):
    """Check an input and turn it into a View.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, two or more dimensions
    axis : int or tuple of int
        The channel axis, or several.
    channels : int or tuple of int, optional
        The expected number of channels; a tuple for the number along each of several axes.
    name : str
        The name of `x` in errors.
    arrangement : tuple, optional
        The `arrangement` of another View, to walk the elements in the same order.
    statistics : bool
        Whether the view is for statistics only: these accept uint8, and repeated rows (stride 0) without a copy.

    Returns
    -------
    View
        Of a packed copy if the kernels cannot walk `x`.
    """
    cdef cnp.ndarray a = array_of(x, name, statistics)
    cdef View v = View.__new__(View)
    cdef int k
    v.name = name
    v.source = a
    v.broadcast = statistics
    if isinstance(axis, tuple):
        v.merge = merge_of(a, axis, channels, name)
        a = v.merge.merge(a)
        k = v.merge.axis
    else:
        k = channel_axis(a, axis, channels, name)
    v.tensor = not cnp.PyArray_CheckExact(x) and is_tensor(x)
    if arrangement is not None:
        v.outer, v.order = arrangement
        if not walk(v, a, k):
            walk(v, arranged(v, a, False), k)
        return v
    if not settle(v, a, k):
        walk(v, arranged(v, a, False), k)
    return v


cdef View beside(View x, cnp.ndarray a, cnp.ndarray source, str name, object target):
    # A View of `a` in the order of x; p is NULL if the kernels cannot walk it.
    cdef View v = View.__new__(View)
    v.name = name
    v.source = source
    v.order = x.order
    v.outer = x.outer
    v.merge = x.merge
    v.target = target
    if walk(v, a, x.outer if x.order is None else x.order[x.outer]) and x.chosen is not None:
        set_chosen(v, x.chosen)
    return v


cdef void set_chosen(View v, cnp.ndarray index):
    v.chosen = index
    v.rows = v.n
    v.n = cnp.PyArray_SIZE(index)
    v.size = v.n * v.c


cdef int check_index(cnp.ndarray index, Py_ssize_t rows) except -1:
    # The kernels follow these positions.
    cdef const cnp.npy_intp* k = <const cnp.npy_intp*> cnp.PyArray_DATA(index)
    cdef Py_ssize_t i, count = cnp.PyArray_SIZE(index), last = -1
    cdef bint wrong = False
    if cnp.PyArray_TYPE(index) != cnp.NPY_INTP or cnp.PyArray_NDIM(index) != 1 or not cnp.PyArray_ISCARRAY_RO(index):
        raise ValueError("index must be a contiguous vector of intp")
    for i in range(count):
        wrong |= k[i] <= last
        last = k[i]
    if wrong or last >= rows:
        raise ValueError(f"index must have increasing numbers below {rows}")
    return 0


cpdef bint choose(View x, cnp.ndarray index) except -1:
    """Restrict a View to some rows, if the kernels can walk single rows.

    Parameters
    ----------
    x : View
    index : ndarray of intp, shape (K,)
        Increasing positions along all axes but the channel axis, in C order.

    Returns
    -------
    bool
        Whether the View was restricted. The channels must be those of one axis, contiguous, and not narrow.

    Raises
    ------
    ValueError
        If the positions are not increasing numbers of rows.
    """
    refuse_none(x, "x")
    refuse_none(index, "index")
    if x.merge is not None or x.s != 1 or x.order is not None or x.outer != cnp.PyArray_NDIM(<cnp.ndarray> x.array) - 1 or narrow(x.c):
        return False
    check_index(index, x.n)
    set_chosen(x, index)
    return True


cpdef View like(View x, a, str name):
    """Return a View of another input (a residual, a gradient) of the shape, dtype and axis of `x`.

    A list or tuple is converted to the dtype of `x`.
    """
    cdef View v
    cdef cnp.ndarray b, walked
    refuse_none(x, "x")
    b = array_like(x, a, name)
    if not same_shape(x.source, b):
        raise ValueError(f"{name} has shape {(<object> b).shape}; expected the shape of x, {(<object> x.source).shape}")
    if cnp.PyArray_TYPE(b) != cnp.PyArray_TYPE(<cnp.ndarray> x.array):
        raise TypeError(f"{name} has dtype {b.dtype}; expected that of x, {x.array.dtype}")
    walked = b if x.merge is None else x.merge.merge(b)
    v = beside(x, walked, b, name, None)
    return v if v.p != NULL else beside(x, arranged(x, walked, False), b, name, None)


cpdef View output(View x, out=None, View other=None):
    """Return a View of `out`, or of a new array with the memory order of `x`.

    Parameters
    ----------
    x : View
        The array to transform.
    out : numpy.ndarray, optional
        Writable, of the shape and dtype of `x`. It may be one of the inputs, but must not overlap one otherwise.
    other : View, optional
        A second input.

    Returns
    -------
    View
        Of a packed array if the kernels cannot walk `out`; ``finish()`` copies it back.
    """
    cdef View v
    cdef cnp.ndarray a
    refuse_none(x, "x")
    if out is None:
        a = arranged(x, <cnp.ndarray> x.array, True)
        v = beside(x, a, a, "out", None)
        v.result = True if x.tensor else None
        return v
    a = as_target(out)
    if not same_shape(x.source, a):
        raise ValueError(f"out has shape {(<object> a).shape}; expected the shape of {x.name}, "
                         f"{(<object> x.source).shape}")
    if cnp.PyArray_TYPE(a) != cnp.PyArray_TYPE(<cnp.ndarray> x.array):
        raise TypeError(f"out has dtype {a.dtype}; expected that of {x.name}, {x.array.dtype}")
    check_writable(a)
    refuse_overlap(a, x)
    if other is not None:
        refuse_overlap(a, other)
    if x.merge is None:
        v = beside(x, a, a, "out", None)
    elif x.merge.fits(a):
        v = beside(x, x.merge.merge(a), a, "out", None)
    else:
        v = None
    if v is None or v.p == NULL:
        v = beside(x, arranged(x, <cnp.ndarray> x.array, True), a, "out", a)
    v.result = out
    return v

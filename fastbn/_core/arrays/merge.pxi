# Several channel axes: an array is walked with these axes merged into one, in the place of the first of them.


cdef class Merge:
    """How the arrays of one call are merged.

    Axes that follow each other need no copy, unless their strides do not fit.
    """
    cdef cnp.ndarray merge(self, cnp.ndarray a):
        moved = a if self.order is None else (<object> a).transpose(self.order)
        return moved.reshape(self.whole)

    cdef bint fits(self, cnp.ndarray a):
        # Whether merge() makes no copy: one step covers the channel axes.
        moved = a if self.order is None else (<object> a).transpose(self.order)
        shape, strides = moved.shape, moved.strides
        outer = -1
        for k in range(self.axis, self.axis + 1 + len(self.parts) - len(self.whole)):
            if shape[k] == 1:
                continue
            if outer >= 0 and strides[outer] != strides[k] * shape[k]:
                return False
            outer = k
        return True

    cdef cnp.ndarray split(self, cnp.ndarray a):
        # The array in the shape of the caller, without a copy.
        parts = (<object> a).reshape(self.parts)
        return parts if self.order is None else parts.transpose(np.argsort(self.order))


cdef Merge merge_of(cnp.ndarray a, tuple axis, object channels, str name):
    # `channels` is the number of each axis as a tuple, or of all together, or None for any.
    cdef Merge out = Merge.__new__(Merge)
    cdef tuple shape = (<object> a).shape
    cdef int ndim = cnp.PyArray_NDIM(a)
    axes = tuple([axis_of(k, ndim) for k in axis])
    if not axes or len({*axes}) < len(axes):
        raise ValueError(f"axis is {axis}; expected one or more axes, each once")
    rest = [k for k in range(ndim) if k not in axes]
    if not rest:
        raise ValueError(f"{name} has shape {shape}, with all axes in axis {axis}; expected another one")
    sizes = tuple([shape[k] for k in axes])
    count = 1
    for size in sizes:
        count *= size
    if channels is not None and channels != (sizes if isinstance(channels, tuple) else count):
        raise ValueError(f"{name} has shape {shape}, which is {sizes} channels along axes {axis}; expected {channels}")
    out.axis = min(axes)
    order = (*rest[:out.axis], *axes, *rest[out.axis:])
    out.shape = shape
    out.order = None if order == tuple(range(ndim)) else order
    out.parts = tuple([shape[k] for k in order])
    out.whole = (*out.parts[:out.axis], count, *out.parts[out.axis + len(axes):])
    return out

# Checks of array arguments and axes, before anything else happens.

cdef extern from "numpy/arrayobject.h":
    enum:
        NPY_HALF
        NPY_USERDEF

cdef int bfloat16_number = -1       # NumPy's number of the bfloat16 dtype of ml_dtypes, once an array has it


cdef inline int refuse_none(object a, str name) except -1:
    # Of the typed arguments of a cpdef function, which Cython lets be None.
    if a is None:
        raise TypeError(f"{name} must not be None")
    return 0


cdef int type_of(cnp.ndarray a) except -2:
    # The element type of sizes.pxi; -1 for other dtypes.
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
    """Return an array of any dtype: `x` itself, the memory of a tensor, or a conversion by NumPy; no masked arrays."""
    if cnp.PyArray_CheckExact(x):
        return <cnp.ndarray> x
    if isinstance(x, np.ma.MaskedArray):
        hint = "" if name != "x" else (
            "; BatchNorm and ChannelStats take x.data with mask=~x.mask, the values that count")
        raise TypeError(f"{name} is a masked array, whose mask would be ignored; expected a plain array{hint}")
    try:
        return np.asarray(as_array(x, name))
    except ValueError as error:
        raise ValueError(f"{name} cannot be converted to an array: {error}") from None


cdef cnp.ndarray array_of(object x, str name, bint statistics=False):
    cdef cnp.ndarray a = as_plain(x, name)
    cdef int type = type_of(a)
    if type < 0 or (type == UINT8 and not statistics):
        hint = f"see np.array({name}, np.float32)" if isinstance(x, (list, tuple)) else "see astype"
        if name == "x" and a.dtype.kind in "iu":
            hint += ", or ChannelAffine for uint8 and uint16 images"
        elif name == "residual" and a.dtype.kind == "U":
            hint = "pass an activation by name, as in activation='relu'"
        raise TypeError(f"{name} has dtype {a.dtype}; expected {SUPPORTED}; {hint}")
    return a


cdef cnp.ndarray array_like(View x, object a, str name):
    # As array_of; numbers without a dtype of their own get that of x.
    if isinstance(a, (list, tuple)):
        given = as_plain(a, name)
        return given.astype(x.array.dtype) if given.dtype.kind in "fiu" else array_of(given, name)
    return array_of(a, name)


cpdef cnp.ndarray as_target(object out):
    """Return `out`, or the memory of a tensor, as an array of any dtype; other objects cannot be written to."""
    if not cnp.PyArray_CheckExact(out) and not isinstance(out, np.ndarray) and not is_tensor(out):
        raise TypeError(f"out must be a numpy.ndarray, got {type(out).__name__}")
    return as_plain(out, "out")


cpdef int axis_of(object axis, int ndim, str name="axis") except -1:
    """Return an axis counted from 0."""
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
    """Return the channel axis of an input, counted from 0. `channels` is the expected number, or None for any."""
    cdef int k
    refuse_none(a, name)
    if cnp.PyArray_NDIM(a) < 2:
        raise ValueError(f"{name} has shape {(<object> a).shape}; expected two or more dimensions")
    k = axis_of(axis, cnp.PyArray_NDIM(a))
    if channels is not None and cnp.PyArray_DIMS(a)[k] != <Py_ssize_t> channels:
        raise ValueError(f"{name} has shape {(<object> a).shape}, which is "
                         f"{counted((<object> a).shape[k], 'channel')} along axis {axis}; expected {channels}")
    return k


def is_image(x):
    """Return whether `x` is an array or a tensor of uint8 or uint16, or an object that exports such memory."""
    cdef int number
    if not cnp.PyArray_CheckExact(x):
        x = as_array(x, "x")
        if not isinstance(x, np.ndarray):
            return False
    number = cnp.PyArray_TYPE(<cnp.ndarray> x)
    return number == cnp.NPY_UBYTE or number == cnp.NPY_USHORT

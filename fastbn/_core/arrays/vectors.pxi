# Channel vectors (parameters, running averages, statistics): checked, read and written without a copy.

from cython cimport floating
from libc.math cimport isfinite

cdef enum:
    COMPARED = 8    # elements that same_values() compares per step; more or fewer are slower


cdef int load_vector(object a, double* out, Py_ssize_t c, double missing, str name) except -1:
    """Read a channel vector as double; None reads as `missing` everywhere."""
    cdef cnp.ndarray v
    cdef Py_ssize_t i
    if a is None:
        for i in range(c):
            out[i] = missing
        return 0
    v = vector_of(a, c, name)
    if not plain(v):
        v = np.array(v, np.float64)
    if cnp.PyArray_IS_C_CONTIGUOUS(v) and cnp.PyArray_TYPE(v) == cnp.NPY_FLOAT:
        for i in range(c):
            out[i] = (<float*> cnp.PyArray_DATA(v))[i]
    elif cnp.PyArray_IS_C_CONTIGUOUS(v):
        for i in range(c):
            out[i] = (<double*> cnp.PyArray_DATA(v))[i]
    else:
        for i in range(c):
            out[i] = element(v, i)
    return 0


cdef inline double element(cnp.ndarray v, Py_ssize_t i) noexcept:
    # Of a plain vector of any stride.
    cdef char* p = cnp.PyArray_BYTES(v) + i * cnp.PyArray_STRIDES(v)[0]
    return (<double*> p)[0] if cnp.PyArray_TYPE(v) == cnp.NPY_DOUBLE else (<float*> p)[0]


cdef cnp.ndarray vector_of(object a, Py_ssize_t c, str name):
    cdef cnp.ndarray v
    if cnp.PyArray_CheckExact(a):
        v = <cnp.ndarray> a
    else:
        v = as_plain(as_constant(a, name), name)
        if v.dtype.kind in "iu" and not isinstance(a, np.ndarray):      # numbers of a list
            v = v.astype(np.float64)
    if cnp.PyArray_NDIM(v) != 1 or cnp.PyArray_DIMS(v)[0] != c:
        raise ValueError(f"{name} has shape {(<object> v).shape}; expected ({c},)")
    if cnp.PyArray_TYPE(v) != cnp.NPY_FLOAT and cnp.PyArray_TYPE(v) != cnp.NPY_DOUBLE:
        raise TypeError(f"{name} has dtype {v.dtype}; expected float32 or float64")
    return v


cdef bint same_vector(object a, const double* b, Py_ssize_t c, double missing) noexcept:
    """Return whether load_vector would give b; False also for arrays that are slow to compare."""
    cdef cnp.ndarray v
    cdef Py_ssize_t i
    if a is None:
        for i in range(c):
            if b[i] != missing:
                return False
        return True
    if not cnp.PyArray_CheckExact(a):
        return False
    v = <cnp.ndarray> a
    if cnp.PyArray_NDIM(v) != 1 or cnp.PyArray_DIMS(v)[0] != c or not cnp.PyArray_ISCARRAY_RO(v):
        return False
    if cnp.PyArray_TYPE(v) == cnp.NPY_FLOAT:
        return same_values(<float*> cnp.PyArray_DATA(v), b, c)
    if cnp.PyArray_TYPE(v) == cnp.NPY_DOUBLE:
        return same_values(<double*> cnp.PyArray_DATA(v), b, c)
    return False


cdef bint same_values(const floating* a, const double* b, Py_ssize_t c) noexcept nogil:
    # Counts differences in double. Without an early exit and without integers, which SSE2 cannot make from comparisons
    # of double, the loop vectorizes in a module built for any x86-64.
    cdef double[COMPARED] found
    cdef double total = 0
    cdef Py_ssize_t i = 0
    cdef int j
    for j in range(COMPARED):
        found[j] = 0
    while i + COMPARED <= c:
        for j in range(COMPARED):
            found[j] += 1.0 if b[i + j] != a[i + j] else 0.0
        i += COMPARED
    while i < c:
        found[0] += 1.0 if b[i] != a[i] else 0.0
        i += 1
    for j in range(COMPARED):
        total += found[j]
    return total == 0


def assign(targets, values):
    """Copy vectors into others, all or, after an error, none. Signals and other threads do not interrupt the copies.

    Parameters
    ----------
    targets : dict of str to ndarray, shape (C,)
        Of float32 or float64; the keys name them in errors.
    values : dict of str to ndarray, shape (C,)
        Of float32 or float64, under the same keys.

    Raises
    ------
    TypeError, ValueError
        If an array has another shape or dtype, or a finite value that its target cannot represent, or a target is
        read-only, misaligned or byte-swapped.
    """
    cdef cnp.ndarray a, b
    cdef list pairs = []
    for name, value in values.items():
        target = targets[name]
        b = vector_of(value, len(value) if isinstance(value, np.ndarray) and value.ndim == 1 else 0, name)
        a = target_of(target, len(b), name)
        if not plain(b):
            b = np.array(b, np.float64)
        if not all_fit(a, b):
            lost = [i for i in range(len(b)) if not fits(a, element(b, i))]
            raise ValueError(f"{name} has values beyond the range of {a.dtype}, in {channels_text(lost)}")
        pairs.append((a, b))
    # This loop runs no Python code and does not release the GIL.
    for target, value in pairs:
        a = target
        b = value
        copy_vector(a, b)


cdef bint all_fit(cnp.ndarray a, cnp.ndarray b) noexcept:
    cdef Py_ssize_t i
    for i in range(cnp.PyArray_DIMS(b)[0]):
        if not fits(a, element(b, i)):
            return False
    return True


cdef inline bint fits(cnp.ndarray a, double value) noexcept:
    # An infinity or a NaN has the same value in each type.
    return cnp.PyArray_TYPE(a) == cnp.NPY_DOUBLE or not isfinite(value) or isfinite(<float> value)


cdef inline void set_element(cnp.ndarray v, Py_ssize_t i, double value) noexcept:
    # Of a plain vector of any stride.
    cdef char* p = cnp.PyArray_BYTES(v) + i * cnp.PyArray_STRIDES(v)[0]
    if cnp.PyArray_TYPE(v) == cnp.NPY_DOUBLE:
        (<double*> p)[0] = value
    else:
        (<float*> p)[0] = <float> value


cdef void copy_vector(cnp.ndarray a, cnp.ndarray b) noexcept:
    cdef Py_ssize_t i
    for i in range(cnp.PyArray_DIMS(a)[0]):
        set_element(a, i, element(b, i))


def move(mean, var, new_mean, new_var, double factor, double ratio):
    """Move running averages: running = (1 - factor) * running + factor * new, in double and without Python code.

    Parameters
    ----------
    mean, var : ndarray of float32 or float64, shape (C,)
        Changed in place; a value beyond the range of the dtype becomes Inf.
    new_mean, new_var : ndarray of float64, shape (C,)
    factor : float
    ratio : float
        Factor of `new_var`.

    Raises
    ------
    TypeError, ValueError
        If an array has another shape or dtype, or a running average is read-only, misaligned or byte-swapped.
    """
    cdef cnp.ndarray m = target_of(mean, len(new_mean), "mean")
    cdef cnp.ndarray v = target_of(var, len(new_mean), "var")
    cdef cnp.ndarray a = vector_of(new_mean, len(new_mean), "new_mean")
    cdef cnp.ndarray b = vector_of(new_var, len(new_mean), "new_var")
    cdef Py_ssize_t i
    check_plain(a, "new_mean")
    check_plain(b, "new_var")
    for i in range(cnp.PyArray_DIMS(m)[0]):
        set_element(m, i, moved(element(m, i), element(a, i), factor))
        set_element(v, i, moved(element(v, i), element(b, i) * ratio, factor))


cdef inline double moved(double running, double new, double factor) noexcept:
    # An average that stays where it is must not be rounded.
    return running if running == new else running * (1.0 - factor) + factor * new


def check_averages(mean, var, Py_ssize_t channels):
    """Raise an error unless training can update these running averages."""
    cdef cnp.ndarray m = vector_of(mean, channels, "running_mean")
    cdef cnp.ndarray v = vector_of(var, channels, "running_var")
    if not (cnp.PyArray_ISWRITEABLE(m) and cnp.PyArray_ISWRITEABLE(v)):
        name = "running_var" if cnp.PyArray_ISWRITEABLE(m) else "running_mean"
        raise ValueError(f"{name} is read-only, and training updates it")


cdef cnp.ndarray target_of(object a, Py_ssize_t c, str name):
    # A channel vector to write to.
    if not isinstance(a, np.ndarray):
        raise TypeError(f"{name} must be a numpy.ndarray, got {type(a).__name__}")
    cdef cnp.ndarray v = vector_of(a, c, name)
    check_plain(v, name)
    if not cnp.PyArray_ISWRITEABLE(v):
        raise ValueError(f"{name} is read-only")
    return v


def check_plain(cnp.ndarray a not None, str name):
    """Raise an error if an array is misaligned or byte-swapped, so that `assign` would need NumPy to copy it."""
    if not plain(a):
        kind = a.dtype.newbyteorder("=")
        raise ValueError(f"{name} is {'misaligned' if cnp.PyArray_ISNOTSWAPPED(a) else 'byte-swapped'}; expected an "
                         f"aligned array in native byte order; use np.array({name}, np.{kind})")


def check_vector(a, Py_ssize_t channels, str name):
    """Raise an error unless `a` is None or one value of a supported dtype for each channel."""
    if a is not None:
        vector_of(a, channels, name)

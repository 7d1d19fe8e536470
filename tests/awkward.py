"""Arrays with unusual strides, alignment and byte order, by name."""

import numpy as np

SHAPE = (4, 6, 5, 7)


def values(dtype, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).normal(1, 2, shape).astype(dtype)


def strided(a):
    room = np.full([2 * n for n in a.shape], np.nan, a.dtype)
    view = room[tuple(slice(None, None, 2) for _ in a.shape)]
    view[...] = a
    return view


def negative(a):
    flip = tuple(slice(None, None, -1) for _ in a.shape)
    return np.ascontiguousarray(a[flip])[flip]


def negative_channels(a):
    return np.ascontiguousarray(a[:, ::-1])[:, ::-1]


def negative_batch(a):
    return np.ascontiguousarray(a[::-1])[::-1]


def misaligned(a):
    room = bytearray(a.nbytes + 1)
    view = np.frombuffer(room, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    assert not view.flags.aligned
    return view


def place(shape, dtype, offset):
    """Zeros whose memory begins `offset` bytes after a multiple of 64."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(size + 256, np.uint8)
    first = -memory.ctypes.data % 64 + offset
    return memory[first:first + size].view(dtype).reshape(shape)


def swapped(a):
    return a.astype(a.dtype.newbyteorder())


def fortran(a):
    return np.asfortranarray(a)


def crop(a):
    room = np.full((*a.shape[:-2], a.shape[-2] + 4, a.shape[-1] + 4), np.nan, a.dtype)
    view = room[..., 2:-2, 2:-2]
    view[...] = a
    return view


def channel_slice(a):
    room = np.full((a.shape[0], 2 * a.shape[1], *a.shape[2:]), np.nan, a.dtype)
    view = room[:, 1 : 1 + a.shape[1]]
    view[...] = a
    return view


def channels_last(a):
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)


def channels_first(a):
    return np.ascontiguousarray(a.swapaxes(0, 1)).swapaxes(0, 1)


def spatial_transposed(a):
    return np.ascontiguousarray(a.swapaxes(2, 3)).swapaxes(2, 3)


def odd_bytes(a):
    # Strides that are not multiples of the item size.
    record = np.zeros(a.shape, np.dtype([("v", a.dtype), ("pad", "u1")]))
    record["v"] = a
    return record["v"]


WRITABLE = (strided, negative, negative_channels, negative_batch, misaligned, swapped, fortran, crop, channel_slice,
            channels_last, channels_first, spatial_transposed, odd_bytes)


def read_only(a):
    b = a.copy()
    b.flags.writeable = False
    return b


class Subclass(np.ndarray):
    pass


def subclass(a):
    return a.view(Subclass)


INPUTS = (*WRITABLE, read_only, subclass)

by_name = {"ids": lambda f: f.__name__}

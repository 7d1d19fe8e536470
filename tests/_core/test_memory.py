"""The pool that large results get their memory from: reuse, bounds, threads, and the same bits."""

import contextvars
import ctypes
import gc
import os
import sys
import threading
import tracemalloc

import numpy as np
import pytest

import fastbn
from fastbn._core import config, memory, pool
from fastbn.functional import batch_norm_backward, batch_norm_inference, batch_norm_training
from tests.compare import same_bits
from tests.process import error

try:
    from numpy._core import _multiarray_umath as umath
    from numpy._core import multiarray
except ImportError:     # NumPy 1
    from numpy.core import _multiarray_umath as umath
    from numpy.core import multiarray

FLOAT32 = np.dtype(np.float32)
MB = 1 << 20
SPARE = 32 * MB
PERIOD = 1000
SHAPE = (8, 64, 32, 32)     # 2 MB of float32
x = np.random.default_rng(0).standard_normal(SHAPE, np.float32)
dy = x[::-1].copy()
small = np.ones((2, 3), np.float32)


def new(megabytes):
    """A new array that is not touched, so that it takes no memory."""
    return memory.empty((megabytes * MB,), np.dtype(np.uint8))


def use(megabytes, count):
    """Use memory for several arrays at the same time, and give it back."""
    arrays = [new(megabytes) for _ in range(count)]
    del arrays


def address(array):
    return array.__array_interface__["data"][0]


def idle():
    return memory.state()[2]


def in_use():
    return memory.state()[3]


def pass_periods():
    """Make calls that need no memory of the pool, until it has forgotten what was in use before."""
    for _ in range(2 * PERIOD + 1):
        memory.empty((1,), FLOAT32)


@pytest.fixture(autouse=True)
def empty_pool():
    """An empty pool of the usual size, which remembers nothing."""
    gc.collect()
    memory.set_limit(pool.limit(""))
    keep = new(1)
    del keep
    pass_periods()
    assert idle() == 0
    yield
    memory.set_limit(pool.limit(os.environ.get("FASTBN_POOL", "")))


CALLS = {
    "training": lambda: batch_norm_training(x)[0],
    "inference": lambda: batch_norm_inference(x, np.zeros(64), np.ones(64)),
    "backward": lambda: batch_norm_backward(dy, x, batch_norm_training(x, out=np.empty_like(x))[1])[0],
    "layer": lambda: fastbn.BatchNorm(64)(x),
    "transposed": lambda: batch_norm_training(x.transpose(3, 1, 2, 0))[0],
    "mask": lambda: fastbn.BatchNorm(64, axis=-1)(x.reshape(-1, 64), mask=np.arange(8 * 32 * 32) % 3 > 0),
    "images": lambda: fastbn.ChannelAffine.from_mean_std([0.5] * 3, [0.5] * 3)(np.ones((4, 256, 256, 3), np.uint8)),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_memory_is_used_again(call):
    first = call()
    place, values = address(first), first.copy()
    del first
    assert idle() >= 2 * MB
    again = call()
    assert address(again) == place
    same_bits(again, values)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_no_effect_on_bits(call):
    call().fill(np.nan)     # the next result gets this memory
    pooled = call()
    memory.set_limit(0)
    same_bits(pooled, call())


def test_a_result_is_an_array_like_any_other():
    y = batch_norm_training(x)[0]
    assert y.base is None
    assert y.flags.owndata
    assert y.flags.writeable
    assert address(y) % 64 == 0
    before = y[0].copy()
    y.resize((16, *SHAPE[1:]), refcheck=False)
    same_bits(y[0], before)
    y.resize((1, *SHAPE[1:]), refcheck=False)
    same_bits(y[0], before)
    del y
    assert in_use() == 0


def test_views_keep_the_memory():
    y = batch_norm_training(x)[0]
    place, part = address(y), y[3:]
    values = part.copy()
    del y
    assert idle() == 0
    assert address(batch_norm_training(dy)[0]) != place
    same_bits(part, values)
    del part
    assert address(batch_norm_training(dy)[0]) == place


def test_small_results_and_inputs_are_not_of_the_pool():
    y, values = batch_norm_training(small)[0], np.array(x)
    assert in_use() == 0
    del y, values
    assert idle() == 0


@pytest.mark.parametrize(("size", "fits"), [(28, False), (31, True), (32, True), (33, False)])
def test_a_buffer_fits_if_little_is_left_over(size, fits):
    new(32)
    y = new(size)
    assert idle() == (0 if fits else 32 * MB)
    del y


def test_idle_memory_is_bounded_by_what_was_in_use():
    use(40, 3)
    assert idle() == 3 * 40 * MB
    new(100)        # 220 MB would be more than 120 and SPARE
    assert idle() <= 120 * MB + SPARE
    used = [new(60) for _ in range(2)]
    assert idle() + in_use() <= 120 * MB + SPARE
    del used


def test_a_request_that_fails_does_not_raise_the_bound():
    y = new(2)
    with pytest.raises(MemoryError):
        y.resize((sys.maxsize // 2,), refcheck=False)
    assert (y.size, in_use()) == (2 * MB, 2 * MB)
    del y
    for size in range(20, 60, 4):
        use(size, 2)
    assert idle() <= 2 * 56 * MB + SPARE


def test_idle_memory_is_bounded_by_size_and_number():
    memory.set_limit(100 * MB)
    use(30, 5)
    assert idle() == 90 * MB
    memory.set_limit(1024 * MB)
    use(1, 300)
    assert memory.state()[1] == 256


def test_what_was_given_back_last_is_kept():
    memory.set_limit(80 * MB)
    arrays = [new(20), new(30), new(40)]
    while arrays:
        del arrays[0]
    assert idle() == 70 * MB


def test_idle_memory_is_released_after_calls_without_use():
    use(50, 4)
    assert idle() == 200 * MB
    for _ in range(2 * PERIOD + 1):
        new(50)
    assert idle() == 50 * MB
    pass_periods()
    assert idle() == 0


def test_small_calls_release_memory():
    batch_norm_training(np.concatenate([x] * 20))
    assert idle() == 40 * MB
    for _ in range(2 * PERIOD + 1):
        batch_norm_inference(small, np.zeros(3), np.ones(3))
    assert idle() == 0


def test_release_memory():
    y = new(3)
    use(2, 2)
    assert fastbn.release_memory() == 4 * MB
    assert fastbn.release_memory() == 0
    assert in_use() == 3 * MB
    y.fill(1)


def test_threads():
    wrong = []

    def work(seed):
        rng = np.random.default_rng(seed)
        held = {}
        for turn in range(400):
            key = int(rng.integers(4))
            if key in held:
                array, mark = held.pop(key)
                if (array[:: MB // 2] != mark).any():
                    wrong.append((seed, turn))
            array, mark = new(int(rng.integers(1, 6))), (16 * seed + turn) % 256
            array[:: MB // 2] = mark
            held[key] = array, mark

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        fastbn.release_memory()
        gc.collect()
    for thread in threads:
        thread.join()
    assert not wrong
    assert in_use() == 0


def test_an_allocator_of_the_program_is_kept():
    # The allocator of NumPy in another capsule, set by functions of NumPy's C interface.
    api = ctypes.pythonapi
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    api.PyCapsule_New.restype = ctypes.py_object
    api.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    table = ctypes.cast(api.PyCapsule_GetPointer(umath._ARRAY_API, None), ctypes.POINTER(ctypes.c_void_p))
    set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(table[304])
    name = b"mem_handler"
    before = ctypes.PYFUNCTYPE(ctypes.py_object)(table[305])()
    set_handler(api.PyCapsule_New(api.PyCapsule_GetPointer(before, name), name, None))
    try:
        y = batch_norm_training(x)[0]
    finally:
        set_handler(before)
    assert in_use() == 0
    assert multiarray.get_handler_name(y) == "default_allocator"
    y = batch_norm_training(x)[0]
    assert multiarray.get_handler_name(y) == "fastbn"


def test_finalizers_get_the_allocator_of_the_program():
    # The garbage collector runs at every possible place of a call in a new context.
    names = []

    class Garbage:
        def __init__(self):
            self.cycle = self

        def __del__(self):
            names.append(multiarray.get_handler_name(np.empty(1)))

    before = gc.get_threshold()
    gc.disable()
    try:
        for count in range(1, 40):
            context = contextvars.Context()
            gc.collect()
            Garbage()
            gc.set_threshold(gc.get_count()[0] + count, *before[1:])
            gc.enable()
            y = context.run(memory.empty, (MB,), FLOAT32)
            gc.disable()
            assert multiarray.get_handler_name(y) == "fastbn"
        gc.collect()
    finally:
        gc.set_threshold(*before)
        gc.enable()
    assert names == ["default_allocator"] * 39


def test_tracemalloc_counts_results_as_before():
    tracemalloc.start()
    try:
        y = batch_norm_training(x)[0]
        assert 2 * MB <= tracemalloc.get_traced_memory()[0] < 3 * MB
        del y
        assert tracemalloc.get_traced_memory()[0] < MB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("text", ["-1", "off", "1.5", "1e3", "99999999999999999999"])
def test_wrong_sizes_are_refused(text):
    assert error("import fastbn", FASTBN_POOL=text) == (
        f"ImportError: FASTBN_POOL={text!r}; expected an integer between 0 and {pool.MOST}, in MiB")


def test_config():
    y, z = new(2), new(3)
    del z
    assert config.config()["pool"] == {"limit_bytes": 1024 * MB, "idle_bytes": 3 * MB, "used_bytes": 2 * MB}
    assert "pool         1024 MiB at most (3 MiB idle, 2 MiB in use)" in config.describe(config.config()).splitlines()
    del y
    memory.set_limit(0)
    assert "pool         off" in config.describe(config.config()).splitlines()

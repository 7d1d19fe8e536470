"""The memory pool in processes of its own: forks, limits, the peak of a training loop, and FASTBN_POOL."""

import os
import sys

import pytest

from tests.process import output

MB = 1 << 20
IMPORTS = """
import os
import numpy as np
import fastbn
from fastbn._core import memory
MB = 1 << 20
new = lambda megabytes: memory.empty((megabytes * MB,), np.dtype(np.uint8))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_begins_with_an_empty_pool():
    assert output(IMPORTS + """
y, z = new(4), new(4)
y.fill(7)
del z
assert memory.state()[2] == 4 * MB
pid = os.fork()
if pid == 0:
    good = memory.state()[1:] == (0, 0, 4 * MB) and (y == 7).all()
    del y                       # was the parent's, so it is not kept
    good = good and memory.state()[1:] == (0, 0, 0)
    z = new(4)
    z.fill(9)
    del z
    os._exit(0 if good and memory.state()[2] == 4 * MB else 1)
assert os.waitpid(pid, 0)[1] == 0
assert memory.state()[1:] == (1, 4 * MB, 4 * MB) and (y == 7).all()
print("done")
""") == "done"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forks_while_threads_use_the_pool():
    assert output(IMPORTS + """
import threading
stop = threading.Event()

def work():
    while not stop.is_set():
        new(2)[:: MB] = 1

threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(50):
    pid = os.fork()
    if pid == 0:
        for _ in range(10):
            new(2)[:: MB] = 2
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
stop.set()
for thread in threads:
    thread.join()
print("done")
""") == "done"


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and a limit on memory that the system enforces")
def test_idle_memory_is_released_for_a_request_that_does_not_fit():
    assert output(IMPORTS + """
import resource
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 400 * MB,) * 2)
del [new(100) for _ in range(3)][:]
y = new(250)
assert memory.state()[1:] == (0, 0, 250 * MB)
try:
    new(500)
except MemoryError:
    assert memory.state()[1:] == (0, 0, 250 * MB)
    print("done")
""") == "done"


LOOP = IMPORTS + """
import resource
layers = [fastbn.BatchNorm(64) for _ in range(6)]
x = np.random.default_rng(0).standard_normal((16, 64, 64, 64), np.float32)
for _ in range(3):
    h = x
    for layer in layers:
        h = layer(h * np.float32(0.9), activation="relu")
    dh = h - 1
    for layer in reversed(layers):
        dh = layer.backward(dh) * np.float32(0.9)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_a_training_loop_needs_hardly_more_memory():
    pytest.importorskip("resource")
    assert int(output(LOOP)) <= 1.1 * int(output(LOOP, FASTBN_POOL="0"))


def test_pool_can_be_off():
    program = IMPORTS + "y = fastbn.functional.batch_norm_training(np.ones((2, 1 << 19), np.float32))[0]\n" \
        "print(memory.state()); del y; print(memory.state())"
    assert output(program, FASTBN_POOL="0").splitlines() == ["(0, 0, 0, 0)"] * 2
    assert output(program, FASTBN_POOL=" 4 ").splitlines() == [
        f"({4 * MB}, 0, 0, {4 * MB})", f"({4 * MB}, 1, {4 * MB}, 0)"]
    assert output(program, FASTBN_POOL="3").splitlines() == [f"({3 * MB}, 0, 0, 0)"] * 2

"""Many threads share a transform, a layer or a plan: right results, consistent state, no excess of threads."""

import os
import sys
import threading

import numpy as np
import pytest

from fastbn import BatchNorm
from tests.process import output

CALLERS = 32
CALLS = 1_000_000


def layer(seed, channels=64):
    rng = np.random.default_rng(seed)
    bn = BatchNorm(channels).eval()
    bn.load_state_dict({
        "weight": rng.standard_normal(channels), "bias": rng.standard_normal(channels),
        "running_mean": rng.standard_normal(channels), "running_var": rng.uniform(0.5, 2, channels)})
    return bn


def together(count, work):
    """Run work(k) in `count` threads, and raise the first exception of any of them."""
    failures = []
    begin = threading.Barrier(count)

    def body(k):
        try:
            begin.wait()
            work(k)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=body, args=(k,), daemon=True) for k in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@pytest.fixture
def quick_switches():
    """Python switches between threads ten times as often as by default."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 10)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("quick_switches")
@pytest.mark.parametrize("what", ["affine", "layer", "plan"])
def test_a_million_calls_of_32_threads(what):
    # Most calls have the shape of a request to a service; a few are large enough to release the GIL.
    bn = layer(0)
    small = np.random.default_rng(1).standard_normal((1, 64)).astype(np.float32)
    large = np.random.default_rng(2).standard_normal((4096, 64)).astype(np.float32)
    affine = bn.frozen()
    wants = [affine(x) for x in (small, large)]
    each = CALLS // 3 // CALLERS

    def work(k):
        call = {"affine": affine, "layer": bn, "plan": None}[what]
        out = np.empty_like(small)
        plan = plans[0]
        for n in range(each):
            if call is None:
                plan(small, out)
            else:
                call(small, out=out)
            if out.tobytes() != want:
                raise AssertionError(f"thread {k}, call {n}")
            if n % 2000 == 0:
                y = plans[1](large, np.empty_like(large)) if call is None else call(large)
                np.testing.assert_array_equal(y, wants[1])

    want = wants[0].tobytes()
    plans = [affine.bind(x.shape) for x in (small, large)]
    together(CALLERS, work)


@pytest.mark.usefixtures("quick_switches")
@pytest.mark.parametrize(("channels", "step"), [(64, 1), (4096, 1), (4096, 2)])
def test_readers_never_see_a_mixed_state(channels, step):
    # Each state maps ones to another result, and so would a mixture of two states. NumPy releases the GIL while it
    # copies 4096 floats.
    rng = np.random.default_rng(0)
    states, answers = [], set()
    x = np.ones((1, channels), np.float32)
    bn = BatchNorm(channels).eval()
    for name in ("gamma", "beta", "running_mean", "running_var"):
        setattr(bn, name, np.ones(step * channels, np.float32)[::step])
    for _ in range(5):
        states.append({name: rng.uniform(0.5, 2, channels).astype(np.float32)
                       for name in ("weight", "bias", "running_mean", "running_var")})
        bn.load_state_dict(states[-1])
        answers.add(bn(x).tobytes())
    done = threading.Event()
    seen = [set() for _ in range(9)]

    def work(k):
        if k == 0:
            for n in range(3000):
                bn.load_state_dict(states[n % 5])
            done.set()
        while not done.is_set():
            y = bn(x).tobytes()
            seen[k].add(y)
            assert y in answers
            kept = bn.state_dict()
            assert any(all(np.array_equal(kept[name], state[name]) for name in state) for state in states)

    together(9, work)
    assert set.union(*seen) <= answers
    assert len(set.union(*seen)) > 1


def test_parameters_changed_in_place_are_seen():
    bn = layer(0)
    x = np.ones((2, 64), np.float32)
    for name in ("gamma", "beta", "running_mean", "running_var"):
        before = bn(x)
        getattr(bn, name)[3] += 1
        after = bn(x)
        assert (before != after).any(axis=0).nonzero()[0].tolist() == [3]
        np.testing.assert_array_equal(after, layer_like(bn)(x))
    bn.eps = 0.5
    np.testing.assert_array_equal(bn(x), layer_like(bn)(x))
    bn.gamma = np.full(64, 2.0)
    np.testing.assert_array_equal(bn(x), layer_like(bn)(x))


def layer_like(bn):
    other = BatchNorm(bn.num_features, eps=bn.eps).eval()
    other.load_state_dict(bn.state_dict())
    return other


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted in /proc")
def test_callers_share_the_threads():
    # OpenMP keeps its threads, so they can be counted afterwards. Of three callers that ask for four threads, the first
    # gets four, the second two and the third one. The first waits in a signal handler; the second sums 630 GB, which
    # are one block in memory, until the process ends.
    program = """
import os, signal, threading, time
import numpy as np
import fastbn
from fastbn._core.config import config

openmp = config()["openmp"]["version"]
block = np.ones((1, 64, 8192), np.float32)
x = np.ones((1_000_000, 2), np.float32)
affine = fastbn.ChannelAffine([0.0] * 2, [1.0] * 2, [0.0] * 2, num_threads=4)
second_may_begin = threading.Event()

def started():
    return len(os.listdir("/proc/self/task")) - before

def wait_until_started(count):
    while started() < count * bool(openmp):
        time.sleep(0.001)

def second():
    second_may_begin.wait()
    fastbn.ChannelStats(64).update(np.broadcast_to(block, (300_000, 64, 8192)), num_threads=4)

def third():
    second_may_begin.wait()
    wait_until_started(4)
    affine(x)
    print(started(), openmp, flush=True)
    os._exit(0)

def handler(*_):
    if started() < 3 * bool(openmp):
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        return
    second_may_begin.set()
    threading.Event().wait()

for target in (second, third):
    threading.Thread(target=target).start()
before = len(os.listdir("/proc/self/task"))
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.01)
fastbn.ChannelStats(64).update(np.broadcast_to(block, (300_000, 64, 8192)), num_threads=4)
"""
    started, openmp = map(int, output(program).split())
    assert started == (4 if openmp else 0)


def test_nested_in_a_parallel_region_there_is_one_thread():
    # A signal handler runs inside the parallel region of a call; a call from it must not hang or start a team.
    program = """
import signal
import numpy as np
import fastbn
x = np.random.default_rng(0).standard_normal((3000, 128)).astype(np.float32)
affine = fastbn.ChannelAffine(np.zeros(128), np.ones(128), np.ones(128), num_threads=2)
want = affine(x)
answers = []

def handler(*_):
    answers.append(np.array_equal(affine(x), want))
    signal.setitimer(signal.ITIMER_REAL, 0.02)      # not an interval, which may be shorter than a call

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.02)
big = np.ones((400_000, 64), np.float32)
bn, out = fastbn.BatchNorm(64, num_threads=2), np.ones((400_000, 64), np.float32)
while len(answers) < 5:
    bn(big, out=out)
signal.setitimer(signal.ITIMER_REAL, 0)
print(answers[:5])
"""
    assert output(program) == str([True] * 5)

"""Forks after parallel work: parent and child compute and do not hang; without the fork handler a child does."""

import subprocess
import sys

import pytest

from fastbn._core import config, dispatch
from tests.process import PATIENCE, output, start

GUARDED = config.config()["openmp"]["fork_guard"]

# LLVM's OpenMP runtime, that of clang, handles forks itself.
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not dispatch.kernels.openmp_version(), reason="needs Linux, and a build with OpenMP")
needs_guard = pytest.mark.skipif(GUARDED != "on", reason=f"the fork guard is {GUARDED!r}")

# The beginning of every program: a call on two threads, its right result, and a child that checks it.
DEFINITIONS = """
import ctypes, os, sys, threading, time
import numpy as np
import fastbn

x = np.random.default_rng(0).standard_normal((1100, 128)).astype(np.float32)
affine = fastbn.ChannelAffine(np.ones(128), np.full(128, 0.5), np.zeros(128), num_threads=2)
want = fastbn.ChannelAffine(np.ones(128), np.full(128, 0.5), np.zeros(128), num_threads=1)(x)

def tasks():
    return len(os.listdir("/proc/self/task"))

def right():
    return np.array_equal(affine(x), want)

def wait_for(pid):
    status = os.waitpid(pid, 0)[1]
    assert status == 0, f"a child ended with {status}"

def right_with_one_more_task():
    before = tasks()        # an emulator has other threads
    return right() and tasks() == before + 1

def fork_and_check(fork):
    pid = fork()
    if pid == 0:
        os._exit(0 if right_with_one_more_task() else 1)
    assert right()
    wait_for(pid)
"""
SETUP = DEFINITIONS + "assert right_with_one_more_task()\n"


def test_many_forks():
    assert output(SETUP + """
for _ in range(100):
    fork_and_check(os.fork)
print("done")
""") == "done"


def test_forks_in_c():
    # As uWSGI forks: without the hooks of Python.
    assert output(SETUP + """
for _ in range(50):
    fork_and_check(ctypes.PyDLL(None).fork)
print("done")
""") == "done"


def test_forks_of_a_thread_and_while_others_compute():
    assert output(SETUP + """
stop = threading.Event()
wrong = []

def compute():
    while not stop.is_set():
        if not right():
            wrong.append(1)

def forks():
    for _ in range(25):
        fork_and_check(os.fork)

threads = [threading.Thread(target=compute, daemon=True) for _ in range(2)]
for thread in threads:
    thread.start()
forks()
other = threading.Thread(target=forks)
other.start()
other.join()
stop.set()
for thread in threads:
    thread.join()
assert not wrong
print("done")
""", PYTHONWARNINGS="ignore::DeprecationWarning") == "done"


def test_children_of_children():
    assert output(SETUP + """
def descend(depth):
    if depth == 0:
        return
    pid = os.fork()
    if pid == 0:
        ok = right()
        descend(depth - 1)
        os._exit(0 if ok and right() else 1)
    wait_for(pid)

descend(5)
assert right()
print("done")
""") == "done"


def test_multiprocessing_fork_pool():
    assert output(SETUP + """
import multiprocessing

def work(k):
    return right()

with multiprocessing.get_context("fork").Pool(3) as pool:
    assert pool.map(work, range(30)) == [True] * 30
assert right()
print("done")
""") == "done"


def test_training_and_backward_in_a_child():
    assert output(SETUP + """
def train():
    bn = fastbn.BatchNorm(128, num_threads=2)
    return bn(x), bn.backward(x), bn.running_var

before = train()
pid = os.fork()
if pid == 0:
    os._exit(0 if all(map(np.array_equal, before, train())) else 1)
wait_for(pid)
print("done")
""") == "done"


@needs_guard
@pytest.mark.parametrize(("setting", "state"), [
    ("0", "off: FASTBN_FORK_GUARD=0"), (" 0 ", "off: FASTBN_FORK_GUARD=0"), ("1", "on"), ("", "on")])
def test_setting(setting, state):
    code = "import fastbn; print(fastbn._core.config.config()['openmp']['fork_guard'])"
    assert output(code, FASTBN_FORK_GUARD=setting) == state


@needs_guard
def test_without_the_guard_a_child_hangs():
    # The control of the tests above.
    program = SETUP + """
import itertools

pid = os.fork()
if pid == 0:
    os._exit(0 if right() else 1)
for _ in itertools.count():
    time.sleep(0.05)
    if os.waitpid(pid, os.WNOHANG)[0]:
        print("the child ended")
        sys.exit()
os.kill(pid, 9)
os.waitpid(pid, 0)
print("the child hung")
"""
    assert output(program.replace("itertools.count()", "range(40)"), FASTBN_FORK_GUARD="0") == "the child hung"
    assert output(program) == "the child ended"


def test_a_child_may_take_a_state_that_another_thread_was_loading():
    assert output(SETUP + """
layers = [fastbn.BatchNorm(4096) for _ in range(2)]
state = layers[0].state_dict()
stop = threading.Event()

def load():
    while not stop.is_set():
        layers[0].load_state_dict(state)

thread = threading.Thread(target=load, daemon=True)
thread.start()
for _ in range(50):
    pid = os.fork()
    if pid == 0:
        layers[1].load_state_dict(layers[0].state_dict())
        os._exit(0)
    wait_for(pid)
stop.set()
thread.join()
print("done")
""") == "done"


def test_fork_inside_a_call():
    # A signal handler runs in the parallel region of a long call, where the pool of threads cannot be shut down. The
    # child may compute on one thread, and must end in the handler, as its copy of the region has no other threads.
    program = SETUP + """
import signal

big = np.ones((400_000, 64), np.float32)
children = []

def handler(*_):
    pid = os.fork()
    if pid == 0:
        os._exit(0 if right() else 1)
    children.append(pid)
    signal.setitimer(signal.ITIMER_REAL, 0.02)      # not an interval, which may be shorter than a fork

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.02)
bn = fastbn.BatchNorm(64, num_threads=2)
out = np.empty_like(big)
while len(children) < 3:
    bn(big, out=out)
signal.setitimer(signal.ITIMER_REAL, 0)
for pid in children:
    wait_for(pid)
assert right()
print("done")
"""
    with start(program) as process:
        try:
            text, _ = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert text.strip() == "done"

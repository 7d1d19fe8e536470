"""Forks with other OpenMP runtimes in the process: that of PyTorch, and that of Intel instead of GNU."""

import importlib.metadata
import sys

import pytest

from tests._core.test_fork import DEFINITIONS, SETUP
from tests.process import output

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason=f"forks are guarded on Linux, not on {sys.platform}")


def test_with_torch_in_the_process():
    pytest.importorskip("torch")
    # Child processes compute with fastbn while the parent has a thread pool of PyTorch.
    assert output("import torch\n" + SETUP + """
torch.set_num_threads(2)
t = torch.ones(2_000_000)
for _ in range(50):
    assert t.sum().item() == 2_000_000
    assert right()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if right() else 1)
    wait_for(pid)
    assert right()
print("done")
""") == "done"


def intel_library():
    try:
        files = importlib.metadata.files("intel-openmp") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [f.locate().resolve() for f in files if f.name == "libiomp5.so"]
    return found[0] if found else None


def test_with_the_runtime_of_intel():
    library = intel_library()
    if library is None:
        pytest.skip("intel-openmp is not installed, or has no libiomp5.so for this system")
    # It exports the symbols of libgomp and handles forks itself; pausing it would hang the fork.
    assert output(SETUP + """
assert fastbn._core.config.config()["openmp"]["fork_guard"] == "not needed: the runtime is not GNU libgomp"
assert "libiomp5" in fastbn._core.config.openmp_runtime()
for fork in (os.fork, ctypes.PyDLL(None).fork):
    for _ in range(20):
        pid = fork()
        if pid == 0:
            os._exit(0 if right() else 1)
        assert right()
        wait_for(pid)
print("done")
""", LD_PRELOAD=str(library)) == "done"


# Whether a child process ends, fails or hangs.
CHILD = """
import itertools

looks = itertools.count()

def child(work):
    pid = os.fork()
    if pid == 0:
        os._exit(0 if work() else 1)
    for _ in looks:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return "ended" if status == 0 else "failed"
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return "hung"
"""


@pytest.fixture
def without_handlers():
    """Return the settings of a process with the runtime of Intel and without its fork handlers."""
    library = intel_library()
    if library is None:
        pytest.skip("intel-openmp is not installed, or has no libiomp5.so for this system")
    return {"LD_PRELOAD": str(library), "KMP_INIT_AT_FORK": "FALSE"}


@pytest.mark.parametrize("setting", ["FALSE", "false", ".F.", "no", "0", "off"])
def test_a_child_has_one_thread_without_the_fork_handlers_of_intel(setting, without_handlers):
    assert output(SETUP + CHILD + """
def alone():
    before = tasks()
    return right() and tasks() == before and fastbn.get_num_threads() == 1

assert fastbn.get_num_threads() == 3
assert child(alone) == "ended"
assert child(lambda: alone() and child(alone) == "ended") == "ended"
assert right() and tasks() >= 2 and fastbn.get_num_threads() == 3
print("done")
""", **without_handlers | {"KMP_INIT_AT_FORK": setting, "FASTBN_NUM_THREADS": "3"}) == "done"


@pytest.mark.parametrize("setting", ["TRUE", ".T.", "yes", "1", "on", ""])
def test_a_child_has_all_threads_with_the_fork_handlers_of_intel(setting, without_handlers):
    assert output(SETUP + CHILD + """
assert child(lambda: right_with_one_more_task() and fastbn.get_num_threads() == 3) == "ended"
print("done")
""", **without_handlers | {"KMP_INIT_AT_FORK": setting, "FASTBN_NUM_THREADS": "3"}) == "done"


def test_a_child_has_all_threads_if_the_parent_had_no_pool(without_handlers):
    assert output(DEFINITIONS + CHILD + """
assert tasks() == 1
assert child(right_with_one_more_task) == "ended"
print("done")
""", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", **without_handlers) == "done"


def test_without_the_handlers_of_fastbn_such_a_child_hangs(without_handlers):
    # A control experiment for the tests above.
    program = SETUP + CHILD + "looks = range(200)\nprint(child(right))"     # a slow child counts as hung too
    assert output(program, FASTBN_FORK_GUARD="0", **without_handlers) == "hung"

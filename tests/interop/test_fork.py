"""Forks with other runtimes in the process: PyTorch's own OpenMP, and Intel's in place of GNU's."""

import importlib.metadata
import sys

import pytest

from tests.process import output
from tests.test_fork import SETUP

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason=f"forks are guarded on Linux, not on {sys.platform}")


def test_with_torch_in_the_process():
    pytest.importorskip("torch")
    # fastbn's children compute, with PyTorch's pool alive in the parent. (A child that uses PyTorch's pool is
    # PyTorch's matter.)
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
    # It answers to libgomp's names, and sees to forks itself; pausing it would hang the fork.
    assert output(SETUP + """
assert fastbn._config.config()["openmp"]["fork_guard"] == "not needed: the runtime is not GNU libgomp"
assert "libiomp5" in fastbn._config.openmp_runtime()
for fork in (os.fork, ctypes.PyDLL(None).fork):
    for _ in range(20):
        pid = fork()
        if pid == 0:
            os._exit(0 if right() else 1)
        assert right()
        wait_for(pid)
print("done")
""", LD_PRELOAD=str(library)) == "done"

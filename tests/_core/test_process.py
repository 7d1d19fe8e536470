"""Importing and calling fastbn does not change the process: arithmetic, environment, threads, modules."""

import os
import platform
import sys

import pytest

from tests.process import output

# Checks the arithmetic of the process before and after the import, after calls, and in a new thread.
SUBNORMALS = """
import sys, threading
import numpy as np

def arithmetic():
    small, tiny = np.float64(2.0**-1040), np.float32(2.0**-140)
    return (small / 2 * 2 == small, small * np.float64(1) != 0, tiny * np.float32(1) == tiny, tiny / np.float32(2) > 0,
            (np.full(1000, tiny) + tiny > tiny).all(), 5e-324 > 0, (np.full(9, small) * 0.5 > 0).all())

seen = [arithmetic()]
import fastbn
seen.append(arithmetic())
for n in (1, 3):
    y = fastbn.BatchNorm(64, num_threads=n)(np.random.default_rng(0).normal(size=(4000, 64)).astype(np.float32))
    seen.append(arithmetic())
thread = threading.Thread(target=lambda: seen.append(arithmetic()))
thread.start()
thread.join()
assert len(seen) == 5
print(all(map(all, seen)))
"""

CONTROL = """
import ctypes
import numpy as np

libm = ctypes.CDLL("libm.so.6")

def control():
    # fenv_t of glibc on x86-64: MXCSR is the last word; its lowest six bits are flags that any addition may set.
    fenv = (ctypes.c_uint32 * 8)()
    assert libm.fegetenv(ctypes.byref(fenv)) == 0
    return fenv[7] & ~0x3f, fenv[0] & 0xffff, libm.fegetround()

before = control()
import fastbn
assert control() == before, "import"
x = np.full((4000, 64), 1e-40, np.float32)
x[::2] = np.float32(3e38)
for n in (1, 3):
    fastbn.functional.batch_norm_training(x, num_threads=n)
    assert control() == before, "call"
assert before[0] & 0x8040 == 0, "subnormals were off already"
print("same")
"""

ENVIRONMENT = """
import os, sys, signal, locale, warnings, threading
import numpy as np
def state():
    tasks = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0
    return (dict(os.environ), np.geterr(), np.get_printoptions(), os.getcwd(), tasks, threading.active_count(),
            locale.setlocale(locale.LC_ALL), [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
            list(warnings.filters), list(sys.path))
before = state()
import fastbn
after = state()
print(before == after)
"""

MODULES = """
import sys
import numpy
before = set(sys.modules)
import fastbn
new = {name.partition(".")[0] for name in set(sys.modules) - before}
# Cython keeps its types in modules without a file.
new = {name for name in new if getattr(sys.modules[name], "__file__", None)}
print(*sorted(new - set(sys.stdlib_module_names) - {"fastbn", "numpy"}))
"""

OPENMP = """
import ctypes
import numpy as np
import fastbn
from fastbn._core.config import openmp_runtime
runtime = openmp_runtime()
if runtime is None or ", " in runtime:
    print("none")
    raise SystemExit
omp = ctypes.CDLL(runtime)
def settings():
    return omp.omp_get_max_threads(), omp.omp_get_dynamic(), omp.omp_get_max_active_levels()
before = settings()
fastbn.set_num_threads(5)
x = np.ones((4000, 64), np.float32)
for n in (None, 1, 3):
    fastbn.functional.batch_norm_training(x, num_threads=n)
with fastbn.num_threads(2):
    fastbn.functional.batch_norm_training(x)
print(before == settings(), before[0])
"""

SILENT = "import fastbn"


def test_subnormals_still_work():
    assert output(SUBNORMALS) == "True"


KNOWN = (sys.platform, platform.machine(), platform.libc_ver()[0]) == ("linux", "x86_64", "glibc")


@pytest.mark.skipif(not KNOWN, reason="the layout of fenv_t is known for glibc on x86-64 alone")
def test_floating_point_control_words():
    assert output(CONTROL) == "same"


def test_environment_settings_and_threads():
    assert output(ENVIRONMENT) == "True"


def test_import_loads_nothing_but_numpy():
    assert output(MODULES) == ""


def test_import_prints_nothing():
    assert output(SILENT) == ""


def test_the_openmp_runtime_keeps_its_settings():
    answer = output(OPENMP, OMP_NUM_THREADS="4")
    if answer == "none":
        pytest.skip("there is not exactly one OpenMP runtime in the process to be asked")
    assert answer == "True 4"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_can_compute():
    # A child has no OpenMP threads of its parent.
    code = "\n".join([
        "import os, sys, warnings, numpy as np, fastbn",
        "warnings.simplefilter('ignore')",
        "x = np.random.default_rng(0).normal(size=(4000, 64)).astype(np.float32)",
        "bn = fastbn.BatchNorm(64, num_threads=2)",
        "here = bn(x)",
        "pid = os.fork()",
        "if pid == 0:",
        "    os._exit(0 if (bn(x) == here).all() else 1)",
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))",
    ])
    assert output(code) == "0"

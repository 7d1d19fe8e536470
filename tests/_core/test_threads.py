"""The number of threads of a call: precedence, environment, cgroups, scope."""

import asyncio
import os
import threading

import numpy as np
import pytest

import fastbn
from fastbn._core import threads as _threads
from fastbn._core.dispatch import kernels
from fastbn._core.threads import MOST_THREADS, cgroup_quota
from tests.process import PATIENCE, error, output

pytestmark = pytest.mark.usefixtures("default_threads")

REPORT = "from fastbn._core import threads; now = threads.current(); print(now.count, now.source)"
DEFAULT = output(REPORT)

BAD = [(0, ValueError), (-1, ValueError), (10**9, ValueError), (MOST_THREADS + 1, ValueError), (True, TypeError),
       (2.0, TypeError), ("2", TypeError), (None, TypeError), (np.float64(2), TypeError)]
bad = pytest.mark.parametrize(("n", "kind"), BAD, ids=lambda v: v.__name__ if isinstance(v, type) else repr(v))


def test_set_num_threads():
    for n in (3, 1, np.int64(2), MOST_THREADS):
        fastbn.set_num_threads(n)
        assert fastbn.get_num_threads() == n
        assert type(fastbn.get_num_threads()) is int
    assert _threads.current().source == "fastbn.set_num_threads"


@bad
def test_bad_counts(n, kind):
    before = fastbn.get_num_threads()
    with pytest.raises(kind, match="n must be"):
        fastbn.set_num_threads(n)
    with pytest.raises(kind, match="n must be"), fastbn.num_threads(n):
        pass
    if n is not None:
        with pytest.raises(kind, match="num_threads must be"):
            fastbn.BatchNorm(3, num_threads=n)
    assert fastbn.get_num_threads() == before


def test_context_manager_nests_and_ends():
    fastbn.set_num_threads(7)
    with fastbn.num_threads(2):
        assert fastbn.get_num_threads() == 2
        with fastbn.num_threads(5):
            assert fastbn.get_num_threads() == 5
            fastbn.set_num_threads(9)
            assert fastbn.get_num_threads() == 5
        assert fastbn.get_num_threads() == 2
        with pytest.raises(KeyError), fastbn.num_threads(4):
            raise KeyError
        assert fastbn.get_num_threads() == 2
    assert fastbn.get_num_threads() == 9


def test_context_manager_stays_in_its_thread():
    fastbn.set_num_threads(7)
    inside, leave, seen = threading.Event(), threading.Event(), {}

    def other():
        with fastbn.num_threads(2):
            inside.set()
            leave.wait(PATIENCE)
            seen["other"] = fastbn.get_num_threads()

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(PATIENCE)
    seen["here"] = fastbn.get_num_threads()
    leave.set()
    thread.join(PATIENCE)
    assert seen == {"here": 7, "other": 2}


def test_context_manager_stays_in_its_task():
    fastbn.set_num_threads(7)

    async def task(n):
        with fastbn.num_threads(n):
            await asyncio.sleep(0.01)
            return fastbn.get_num_threads()

    async def main():
        return await asyncio.gather(*(task(n) for n in (1, 2, 3))), fastbn.get_num_threads()

    assert asyncio.run(main()) == ([1, 2, 3], 7)


@pytest.mark.parametrize(("env", "expected"), [
    ({"FASTBN_NUM_THREADS": "3"}, "3 FASTBN_NUM_THREADS"),
    ({"FASTBN_NUM_THREADS": " 3 "}, "3 FASTBN_NUM_THREADS"),
    ({"OMP_NUM_THREADS": "5"}, "5 OMP_NUM_THREADS"),
    ({"OMP_NUM_THREADS": "4,2"}, "4 OMP_NUM_THREADS"),
    ({"OMP_NUM_THREADS": "1000000000"}, f"{MOST_THREADS} OMP_NUM_THREADS"),
    ({"FASTBN_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, "3 FASTBN_NUM_THREADS"),
    ({"FASTBN_NUM_THREADS": "", "OMP_NUM_THREADS": "5"}, "5 OMP_NUM_THREADS"),
    ({"OMP_NUM_THREADS": "0"}, DEFAULT),
    ({"OMP_NUM_THREADS": "-2"}, DEFAULT),
    ({"OMP_NUM_THREADS": "many"}, DEFAULT),
    ({}, DEFAULT),
], ids=str)
def test_environment(env, expected):
    if env == {"OMP_NUM_THREADS": "-2"} and "gomp" not in (fastbn._core.config.openmp_runtime() or "gomp"):
        pytest.skip("LLVM's OpenMP ends the process for such a number")
    assert output(REPORT, **env) == expected


def test_default_is_what_this_process_may_run_on():
    count, source = DEFAULT.split(maxsplit=1)
    assert source in ("affinity", "cgroup quota", "cpu count")
    assert 1 <= int(count) <= (os.cpu_count() or 1)


affine = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
with_openmp = pytest.mark.skipif(not kernels.openmp_version(), reason="this build is without OpenMP")
ONE_CPU = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]);"


@affine
def test_affinity():
    assert output(ONE_CPU + REPORT) == "1 affinity"


@affine
def test_an_affinity_that_changes_later_counts():
    assert output(REPORT + "; " + ONE_CPU + REPORT.partition(";")[2]).splitlines() == [DEFAULT, "1 affinity"]


@affine
@with_openmp
@pytest.mark.parametrize("setting", [{"OMP_PROC_BIND": "true"}, {"OMP_PLACES": "threads"}, {"OMP_PROC_BIND": "close"}],
                         ids=str)
def test_a_runtime_that_binds_its_first_thread_leaves_the_others(setting):
    # The affinity of the first thread is then a single CPU.
    count = len(os.sched_getaffinity(0))
    quota = _threads._quota()
    source = "OpenMP places" if quota is None or quota >= count else "cgroup quota"
    assert output(REPORT, **setting) == f"{count if quota is None else min(count, quota)} {source}"


@affine
@with_openmp
def test_places_limit_the_threads():
    cpu = min(os.sched_getaffinity(0))
    for setting in ({"OMP_PLACES": f"{{{cpu}}}"}, {"GOMP_CPU_AFFINITY": str(cpu)}):
        if "gomp" in fastbn._core.config.openmp_runtime() or "OMP_PLACES" in setting:
            assert output(REPORT, **setting) == "1 OpenMP places"


CALL = """
import hashlib, resource, warnings
import numpy as np
from fastbn.functional import batch_norm_training
x = np.random.default_rng(0).standard_normal((64, 32, 1000)).astype(np.float32)
out = np.empty_like(x)
alone = hashlib.sha256(batch_norm_training(x, out=out, num_threads=1)[0]).hexdigest()
out[...] = 0
{limit}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        batch_norm_training(x, out=out, num_threads=3)
print(len(caught), caught[0].category.__name__, caught[0].message)
print(hashlib.sha256(out).hexdigest() == alone)
"""
# Limits that a third thread exceeds: address space, which its stack needs, and processes of the user.
NO_MEMORY = """
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 12 * 2**20, used + 12 * 2**20))
"""
NO_PROCESSES = """
import os
if os.getuid() == 0:
    os.setuid(65534)
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
"""


@with_openmp
@pytest.mark.skipif(os.name != "posix" or not os.path.exists("/proc/self/statm"), reason="this system is not Linux")
@pytest.mark.parametrize("limit", [NO_MEMORY, NO_PROCESSES], ids=["memory", "processes"])
def test_a_thread_that_cannot_start_leaves_one(limit):
    # fastbn starts a thread on trial, as the OpenMP runtime would end the process. Eight MiB is the usual stack.
    first, second = output(CALL.format(limit=limit), OMP_STACKSIZE="8M").splitlines()
    assert first.startswith("2 RuntimeWarning fastbn computes with one thread: 2 more cannot be started (")
    assert second == "True"


@with_openmp
def test_stacks_of_64_kib_suffice():
    code = """
import threading
import ml_dtypes
import numpy as np
from fastbn import ChannelStats
from fastbn._core.dispatch import kernels
from fastbn.functional import batch_norm_backward, batch_norm_training
from tests import row_norms
threading.stack_size(65536)
results = []

def work(x, axis, threads):
    dy = x[::-1].copy()
    for activation, residual in (("relu", None), ("relu", dy), ("gelu", None)):
        y, saved = batch_norm_training(x, axis=axis, num_threads=threads, activation=activation, residual=residual)
        batch_norm_backward(dy, x, saved, axis=axis, num_threads=threads)
    ChannelStats(x.shape[axis], axis=axis).update(x, num_threads=threads)
    if axis == -1:
        statistics = row_norms.forward(x, threads=threads).statistics
        row_norms.backward(dy, x, statistics, np.ones(x.shape[1]), threads=threads)
    results.append(y)

usual = kernels.assume_last_cache(0)
rng = np.random.default_rng(0)
for dtype in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64):
    for shape, axis in (((300, 2100), -1), ((3000, 100), -1), ((9000, 7), -1), ((3, 4, 100, 50), 1)):
        for threads, cache in ((1, usual), (2, usual), (1, 4096)):      # with 4096, stores go around the caches
            kernels.assume_last_cache(cache)
            thread = threading.Thread(target=work, args=(rng.standard_normal(shape).astype(dtype), axis, threads))
            thread.start()
            thread.join()
print(len(results))
"""
    assert output(code, OMP_STACKSIZE="64K") == "48"


@pytest.mark.parametrize("text", ["0", "-1", "2.0", "two", "1000000000", "True"])
def test_a_bad_variable_is_refused_at_import(text):
    message = error("import fastbn", FASTBN_NUM_THREADS=text)
    assert message == f"ValueError: FASTBN_NUM_THREADS={text!r}; expected an integer between 1 and {MOST_THREADS}"


@pytest.mark.parametrize("argv", ["del sys.argv", "sys.argv = []", "sys.argv = ['']"])
def test_a_program_without_a_name(argv):
    assert output(f"import sys; {argv}; {REPORT}", FASTBN_NUM_THREADS="3") == "3 FASTBN_NUM_THREADS"


def test_the_variable_is_read_at_import():
    code = "import os, fastbn; os.environ['FASTBN_NUM_THREADS'] = 'two';" + REPORT
    assert output(code, FASTBN_NUM_THREADS="3") == "3 FASTBN_NUM_THREADS"


def test_precedence_down_to_the_call():
    code = "\n".join([
        "import numpy as np, fastbn",
        "from fastbn._core import threads as _threads",
        "resolve = _threads.resolve",
        "def report(): print(_threads.current().count, _threads.current().source, sep=':')",
        "report()",
        "fastbn.set_num_threads(3)",
        "report()",
        "with fastbn.num_threads(4):",
        "    report()",
        "    print(resolve(5), resolve(None))",
    ])
    assert output(code, FASTBN_NUM_THREADS="2").splitlines() == [
        "2:FASTBN_NUM_THREADS", "3:fastbn.set_num_threads", "4:fastbn.num_threads", "5 4"]


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted in /proc")
@pytest.mark.parametrize(("setting", "expected"), [
    ("num_threads=1", 0), ("num_threads=3", 2), ("num_threads=5", 4)])
def test_a_call_uses_that_many(setting, expected):
    # OpenMP keeps its threads, so they can be counted afterwards.
    code = "\n".join([
        "import os, numpy as np, fastbn",
        "from fastbn._core.config import config",
        "x = np.ones((2000, 64), np.float32)",
        "before = len(os.listdir('/proc/self/task'))",
        f"fastbn.functional.batch_norm_training(x, {setting})",
        "print(len(os.listdir('/proc/self/task')) - before, config()['openmp']['version'])",
    ])
    started, openmp = map(int, output(code).split())
    assert started == (expected if openmp else 0)


def tree(tmp_path, files, lines):
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    membership = tmp_path / "membership"
    membership.write_text("".join(f"{line}\n" for line in lines))
    return membership, tmp_path / "cgroup"


V1 = "cpu/box/cpu.cfs_quota_us", "cpu/box/cpu.cfs_period_us"


@pytest.mark.parametrize(("files", "lines", "expected"), [
    ({"box/cpu.max": "200000 100000\n"}, ["0::/box"], 2),
    ({"box/cpu.max": "150000 100000\n"}, ["0::/box"], 2),
    ({"box/cpu.max": "10000 100000\n"}, ["0::/box"], 1),
    ({"box/cpu.max": "max 100000\n"}, ["0::/box"], None),
    ({"box/cpu.max": "nonsense\n"}, ["0::/box"], None),
    ({"cpu.max": "300000 100000\n"}, ["0::/"], 3),
    ({"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, ["0::/a/b"], 3),
    ({"a/cpu.max": "300000 100000", "a/b/cpu.max": "500000 100000"}, ["0::/a/b"], 3),
    ({"cpu.max": "400000 100000"}, ["0::/not/mounted"], 4),
    ({V1[0]: "250000\n", V1[1]: "100000\n"}, ["4:cpu,cpuacct:/box", "3:memory:/box"], 3),
    ({V1[0]: "-1\n", V1[1]: "100000\n"}, ["4:cpu,cpuacct:/box"], None),
    ({V1[0]: "250000\n"}, ["4:cpu,cpuacct:/box"], None),
    ({V1[0]: "250000\n", V1[1]: "100000\n"}, ["4:cpuset:/box"], None),
    ({}, ["0::/box"], None),
    ({}, [], None),
], ids=str)
def test_cgroup_quota(tmp_path, files, lines, expected):
    assert cgroup_quota(*tree(tmp_path, files, lines)) == expected


def test_no_cgroups_at_all(tmp_path):
    assert cgroup_quota(tmp_path / "missing", tmp_path) is None


def test_a_quota_limits_the_default(monkeypatch):
    monkeypatch.setattr(_threads, "_omp_num_threads", lambda: None)
    monkeypatch.setattr(_threads, "_bound_cpus", lambda: 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    for quota, expected in ((2, (2, "cgroup quota")), (8, (8, "affinity")), (None, (8, "affinity"))):
        monkeypatch.setattr(_threads, "_quota", lambda quota=quota: quota)
        choice = _threads._environment()
        assert (choice.count, choice.source) == expected

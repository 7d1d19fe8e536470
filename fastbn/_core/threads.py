"""How many threads a call may use.

The first of these that says something decides: the `num_threads` of the call or layer, ``with fastbn.num_threads(n)``,
``fastbn.set_num_threads(n)``, FASTBN_NUM_THREADS, OMP_NUM_THREADS, and else the CPUs that the calling thread may run
on, by affinity and by the quota of its cgroup. The affinity is read at each call that may use threads, so that a later
``sched_setaffinity`` counts; where OMP_PROC_BIND, OMP_PLACES or GOMP_CPU_AFFINITY bind the threads of OpenMP, the CPUs
that they are bound to count instead, because the runtime binds the first thread to one of them. The kernels pass the
count to every parallel region; the default of the OpenMP runtime is neither read nor set, so other libraries in the
process keep theirs.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import math
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastbn._core.checks import check_integer
from fastbn._core.kernels import runtime
from fastbn._core.kernels.fork import pool_is_lost
from fastbn._core.startup import is_command

if TYPE_CHECKING:
    from collections.abc import Iterator

# More threads than this help nothing here, and a runtime that cannot start them ends the process.
MOST_THREADS = max(256, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Choice:
    """A thread count and where it came from."""

    count: int
    source: str


def check(n: object, name: str = "num_threads") -> int:
    """Return `n` as an int in 1..MOST_THREADS, or raise an error that names it."""
    return check_integer(n, name, 1, MOST_THREADS)


@functools.cache
def _variable() -> Choice | None:
    if not _VARIABLE:
        return None
    try:
        return Choice(check(int(_VARIABLE), "FASTBN_NUM_THREADS"), "FASTBN_NUM_THREADS")
    except ValueError:
        raise ValueError(
            f"FASTBN_NUM_THREADS={_VARIABLE!r}; expected an integer between 1 and {MOST_THREADS}") from None


# Read at import, so that a wrong one is refused there, as a wrong FASTBN_ISA is, and not in some later call. The
# command line refuses it in one line, and prints its help with any.
_VARIABLE = os.environ.get("FASTBN_NUM_THREADS", "").strip()
_process: Choice | None = None      # of set_num_threads
if not is_command():
    _variable()
_context: contextvars.ContextVar[int | None] = contextvars.ContextVar("fastbn_num_threads", default=None)


def resolve(n: object) -> int:
    """Return the thread count of a call: `n` where it is given, else the default."""
    if n is None:
        return current().count
    count = check(n)
    return 1 if pool_is_lost() else count


def startable(threads: int) -> int:
    """Return `threads` if as many can be started, else 1, with a RuntimeWarning that says why."""
    failure = runtime.try_team(threads)
    if not failure:
        return threads
    warnings.warn(f"fastbn computes with one thread: {threads - 1} more cannot be started ({os.strerror(failure)}); "
                  "see the limits on processes and memory, or choose fewer threads", RuntimeWarning, stacklevel=2)
    return 1


def current() -> Choice:
    """Return the default thread count and its source."""
    if pool_is_lost():
        return Choice(1, "fork under KMP_INIT_AT_FORK=FALSE")
    here = _context.get()
    if here is not None:
        return Choice(here, "fastbn.num_threads")
    return _process or _variable() or _environment()


def set_num_threads(n: int) -> None:
    """Set how many threads a call may use, for the whole process.

    Parameters
    ----------
    n : int
        At least 1. Results do not depend on it: fastbn computes the same bits with any number of threads.

    Raises
    ------
    TypeError
        If `n` is not an integer.
    ValueError
        If `n` is less than 1, or more than this machine can sensibly start.

    Examples
    --------
    >>> import fastbn
    >>> before = fastbn.get_num_threads()
    >>> fastbn.set_num_threads(2)
    >>> fastbn.get_num_threads()
    2
    >>> fastbn.set_num_threads(before)
    """
    global _process
    _process = Choice(check(n, "n"), "fastbn.set_num_threads")


def get_num_threads() -> int:
    """Return how many threads a call may use, unless it is told otherwise.

    Returns
    -------
    int

    Examples
    --------
    >>> import fastbn
    >>> fastbn.get_num_threads() >= 1
    True
    """
    return current().count


@contextlib.contextmanager
def num_threads(n: int) -> Iterator[None]:
    """Limit the threads of the calls inside a ``with`` block, in this thread or task only.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    TypeError, ValueError
        As `set_num_threads`.

    Examples
    --------
    >>> import fastbn
    >>> with fastbn.num_threads(1):
    ...     fastbn.get_num_threads()
    1
    """
    token = _context.set(check(n, "n"))
    try:
        yield
    finally:
        _context.reset(token)


def _environment() -> Choice:
    count = _omp_num_threads()
    if count is not None:
        return Choice(count, "OMP_NUM_THREADS")
    cpus, source = _cpus()
    quota = _quota()
    if quota is not None and quota < cpus:
        return Choice(quota, "cgroup quota")
    return Choice(min(cpus, MOST_THREADS), source)


@functools.cache
def _omp_num_threads() -> int | None:
    # OpenMP allows a list, one count a nesting level, and ignores what it cannot read.
    text = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(int(text), MOST_THREADS) if text.isdecimal() and int(text) >= 1 else None


def _cpus() -> tuple[int, str]:
    bound = _bound_cpus()
    if bound:
        return bound, "OpenMP places"
    try:
        return len(os.sched_getaffinity(0)), "affinity"
    except AttributeError:
        return os.cpu_count() or 1, "cpu count"


@functools.cache
def _bound_cpus() -> int:
    return len(runtime.places())


@functools.cache
def _quota() -> int | None:
    return cgroup_quota(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))


def cgroup_quota(membership: Path, root: Path) -> int | None:
    """Return the CPUs that the cgroup of this process may use, rounded up, or None without a limit.

    Parameters
    ----------
    membership : Path
        /proc/self/cgroup.
    root : Path
        Where the cgroup file systems are mounted.
    """
    quotas = []
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            folder, read = root / path.lstrip("/"), _quota_v2
        elif "cpu" in controllers.split(","):
            folder, read = root / "cpu" / path.lstrip("/"), _quota_v1
        else:
            continue
        # A parent's limit holds for its children; inside a container the path itself may not be mounted.
        for here in (folder, *folder.parents):
            if here == root.parent:
                break
            quota = read(here)
            if quota is not None:
                quotas.append(quota)
    return max(1, math.ceil(min(quotas))) if quotas else None


def _quota_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return None if quota <= 0 else quota / period

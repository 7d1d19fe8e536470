"""The number of threads of a call.

The first of these that is set decides: the `num_threads` of the call or layer, ``with fastbn.num_threads(n)``,
``fastbn.set_num_threads(n)``, FASTBN_NUM_THREADS, OMP_NUM_THREADS, and finally the number of CPUs that the calling
thread may use, by its affinity and the quota of its cgroup. The affinity is read in each call that may use threads, so
a later ``sched_setaffinity`` takes effect. If OMP_PROC_BIND, OMP_PLACES or GOMP_CPU_AFFINITY bind the threads of
OpenMP, the CPUs of these places count instead, because the runtime then binds the first thread to a single one of them.

The kernels pass the count to every parallel region. fastbn neither reads nor sets the default of the OpenMP runtime, so
other libraries in the process are not affected.
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

# More threads do not make a call faster, and a runtime that cannot start them ends the process.
MOST_THREADS = max(256, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Choice:
    """A thread count and its source."""

    count: int
    source: str


def check(n: object, name: str = "num_threads") -> int:
    """Return `n` as an int between 1 and MOST_THREADS."""
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


# A wrong value is an error of the import, like a wrong FASTBN_ISA, and not of a later call. The command line is an
# exception: it prints its help with any value, and reports a wrong one itself.
_VARIABLE = os.environ.get("FASTBN_NUM_THREADS", "").strip()
_process: Choice | None = None      # of set_num_threads
if not is_command():
    _variable()
_context: contextvars.ContextVar[int | None] = contextvars.ContextVar("fastbn_num_threads", default=None)


def resolve(n: object) -> int:
    """Return the thread count of a call: `n`, or the default for None."""
    if n is None:
        return current().count
    count = check(n)
    return 1 if pool_is_lost() else count


def startable(threads: int) -> int:
    """Return `threads`, or 1 with a RuntimeWarning if that many threads cannot be started."""
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
    """Set the number of threads of a call, for the whole process.

    Results do not depend on it: fastbn returns the same bits for any number of threads.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    TypeError
        If `n` is not an integer.
    ValueError
        If `n` is less than 1, or larger than both 256 and the number of CPUs.

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
    """Return the default number of threads of a call.

    Returns
    -------
    int
        By the first of these that is set: ``with fastbn.num_threads(n)``, `set_num_threads`, the environment variables
        FASTBN_NUM_THREADS and OMP_NUM_THREADS, and the number of CPUs that the calling thread may use.

    Examples
    --------
    >>> import fastbn
    >>> fastbn.get_num_threads() >= 1
    True
    """
    return current().count


@contextlib.contextmanager
def num_threads(n: int) -> Iterator[None]:
    """Set the number of threads of calls inside a ``with`` block, in this thread or asyncio task only.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    TypeError, ValueError
        As in `set_num_threads`.

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
    # OpenMP allows a list, one count per nesting level, and ignores an invalid value.
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
    """Return the number of CPUs in the quota of this process's cgroup, rounded up, or None without a quota.

    Parameters
    ----------
    membership : Path
        /proc/self/cgroup.
    root : Path
        The mount point of the cgroup file systems.
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
        # The limit of a parent applies to its children; a container may not mount the path itself.
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

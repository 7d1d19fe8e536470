"""The configuration of fastbn in this process, for bug reports and start-up logs."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np

from fastbn._core import dispatch, pool
from fastbn._core import threads as _threads
from fastbn._core.kernels import cpu, fork

__version__ = "0.1.0"


def config() -> dict[str, Any]:
    """Return version, compiler, ISA levels, OpenMP runtime, threads and memory as values for JSON."""
    threads = _threads.current()
    return {
        "fastbn": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "compiler": cpu.compiler(),
        "flags": cpu.flags(),
        "isa": {
            "built": dispatch.built(),
            "supported": dispatch.supported(),
            "chosen": dispatch.isa,
        },
        "openmp": {
            "version": dispatch.kernels.openmp_version(),
            "runtime": openmp_runtime(),
            "fork_guard": fork.state,
        },
        "threads": {"count": threads.count, "source": threads.source},
        "cache_bytes": cpu.cache_bytes(),
        "pool": pool.config(),
    }


def openmp_runtime() -> str | None:
    """Return the path of the OpenMP runtime in this process, or None if it cannot be found."""
    try:
        mapped = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    paths = {line.split(maxsplit=5)[5] for line in mapped if line.count("/") and ("gomp" in line or "omp" in line)}
    runtimes = sorted(p for p in paths if Path(p).name.startswith(("libgomp", "libomp", "libiomp")))
    return ", ".join(runtimes) or None


def show_config() -> None:
    """Print the version, compiler, flags, ISA levels, OpenMP runtime, thread count with its source, and memory pool.

    ``fastbn info`` on the command line prints the same, or JSON with ``--json``.

    Examples
    --------
    >>> import fastbn
    >>> fastbn.show_config()  # doctest: +ELLIPSIS
    fastbn       ...
    """
    print(describe(config()))


def describe(values: dict[str, Any]) -> str:
    """Return the text of `show_config`."""
    isa, openmp, threads = values["isa"], values["openmp"], values["threads"]
    rows = {
        "fastbn": values["fastbn"],
        "python": values["python"],
        "numpy": values["numpy"],
        "compiler": values["compiler"],
        "flags": values["flags"],
        "isa": f"{isa['chosen']} (built {', '.join(isa['built'])}; usable here {', '.join(isa['supported'])})",
        "openmp": f"{openmp['runtime']} (version {openmp['version']})" if openmp["version"] else "none, one thread",
        "fork guard": openmp["fork_guard"],
        "threads": f"{threads['count']} (from {threads['source']})",
        "cache": f"{values['cache_bytes'] // 1024} KiB of L2 per core",
        "pool": pool.describe(values["pool"]),
    }
    return "\n".join(f"{name:<12} {text}" for name, text in rows.items())

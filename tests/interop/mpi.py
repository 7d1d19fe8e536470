"""Runs a program on several MPI ranks, more than there are cores if need be."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.process import PATIENCE, ROOT, settings

# Open MPI refuses root, and more ranks than cores, unless told; MPICH does not know these names.
ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
}


class Done(NamedTuple):
    code: int
    stdout: str
    stderr: str


def launcher():
    """mpiexec of the wheel beside this interpreter, or of the system."""
    beside = Path(sys.executable).with_name("mpiexec")
    return str(beside) if beside.exists() else shutil.which("mpiexec")


def run(ranks, program, *arguments):
    """Run `program`, a module or a file, to its end."""
    pytest.importorskip("mpi4py", reason='mpi4py is not installed: pip install ".[mpi]"')
    if launcher() is None:
        pytest.skip('there is no mpiexec: pip install ".[mpi]"')
    # Unix sockets of Open MPI must have short names.
    environment = ENVIRONMENT | {"TMPDIR": os.environ.get("TMPDIR", "/tmp")}
    command = [launcher(), "-n", str(ranks), sys.executable, *([] if program.endswith(".py") else ["-m"]), program]
    done = subprocess.run(
        [*command, *arguments], **settings(environment), capture_output=True, timeout=PATIENCE, check=False)
    return Done(done.returncode, done.stdout, done.stderr)

"""The code of docs/guides/scale.md runs unchanged, on two ranks."""

import re

import pytest

from tests.interop import mpi
from tests.process import ROOT


def test_code_blocks_run(tmp_path):
    for package in ("dask", "sklearn"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    found = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "guides" / "scale.md").read_text(), re.DOTALL)
    assert len(found) == 4
    program = tmp_path / "program.py"
    checks = ["assert abs(stats.mean - 5).max() < 0.1 and stats.mean.shape == (3,)", "assert scaled.dtype == x.dtype",
              "assert len(set(MPI.COMM_WORLD.allgather(bn.gamma.tobytes()))) == 1", "print('done')"]
    program.write_text("\n".join(["import warnings", "warnings.simplefilter('error')", *found, *checks]))
    done = mpi.run(2, str(program))
    assert done.code == 0, done.stderr
    assert done.stdout.count("done") == 2

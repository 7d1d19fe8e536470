"""fastbn stats without permission to read or write."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from tests.cli.stats.arrays import normal
from tests.process import run

# A process without the privileges of root. It may not be able to import modules, so a first run imports them.
UNPRIVILEGED = """
import contextlib, io, os, sys
from fastbn.__main__ import main

os.chdir(sys.argv[1])
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    for arguments in (["stats", "x.npy", "--json", "/dev/null"], ["stats", "--axis", "x"]):
        with contextlib.suppress(SystemExit):
            main(arguments)
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
"""


@pytest.fixture
def open_folder():
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def unprivileged(folder, *arguments, program=""):
    done = run("-c", f"{UNPRIVILEGED}{program}sys.exit(main(['stats', *sys.argv[2:]]))", str(folder), *arguments)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
@pytest.mark.parametrize("mode", [0o000, 0o444, 0o111])
def test_an_unreadable_folder(mode, open_folder):
    np.save(open_folder / "x.npy", normal(4, 3))
    locked = open_folder / "locked"
    locked.mkdir()
    (locked / "x.png").write_bytes(b"x")
    locked.chmod(mode)
    try:
        path = "locked/x.png" if mode == 0o444 else "locked"
        assert unprivileged(open_folder, "locked", "x.npy") == (1, "", f"{path}: Permission denied\n")
        code, out, err = unprivileged(open_folder, "locked", "x.npy", "--on-error", "skip")
        assert (code, err) == (0, f"skipped: {path}: Permission denied\ninputs counted: 1; skipped: 1\n")
        assert out.startswith("mean, std = (")
        # An output in the folder gives one line too.
        code, out, err = unprivileged(open_folder, "x.npy", "--json", "locked/out.json")
        assert (code, out) == (2, "")
        assert "argument --json: locked/out.json: cannot be written: Permission denied\n" in err
        code, _, err = unprivileged(open_folder, "locked/x.npy", "--json", "/dev/null")
        assert (code, err) == (1, "locked/x.npy: No such file or directory\n" if mode == 0o111 else
                               "locked/x.npy: Permission denied\n")
    finally:
        locked.chmod(0o755)


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_an_unreadable_file(open_folder):
    for name in ("x.npy", "secret.npy"):
        np.save(open_folder / name, normal(4, 3))
    (open_folder / "secret.npy").chmod(0)
    assert unprivileged(open_folder, "secret.npy", "x.npy") == (1, "", "secret.npy: Permission denied\n")
    code, _, err = unprivileged(open_folder, "secret.npy", "x.npy", "--on-error", "skip")
    assert (code, err) == (0, "skipped: secret.npy: Permission denied\ninputs counted: 1; skipped: 1\n")


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
@pytest.mark.parametrize("json_out", [[], ["--json", "-"]])
def test_an_interrupted_run_that_cannot_write_prints(json_out, open_folder):
    x = np.repeat(np.arange(4.0), 512).reshape(-1, 1)       # a block has one value
    np.save(open_folder / "x.npy", x)
    program = """
import signal
from fastbn.cli.stats import run
from fastbn.cli.stats.counting import count as counting
from fastbn.cli.stats.readers import grid

signal.signal(signal.SIGINT, signal.default_int_handler)
grid.BLOCK_BYTES = 4096

def count(*arguments):
    for number, state in enumerate(counting.count(*arguments)):
        yield state
        if number == 1:
            signal.raise_signal(signal.SIGINT)

run.count = count
"""
    code, out, err = unprivileged(open_folder, "x.npy", *json_out, program=program)
    table = ["# interrupted: only a part of the inputs was counted", "mean, std = (0.5,), (0.5,)"]
    said = ("interrupted after 0 inputs and a part of the next; the resume file "
            "fastbn-stats.resume: cannot be written: Permission denied")
    assert code == 130
    if json_out:
        assert out == ""
        assert err.splitlines()[:3] == [said, *table]
    else:
        assert err == f"{said}\n"
        assert out.splitlines()[:2] == table

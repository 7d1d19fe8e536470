"""Interrupted runs of fastbn stats leave a resume file, and a resumed run has the result of an uninterrupted one."""

import bisect
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from fastbn.__main__ import main
from fastbn.cli.console import write_file
from fastbn.cli.stats.counting import count as counting
from tests.cli.stats.arrays import normal, same, stats
from tests.cli.stats.interrupted import INTERRUPTED, resumed, start
from tests.process import DEFAULT_SIGNALS, PATIENCE, settings

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the tests send POSIX signals")
ENDS = [3, 10, 16, 17]      # cumulative number of blocks after each input


@pytest.mark.parametrize("blocks", [0, 1, 2, 3, 4, 5, 7, 9, 10, 12, 15, 16])
def test_sigint(blocks, files, tmp_path):
    wanted = stats(tmp_path, *files)
    code, out, err = start(blocks, tmp_path, *files)
    assert code == 130
    if blocks == 0:
        assert (out, err) == ("", "interrupted after 0 inputs; there is nothing to resume\n")
        assert not list(tmp_path.glob("*.resume"))
        return
    finished = bisect.bisect(ENDS, blocks)
    part = "" if blocks in ENDS else " and a part of the next"
    counted = "1 input" if finished == 1 else f"{finished} inputs"
    assert err == (f"interrupted after {counted}{part}; to resume, repeat the command with "
                   "--resume fastbn-stats.resume\n")
    state = json.loads((tmp_path / "fastbn-stats.resume").read_text())
    assert (state["finished"], state["partial"] is None) == (finished, blocks in ENDS)
    assert out.startswith("# interrupted: only a part of the inputs was counted\nmean, std = (")
    same(resumed(tmp_path, *files), wanted)


def test_sigterm(files, tmp_path):
    wanted = stats(tmp_path, *files)
    code, out, err = start(4, tmp_path, *files, by=[signal.SIGTERM])
    assert code == 143
    assert out.startswith("# interrupted: ")
    assert err.endswith("--resume fastbn-stats.resume\n")
    same(resumed(tmp_path, *files), wanted)


@pytest.mark.parametrize("by", [(signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)])
def test_two_signals_at_once(by, files, tmp_path):
    wanted = stats(tmp_path, *files)
    code, _, err = start(4, tmp_path, *files, by=by)
    assert code in (130, 143)
    assert err.startswith("interrupted after ")
    assert err.count("\n") == 1
    same(resumed(tmp_path, *files), wanted)


def test_a_signal_that_is_ignored(files, tmp_path):
    program = INTERRUPTED.replace("signal.default_int_handler", "signal.SIG_IGN")
    code, out, err = start(4, tmp_path, *files, program=program)
    assert (code, err) == (0, "")
    assert out.startswith("mean, std = (")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_the_resume_file_needs_no_standard_output(files, tmp_path):
    wanted = stats(tmp_path, *files)
    with open("/dev/full", "w") as full:
        code, _, err = start(4, tmp_path, *files, stdout=full)
    assert code == 130
    assert err.splitlines()[1] == "standard output: cannot be written: No space left on device"
    same(resumed(tmp_path, *files), wanted)


def test_an_interrupted_run_prints_no_json(files, tmp_path):
    code, out, err = start(4, tmp_path, *files, "--json", "-")
    assert (code, out) == (130, "")
    assert err.endswith("--resume fastbn-stats.resume\n")


def test_interrupted_after_all_inputs(files, tmp_path, monkeypatch, capsys, heard_signals):
    def interrupted(path, data):
        if path.name == "out.json":
            signal.raise_signal(signal.SIGTERM)
        path.write_bytes(data)

    wanted = stats(tmp_path, *files)
    (tmp_path / "out.json").unlink()
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fastbn.cli.stats.run.write_file", interrupted)
    assert main(["stats", *map(str, files), "--json", "out.json"]) == 143
    out, err = capsys.readouterr()
    assert out.count("mean, std = (") == 1
    assert "interrupted" not in out
    assert err.startswith("interrupted after all 4 inputs; to resume, ")
    monkeypatch.undo()
    monkeypatch.setattr("fastbn.cli.stats.readers.grid.BLOCK_BYTES", 4096)
    same(resumed(tmp_path, *files), wanted)


def test_many_interruptions(files, tmp_path):
    wanted = stats(tmp_path, *files)
    left = []
    for _ in range(ENDS[-1] // 2):
        code, _, err = start(2, tmp_path, *files, *left)
        assert code == 130, err
        left = ["--resume", "fastbn-stats.resume"]
    assert [path.name for path in tmp_path.glob("*.resume")] == ["fastbn-stats.resume"]
    same(resumed(tmp_path, *files), wanted)


def test_another_run_uses_another_file_name(files, tmp_path):
    for name in ("fastbn-stats.resume", "fastbn-stats-2.resume", "fastbn-stats-3.resume"):
        *_, err = start(1, tmp_path, *files)
        assert f"--resume {name}\n" in err
        assert (tmp_path / name).exists()


# Repeatedly interrupts itself with SIGINT before a random line of Python in the command or in its callees.
ANYWHERE = DEFAULT_SIGNALS + """
import random, sys
from pathlib import Path
from dataclasses import replace
from fastbn.__main__ import main
from fastbn.cli import parser
from fastbn.cli.stats import command
from fastbn.cli.stats.readers import grid

grid.BLOCK_BYTES = 1024
rng, files, of_command = random.Random(int(sys.argv[1])), sys.argv[2:], command.COMMAND.run

def run(lines, *options):
    passed = 0

    def step(frame, event, argument):
        nonlocal passed
        if event == "line":
            passed += 1
            if passed == lines:
                signal.raise_signal(signal.SIGINT)
        return step

    def traced(arguments):
        sys.settrace(step)
        try:
            return of_command(arguments)
        finally:
            sys.settrace(None)

    parser.COMMANDS = (replace(command.COMMAND, run=traced),)
    return main(["stats", *files, "--json", "anywhere.json", *options]), passed

for _ in range(2):       # the first run imports modules, which the others do not
    code, total = run(0)
    assert code == 0
    Path("anywhere.json").unlink()
print(total, file=sys.stderr)
code, left, interrupted = None, [], 0
while code != 0:
    code, _ = run(rng.randint(1, total // 6), *left)
    assert code in (0, 130)
    if Path("fastbn-stats.resume").exists():
        left = ["--resume", "fastbn-stats.resume"]
    interrupted += code == 130
print(interrupted, file=sys.stderr)
"""


@pytest.mark.parametrize("seed", range(4))
def test_at_any_line(seed, files, tmp_path):
    # Each run but the last executes at most a sixth of the lines of an uninterrupted run.
    wanted = stats(tmp_path, *files)
    done = subprocess.run([sys.executable, "-c", ANYWHERE, str(seed), *map(str, files)],
                          **(settings({}) | {"cwd": tmp_path}), capture_output=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stderr.splitlines()[-1]) >= 5
    same(json.loads((tmp_path / "anywhere.json").read_text()), wanted)


def test_the_printed_result_has_all_blocks_read(tmp_path):
    x = np.repeat(np.arange(4.0), 512).reshape(-1, 1)       # a block has one value
    np.save(tmp_path / "x.npy", x)
    code, out, err = start(2, tmp_path, "x.npy")
    assert code == 130
    assert out.splitlines()[1] == "mean, std = (0.5,), (0.5,)"
    assert out.splitlines()[5].split() == ["0", "1024", "0", "1", "0.5", "0.5"]
    assert err.startswith("interrupted after 0 inputs and a part of the next; to resume, ")


def test_the_warning_of_the_channel_axis_appears_once(tmp_path):
    np.save(tmp_path / "x.npy", normal(3, 50, 65))
    code, out, err = start(2, tmp_path, "x.npy")
    assert code == 130
    assert out.splitlines()[2] == "# channel axis -1; the first array has shape (3, 50, 65)"
    assert err.startswith("x.npy: shape (3, 50, 65) has 65 channels along axis -1, and 3 along axis 0; --axis ")
    code, out, err = start(100, tmp_path, "x.npy", "--resume", "fastbn-stats.resume")
    assert (code, err) == (0, "")
    assert out.splitlines()[1] == "# channel axis -1; the first array has shape (3, 50, 65)"


def test_standard_input_starts_from_its_beginning(tmp_path):
    a, b = normal(1000, 3), normal(2000, 3, seed=1)
    np.save(tmp_path / "a.npy", a)
    np.save(tmp_path / "b.npy", b)
    with open(tmp_path / "b.npy") as file:
        code, _, err = start(5, tmp_path, "a.npy", "-", stdin=file)
    assert code == 130, err
    state = json.loads((tmp_path / "fastbn-stats.resume").read_text())
    assert (state["finished"], state["partial"]) == (1, None)
    with open(tmp_path / "b.npy") as file:
        code, _, err = start(100, tmp_path, "a.npy", "-", "--json", "out.json", "--resume", "fastbn-stats.resume",
                             stdin=file)
    assert (code, err) == (0, "")
    same(json.loads((tmp_path / "out.json").read_text()), stats(tmp_path, tmp_path / "a.npy", tmp_path / "b.npy"))


def test_the_majority_decides_after_an_unfinished_input_is_skipped(files, tmp_path):
    """The first input is damaged at its end; the second one has another number of channels than most inputs."""
    np.savez(files[1], normal(4000, 3, seed=1))
    files[1].write_bytes(damaged_at_its_end(files[1].read_bytes()))
    np.save(files[0], normal(1000, 4))
    inputs = [files[1], files[0], files[2], files[3]]
    wanted = stats(tmp_path, *inputs, "--on-error", "skip")
    assert wanted["channels"] == 3
    assert [entry["path"] for entry in wanted["skipped"]] == [str(files[1]), str(files[0])]
    code, _, err = start(1, tmp_path, *inputs, "--on-error", "skip")
    assert code == 130, err
    same(resumed(tmp_path, *inputs, "--on-error", "skip"), wanted)


def damaged_at_its_end(archive):
    """The bytes of an archive with a wrong last value, which its checksum reveals."""
    at = archive.index(b"PK\1\2") - 1
    return archive[:at] + bytes([archive[at] ^ 1]) + archive[at + 1:]


def test_a_second_sigint_does_not_prevent_the_resume_file(
        files, tmp_path, monkeypatch, capsys, heard_signals):
    wanted = stats(tmp_path, *files)
    monkeypatch.chdir(tmp_path)
    count, write = counting.count, write_file

    def interrupted(*arguments):
        for number, state in enumerate(count(*arguments)):
            if number == 2:
                os.kill(os.getpid(), signal.SIGINT)
            yield state

    def write_and_interrupt(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        write(*arguments)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("fastbn.cli.stats.run.count", interrupted)
    monkeypatch.setattr("fastbn.cli.stats.run.write_file", write_and_interrupt)
    assert main(["stats", *map(str, files)]) == 130
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.undo()
    monkeypatch.setattr("fastbn.cli.stats.readers.grid.BLOCK_BYTES", 4096)
    same(resumed(tmp_path, *files), wanted)

"""The resume file of fastbn stats: other inputs, other settings, and damage."""

import json
import os
import sys
from dataclasses import replace

import numpy as np
import pytest

from fastbn.__main__ import main
from fastbn.cli.stats import inputs
from fastbn.cli.stats.resume import FORMAT, digest
from tests.cli.stats.arrays import normal, same, stats
from tests.cli.stats.interrupted import start

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the tests send POSIX signals")


@pytest.fixture
def left(files, tmp_path):
    """The resume file of a run that skipped the second input and was interrupted in the third."""
    files[1].write_bytes(files[1].read_bytes()[:-30])
    code, _, err = start(5, tmp_path, *files, "--on-error", "skip")
    assert code == 130, err
    return tmp_path / "fastbn-stats.resume"


def resume(left, files, *options):
    return main(["stats", *map(str, files), "--on-error", "skip", "--resume", str(left), *options])


def test_skipped_inputs_are_remembered(left, files, tmp_path):
    found = stats(tmp_path, *files, "--on-error", "skip", "--resume", left)
    same(found, stats(tmp_path, *files, "--on-error", "skip"))
    assert [entry["path"] for entry in found["skipped"]] == [str(files[1])]


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("change", ["time", "size", "missing"])
def test_a_changed_input_is_refused(number, change, left, files, capsys):
    path = files[number - 1]
    status = path.stat()
    if change == "time":
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))
    elif change == "missing":
        path.unlink()
    else:
        with open(path, "ab") as file:
            file.write(b"x")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert resume(left, files) == 1
    out, err = capsys.readouterr()
    assert out == ""
    reason = "No such file or directory" if change == "missing" else (
        f"differs from input {number} of the interrupted run in path, size or time")
    assert err == f"{path}: {reason}; start again without --resume\n"


def test_unread_inputs_may_change(left, files, tmp_path):
    np.savez(files[3], normal(50, 3, seed=9))
    found = stats(tmp_path, *files, "--on-error", "skip", "--resume", left)
    same(found, stats(tmp_path, *files, "--on-error", "skip"))


@pytest.mark.parametrize(("change", "message"), [
    (lambda files: files[::-1], "differs from input 1 of the interrupted run"),
    (lambda files: files[1:], "differs from input 1 of the interrupted run"),
    (lambda files: files[:2], "covers 3 inputs, but the command names 2"),
])
def test_other_inputs_are_refused(change, message, left, files, capsys):
    assert resume(left, change(files)) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("options", "what"), [
    (["--axis", "0"], "axis -1; this run has 0"), (["--member", "x"], "members []; this run has ['x']")])
def test_other_settings_are_refused(options, what, left, files, capsys):
    assert resume(left, files, *options) == 1
    assert capsys.readouterr().err == f"{left}: was written with {what}\n"


def changed(*keys, value):
    def change(content):
        inner = content
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        rest = {name: value for name, value in content.items() if name != "digest"}
        return json.dumps({**rest, "digest": digest(rest)})
    return change


NO_FILE, DAMAGED = "is not a resume file of this version of fastbn stats", "is damaged: "
BAD = {
    "empty": (lambda content: "", NO_FILE),
    "cut short": (lambda content: json.dumps(content)[:-1], DAMAGED),
    "nested": (lambda content: "[" * 100_000, NO_FILE),
    "nested within": (lambda content: f'{{"format": "{FORMAT}", "skipped": ' + "[" * 987 + "]" * 987 + "}", DAMAGED),
    "nested deeper": (lambda content: f'{{"format": "{FORMAT}", "skipped": ' + "[" * 100_000, DAMAGED),
    "another number of channels": (lambda content: changed("total", "stats", value={
        name: values[:2] for name, values in content["total"]["stats"].items()})(content), DAMAGED),
    "a list": (lambda content: "[]", NO_FILE),
    "another version": (changed("format", value="fastbn stats, interrupted; version 1"), NO_FILE),
    "finished": (changed("finished", value=-1), DAMAGED),
    "finished, a bool": (changed("finished", value=True), DAMAGED),
    "fingerprints": (changed("fingerprints", value="ab"), DAMAGED),
    "no fingerprints": (changed("fingerprints", value=None), DAMAGED),
    "no hexadecimals": (changed("fingerprints", value="x" * 48), DAMAGED),
    "total": (changed("total", value=5), DAMAGED),
    "negative count": (changed("total", "stats", "count", value=[-1.0, 1.0, 1.0]), DAMAGED),
    "short mean": (changed("total", "stats", "mean", value=[1.0]), DAMAGED),
    "text as mean": (changed("total", "stats", "mean", value="abc"), DAMAGED),
    "matrix": (changed("total", "stats", "mean", value=[[1.0, 2.0, 3.0]]), DAMAGED),
    "no extrema": (lambda content: changed("total", "stats", value={
        name: content["total"]["stats"][name] for name in ("count", "mean", "m2")})(content), DAMAGED),
    "a name too many": (changed("total", "stats", "x", value=[1.0, 2.0, 3.0]), DAMAGED),
    "uint8": (changed("total", "uint8", value=1), DAMAGED),
    "negative number omitted": (changed("total", "omitted", value=[0, -1, 0]), DAMAGED),
    "large number omitted": (changed("total", "omitted", value=[0, 1 << 70, 0]), DAMAGED),
    "text as number omitted": (changed("total", "omitted", value="000"), DAMAGED),
    "too few numbers omitted": (changed("total", "omitted", value=[0]), DAMAGED),
    "partial": (changed("partial", value={}), DAMAGED),
    "block": (changed("partial", "block", value=1.5), DAMAGED),
    "skipped": (changed("skipped", value=[1]), DAMAGED),
    "another checksum": (lambda content: json.dumps({**content, "digest": "0"}), DAMAGED),
    "no checksum": (lambda content: json.dumps({name: content[name] for name in content if name != "digest"}), DAMAGED),
}


@pytest.mark.parametrize("name", BAD)
def test_malformed_files(name, left, files, capsys):
    change, message = BAD[name]
    left.write_text(change(json.loads(left.read_text())))
    assert resume(left, files) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"{left}: {message}")
    assert err.count("\n") == 1


def test_a_missing_block(left, files, capsys):
    left.write_text(changed("partial", "block", value=1000)(json.loads(left.read_text())))
    assert main(["stats", *map(str, files), "--resume", str(left)]) == 1
    assert capsys.readouterr().err == f"{files[2]}: has fewer blocks than in the interrupted run\n"


@pytest.mark.parametrize(("make", "kind"), [
    (lambda path: os.mkfifo(path), "a named pipe"), (lambda path: path.symlink_to("/dev/zero"), "a device"),
], ids=["pipe", "device"])
def test_files_that_are_not_regular(make, kind, files, tmp_path, capsys):
    make(tmp_path / "x.resume")
    assert resume(tmp_path / "x.resume", files) == 1
    assert capsys.readouterr() == ("", f"{tmp_path / 'x.resume'}: is {kind}; expected a regular file\n")


def test_a_file_that_is_larger_than_memory_allows(left, files, capsys):
    size = left.stat().st_size
    assert main(["stats", *map(str, files), "--resume", str(left), "--max-memory", str(size - 1)]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"{left}: has ")
    assert err.endswith("; see --max-memory\n")
    assert main(["stats", *map(str, files), "--resume", str(left), "--max-memory", str(max(size, 3072))]) == 0


def test_a_missing_file(files, tmp_path, capsys):
    assert resume(tmp_path / "none.resume", files) == 1
    assert capsys.readouterr().err == f"{tmp_path / 'none.resume'}: No such file or directory\n"


def test_fingerprints_differ():
    one = inputs.Input("/a", "npy", 1, 2)
    others = [replace(one, path="/b"), replace(one, kind="npz"), replace(one, size=2), replace(one, mtime=3),
              replace(one, problem="x"), inputs.Input("-", inputs.STREAM)]
    assert len({found.fingerprint for found in (one, *others)}) == 7
    assert all(len(found.fingerprint) == inputs.FINGERPRINT_BYTES for found in others)

"""python -m fastbn stats on NumPy's files: what it says of them, whatever their layout, dtype and size."""

import errno
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

import fastbn
from fastbn.__main__ import main
from fastbn.cli import console
from fastbn.cli.stats.counting.count import State
from fastbn.cli.stats.counting.tally import Tally
from fastbn.cli.stats.readers import grid
from tests.cli.stats.arrays import expect, normal, stats
from tests.process import PATIENCE, run, settings

# Below, at and above a block when that has 4,096 bytes; and rows below, at and above what a minimum takes at once.
SHAPES = {
    "rows": (700, 5), "one row": (1, 5), "one channel": (3000, 1), "images": (3, 20, 30, 3), "wide": (3, 5000),
    "block": (1024, 1), "block and one": (1025, 1), "planes": (7, 9, 6, 8),
    "large planes": (3, 5, 40, 41), "one large plane": (1, 2, 3000), "volume": (2, 3, 4, 5, 6),
}


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(grid, "BLOCK_BYTES", 4096)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name, axis, order, tmp_path, small_blocks):
    x = np.array(normal(*SHAPES[name]), order=order)
    np.save(tmp_path / "x.npy", x)
    found = stats(tmp_path, tmp_path / "x.npy", "--axis", axis)
    expect(found, [x], axis)
    assert (found["axis"], found["inputs"], found["skipped"], found["scaled"]) == (axis, 1, [], None)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4", ">f8", "uint8", "int16", ">i4"])
def test_dtypes(dtype, tmp_path, small_blocks):
    x = normal(900, 6, dtype=dtype)
    np.save(tmp_path / "x.npy", x)
    expect(stats(tmp_path, tmp_path / "x.npy"), [x])
    expect(stats(tmp_path, tmp_path / "x.npy", "--axis", 0), [x], 0)


@pytest.mark.parametrize("dtype", ["int64", ">i8", "uint64", "uint32", "bool"])
def test_dtypes_that_float64_may_not_hold(dtype, tmp_path, small_blocks):
    x = normal(900, 6) > 1 if dtype == "bool" else np.abs(1000 * normal(900, 6, dtype="float64")).astype(dtype)
    x[::7, 2] = x[0, 2]
    np.save(tmp_path / "x.npy", x)
    found = stats(tmp_path, tmp_path / "x.npy")
    expect(found, [x.astype("uint8" if dtype == "bool" else dtype)])
    assert found["scaled"] is None
    counted = stats(tmp_path, tmp_path / "x.npy", "--nodata", int(x[0, 2]))["count"]
    assert counted == (x != x[0, 2]).sum(axis=0).tolist()


@pytest.mark.parametrize("ratio", [1e2, 1e4])
def test_a_mean_far_from_zero(ratio, tmp_path, small_blocks):
    x = normal(20000, 3, dtype="float64") + ratio
    np.save(tmp_path / "x.npy", x)
    expect(stats(tmp_path, tmp_path / "x.npy"), [x])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(save, tmp_path, small_blocks):
    a, b, c = normal(800, 4), np.asfortranarray(normal(3, 50, 4, seed=1)), normal(1, 4, seed=2, dtype="float64")
    save(tmp_path / "x.npz", a=a, b=b, c=c)
    path = tmp_path / "x.npz"
    expect(stats(tmp_path, path), [a, b, c])
    expect(stats(tmp_path, path, "--member", "b"), [b])
    expect(stats(tmp_path, path, "--member", "c", "--member", "a"), [a, c])


def test_several_inputs(tmp_path, small_blocks):
    x = normal(5000, 3)
    np.save(tmp_path / "a.npy", x[:10])
    np.savez(tmp_path / "b.npz", x[10:11], x[11:3000])
    np.save(tmp_path / "c.npy", x[3000:].astype("float64"))
    found = stats(tmp_path, *(tmp_path / name for name in ("a.npy", "b.npz", "c.npy")))
    expect(found, [x])
    assert found["inputs"] == 3


def test_members_that_fit_one_by_one_only(tmp_path):
    np.savez(tmp_path / "x.npz", images=normal(4, 3), labels=np.arange(4))
    assert stats(tmp_path, tmp_path / "x.npz", "--member", "images")["count"] == [4, 4, 4]


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_do_not_change_it(threads, tmp_path):
    np.save(tmp_path / "x.npy", normal(40000, 33))
    with fastbn.num_threads(1):
        wanted = stats(tmp_path, tmp_path / "x.npy")
    assert stats(tmp_path, tmp_path / "x.npy", "--threads", threads) == wanted


def command(*arguments, **options):
    """Run the command in a process of its own, with bytes on its standard input."""
    return subprocess.run(
        [sys.executable, "-m", "fastbn", "stats", *map(str, arguments)], **(settings({}) | {"text": False}),
        capture_output=True, timeout=PATIENCE, check=False, **options)


def test_standard_input(tmp_path):
    x = normal(3000, 5)
    file = io.BytesIO()
    np.save(file, x)
    out = tmp_path / "out.json"
    done = command("-", "--json", out, input=file.getvalue())
    assert (done.returncode, done.stderr) == (0, b"")
    expect(json.loads(out.read_text()), [x])
    for data, reason in ((file.getvalue()[:-1], "ends in the middle of its array"),
                         (file.getvalue() + b"x", "has bytes after its array"),
                         (b"", "has no valid npy header: EOF: reading magic string")):
        done = command("-", input=data)
        assert done.returncode == 1
        assert done.stderr.decode().startswith(f"-: {reason}")
        assert done.stdout == b""
    done = command("-", "-", input=file.getvalue())
    assert (done.returncode, done.stderr) == (1, b"standard input (-) can be read only once\n")


def test_the_lines_are_python(tmp_path, capsys):
    for x in (normal(500, 1, dtype="uint8"), normal(500, 3, dtype="uint8")):
        np.save(tmp_path / "x.npy", x)
        assert main(["stats", str(tmp_path / "x.npy")]) == 0
        first, second, shape, empty, *table = capsys.readouterr().out.splitlines()
        names = {"fastbn": fastbn}
        exec(first, names)
        exec(second, names)
        np.testing.assert_allclose(names["mean"], x.mean(axis=0), rtol=1e-8)
        np.testing.assert_allclose(names["std"], x.std(axis=0), rtol=1e-8)
        y = names["normalize"](x)
        np.testing.assert_allclose(y.mean(axis=0, dtype=float), 0, atol=1e-6)
        np.testing.assert_allclose(y.std(axis=0, dtype=float), 1, atol=1e-6)
        assert (shape, empty) == (f"# channel axis -1; the first array has shape {x.shape}", "")
        assert table[0].split() == ["channel", "count", "min", "max", "mean", "std"]
        rows = np.array([line.split() for line in table[1:]], float)
        wanted = [range(x.shape[1]), [500] * x.shape[1], x.min(axis=0), x.max(axis=0), x.mean(axis=0), x.std(axis=0)]
        np.testing.assert_allclose(rows.T, wanted, rtol=1e-8)


def test_what_is_printed(tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.array([[1.5, -3.0], [2.5, 5.0]]))
    assert main(["stats", str(tmp_path / "x.npy")]) == 0
    out, err = capsys.readouterr()
    assert out == (
        "mean, std = (2, 1), (0.5, 4)\n"
        "# channel axis -1; the first array has shape (2, 2)\n"
        "\n"
        "channel            count             min             max            mean             std\n"
        "      0                2             1.5             2.5               2             0.5\n"
        "      1                2              -3               5               1               4\n")
    assert err == ""


def test_scaled_is_of_bytes_alone(tmp_path):
    x = normal(100, 3, dtype="uint8")
    np.save(tmp_path / "x.npy", x)
    scaled = stats(tmp_path, tmp_path / "x.npy")["scaled"]
    assert scaled["scale"] == 1 / 255
    np.testing.assert_allclose(scaled["mean"], (x / 255).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(scaled["std"], (x / 255).std(axis=0), rtol=1e-12)


def test_what_is_not_finite_is_named_and_null(tmp_path, capsys):
    x, y = normal(600, 4), normal(600, 4, seed=1)
    y[5, 1], y[7, 3], y[8, 3] = np.nan, np.inf, -np.inf
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    found = stats(tmp_path, tmp_path / "x.npy", tmp_path / "y.npy", tmp_path / "y.npy")
    assert capsys.readouterr().err == f"{tmp_path / 'y.npy'}: has NaN or Inf in channels 1, 3\n"
    for key in ("mean", "std", "min", "max"):
        assert [value is None for value in found[key]] == [False, True, False, True], key
    assert found["count"] == [1800] * 4


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "the following arguments are required: PATH"),
    (["x.npy", "--axis", "last"], "argument --axis: expected an integer, got 'last'"),
    (["x.npy", "--threads", "0"], "argument --threads: expected an integer of at least 1, got '0'"),
    (["x.npy", "--on-error", "ignore"], "argument --on-error: invalid choice: 'ignore'"),
    (["x.npy", "--plot", "x.jpg"], "argument --plot: expected a file name that ends in .pdf, .png, .svg"),
    (["x.npy", "--threads", "100000"], "argument --threads: num_threads must be between 1 and "),
    (["x.npy", "--json", "nowhere/out.json"], "argument --json: there is no directory 'nowhere'"),
    (["x.npy", "--json", "/"], "argument --json: expected a file name, got '/'"),
    (["x.npy", "--json", ""], "argument --json: expected a file name, got ''"),
    (["x.npy", "--nan", "skip"], "argument --nan: invalid choice: 'skip'"),
    (["x.npy", "--nodata", "none"], "argument --nodata: expected a number, got 'none'"),
], ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_usage(arguments, message):
    done = run("-m", "fastbn", "stats", *arguments)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize(("module", "argument", "what"), [
    ("matplotlib", "--plot=x.png", '--plot needs matplotlib, which is not installed: pip install ".[stats]"'),
    ("PIL", "x.png", 'Reading images needs Pillow, which is not installed: pip install ".[images]"'),
    ("zarr", "x.zarr", 'Reading Zarr arrays needs zarr, which is not installed: pip install ".[zarr]"'),
])
@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_without_the_extra(module, argument, what, on_error, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in {module, *(name for name in sys.modules if name.startswith(f"{module}."))}:
        monkeypatch.setitem(sys.modules, name, None)
    np.save("x.npy", normal(4, 3))
    (tmp_path / "x.png").write_bytes(b"x")
    (tmp_path / "x.zarr").mkdir()
    (tmp_path / "x.zarr" / "zarr.json").write_text("{}")
    assert main(["stats", "x.npy", argument, "--on-error", on_error]) == 1
    assert capsys.readouterr() == ("", what + "\n")


def test_no_json_without_room_for_it(tmp_path, monkeypatch, capsys):
    np.save(tmp_path / "x.npy", normal(4, 3))

    def full(path, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(console, "replace", full)
    assert main(["stats", str(tmp_path / "x.npy"), "--json", str(tmp_path / "out.json")]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("mean, std = (")
    assert err == f"{tmp_path / 'out.json'}: cannot be written: No space left on device\n"


def test_json_on_standard_output_is_alone_there(tmp_path, capsys):
    np.save(tmp_path / "x.npy", normal(4, 3))
    assert main(["stats", str(tmp_path / "x.npy"), "--json", "-"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == stats(tmp_path, tmp_path / "x.npy")
    assert err == ""


def test_a_file_whose_name_is_that_of_standard_output(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", normal(4, 3))
    assert main(["stats", "x.npy", "--json", "./-"]) == 0
    assert capsys.readouterr().out.startswith("mean, std = (")
    assert json.loads((tmp_path / "-").read_text())["channels"] == 3


def test_standard_output_that_is_closed(tmp_path, monkeypatch, capsys):
    np.save(tmp_path / "x.npy", normal(4, 3))
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["stats", str(tmp_path / "x.npy")]) == 1
    assert capsys.readouterr().err == "standard output is closed\n"


def test_members_of_no_archive(tmp_path, capsys):
    np.save(tmp_path / "x.npy", normal(4, 3))
    assert main(["stats", str(tmp_path / "x.npy"), "--member", "x"]) == 1
    assert capsys.readouterr() == ("", "--member selects arrays of .npz files, but no input is an .npz file\n")


def test_a_member_that_is_named_twice_counts_once(tmp_path):
    x = normal(4, 3)
    np.savez(tmp_path / "x.npz", x=x, y=normal(5, 3))
    expect(stats(tmp_path, tmp_path / "x.npz", "--member", "x", "--member", "x"), [x])


@pytest.mark.parametrize(("x", "lines"), [
    (np.array([[0, 7, 1], [2, 7, 3]], np.uint8),
     ["mean, std = (1, 7, 2), (1, 0, 1)", "# no normalize = ...: channel 1 is constant"]),
    (np.array([[0, np.nan], [2, 1]]), ['mean, std = (1, float("nan")), (1, float("nan"))']),
    (np.array([[0, np.inf], [2, 1]]), ['mean, std = (1, float("nan")), (1, float("nan"))']),
    (np.array([[0, 51], [102, 255]], np.uint8), [
        "mean, std = (51, 153), (51, 102)",
        "normalize = fastbn.ChannelAffine.from_mean_std((0.2, 0.6), (0.2, 0.4))  # of values / 255"]),
], ids=["constant", "NaN", "Inf", "bytes"])
def test_the_lines_of_what_is_odd_are_python(x, lines, tmp_path, capsys):
    np.save(tmp_path / "x.npy", x)
    assert main(["stats", str(tmp_path / "x.npy")]) == 0
    printed = capsys.readouterr().out.partition("\n\n")[0]
    assert printed.splitlines() == [*lines, f"# channel axis -1; the first array has shape {x.shape}"]
    names = {"fastbn": fastbn}
    exec(printed, names)
    np.testing.assert_allclose(names["std"][0], x[:, 0].std())


@pytest.mark.parametrize(("shape", "axis", "warning"), [
    ((2, 3, 8, 65), -1, "has 65 channels along axis -1, and 3 along axis 1"),
    ((65, 4), 0, "has 65 channels along axis 0, and 4 along axis 1"),
    ((2, 80, 70, 1), 1, "has 80 channels along axis 1, and 1 along axis 3"),
    ((2, 3, 8, 64), -1, ""), ((2, 3, 8, 65), 1, ""), ((2, 65, 8, 5), 1, ""),
], ids=str)
def test_an_axis_that_looks_like_another(shape, axis, warning, tmp_path, capsys):
    x = normal(*shape)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", x)
    found = stats(tmp_path, tmp_path / "x.npy", tmp_path / "y.npy", "--axis", axis)
    out, err = capsys.readouterr()
    assert err == (f"{tmp_path / 'x.npy'}: shape {shape} {warning}; --axis selects another axis\n" if warning else "")
    assert f"# channel axis {axis}; the first array has shape {shape}\n" in out
    assert (found["axis"], found["shape"]) == (axis, list(shape))


def test_the_shape_is_that_of_the_file(tmp_path):
    np.save(tmp_path / "x.npy", np.asfortranarray(normal(5, 6, 7)))
    assert stats(tmp_path, tmp_path / "x.npy", "--axis", 1)["shape"] == [5, 6, 7]


def test_many_channels_are_not_all_listed(tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.full((3, 2000), np.nan))
    found = stats(tmp_path, tmp_path / "x.npy")
    out, err = capsys.readouterr()
    assert err.endswith("x.npy: has NaN or Inf in channels 0, 1, 2, 3, 4, 5, 6, 7 and 1992 more\n")
    assert found["mean"] == [None] * 2000
    np.save(tmp_path / "x.npy", np.full((3, 2000), 7, np.uint8))
    stats(tmp_path, tmp_path / "x.npy")
    out, err = capsys.readouterr()
    assert "# no normalize = ...: channels 0, 1, 2, 3, 4, 5, 6, 7 and 1992 more are constant\n" in out


def test_the_work_is_proportional_to_the_channels_with_nan(monkeypatch):
    class Channel(int):
        compared = 0
        __hash__ = int.__hash__

        def __eq__(self, other):
            Channel.compared += 1
            return int(self) == int(other)

    monkeypatch.setattr(Tally, "spoilt", property(lambda tally: [Channel(channel) for channel in range(1000)]))
    tally = Tally.of(np.zeros((1, 1)), 1, 0, 1)
    assert State(total=tally).spoilt_since(tally) == []
    assert 1000 <= Channel.compared < 3000


def test_singular(tmp_path, capsys):
    for name, channels in (("x", 3), ("y", 1)):
        np.save(tmp_path / f"{name}.npy", normal(4, channels))
    assert main(["stats", str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]) == 1
    assert capsys.readouterr().err == f"{tmp_path / 'y.npy'}: has 1 channel; earlier inputs have 3\n"


def test_no_picture_and_no_json_where_nothing_can_be_written(tmp_path, capsys, monkeypatch):
    def refuse(**options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    np.save(tmp_path / "x.npy", normal(4, 3))
    for option in ("--json", "--plot"):
        with pytest.raises(SystemExit) as end:
            main(["stats", str(tmp_path / "x.npy"), option, str(tmp_path / "out.png")])
        assert end.value.code == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.endswith(f"argument {option}: {tmp_path / 'out.png'}: cannot be written: Permission denied\n")


# A process that may do no more than anybody, not even import modules, which a first run does therefore.
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
        # Nor does an output there end in more than a line.
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
    table = ["# interrupted: from a part of the inputs", "mean, std = (0.5,), (0.5,)"]
    said = ("interrupted after 0 inputs and a part of the next; the resume file "
            "fastbn-stats.resume: cannot be written: Permission denied")
    assert code == 130
    if json_out:
        assert out == ""
        assert err.splitlines()[:3] == [said, *table]
    else:
        assert err == f"{said}\n"
        assert out.splitlines()[:2] == table

"""fastbn stats on NumPy files of any layout, dtype and size, and its arguments."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest

import fastbn
from fastbn.__main__ import main
from fastbn.cli.stats.readers import grid
from tests.cli.stats.arrays import expect, normal, stats
from tests.process import PATIENCE, run, settings

# Sizes below, at and above a block of 4,096 bytes, and rows below, at and above a block of the extrema.
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


def test_members_that_do_not_fit_together(tmp_path):
    np.savez(tmp_path / "x.npz", images=normal(4, 3), labels=np.arange(4))
    assert stats(tmp_path, tmp_path / "x.npz", "--member", "images")["count"] == [4, 4, 4]


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_do_not_change_the_result(threads, tmp_path):
    np.save(tmp_path / "x.npy", normal(40000, 33))
    with fastbn.num_threads(1):
        wanted = stats(tmp_path, tmp_path / "x.npy")
    assert stats(tmp_path, tmp_path / "x.npy", "--threads", threads) == wanted


def command(*arguments, **options):
    """Run the command in a separate process, with bytes on standard input."""
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
    assert (done.returncode, done.stderr) == (2, b"standard input (-) can be read only once\n")


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
    (["x.npy", "--nodata", "-1e400"], "argument --nodata: expected a number in the range of float64, got '-1e400'"),
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


def test_members_without_an_archive(tmp_path, capsys):
    np.save(tmp_path / "x.npy", normal(4, 3))
    assert main(["stats", str(tmp_path / "x.npy"), "--member", "x"]) == 2
    assert capsys.readouterr() == ("", "--member selects arrays of .npz files, but no input is an .npz file\n")


def test_a_member_named_twice_counts_once(tmp_path):
    x = normal(4, 3)
    np.savez(tmp_path / "x.npz", x=x, y=normal(5, 3))
    expect(stats(tmp_path, tmp_path / "x.npz", "--member", "x", "--member", "x"), [x])


@pytest.mark.parametrize(("shape", "axis", "warning"), [
    ((2, 3, 8, 65), -1, "has 65 channels along axis -1, and 3 along axis 1"),
    ((65, 4), 0, "has 65 channels along axis 0, and 4 along axis 1"),
    ((2, 80, 70, 1), 1, "has 80 channels along axis 1, and 1 along axis 3"),
    ((2, 3, 8, 64), -1, ""), ((2, 3, 8, 65), 1, ""), ((2, 65, 8, 5), 1, ""),
], ids=str)
def test_an_axis_that_is_probably_wrong(shape, axis, warning, tmp_path, capsys):
    x = normal(*shape)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", x)
    found = stats(tmp_path, tmp_path / "x.npy", tmp_path / "y.npy", "--axis", axis)
    out, err = capsys.readouterr()
    assert err == (f"{tmp_path / 'x.npy'}: shape {shape} {warning}; --axis selects another axis\n" if warning else "")
    assert f"# channel axis {axis}; the first array has shape {shape}\n" in out
    assert (found["axis"], found["shape"]) == (axis, list(shape))


def test_one_channel_in_the_message(tmp_path, capsys):
    for name, channels in (("x", 3), ("y", 1)):
        np.save(tmp_path / f"{name}.npy", normal(4, channels))
    assert main(["stats", str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]) == 1
    assert capsys.readouterr().err == f"{tmp_path / 'y.npy'}: has 1 channel; earlier inputs have 3\n"

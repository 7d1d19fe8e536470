"""fastbn stats --nan and --nodata: missing values."""

import io
import signal

import numpy as np
import pytest

from fastbn.__main__ import main
from fastbn.cli.stats.counting import count as counting
from fastbn.cli.stats.counting.missing import equal, measure
from fastbn.cli.stats.readers import grid
from fastbn.cli.stats.settings import Missing
from tests import oracle
from tests.cli.stats.arrays import normal, same, stats


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(grid, "BLOCK_BYTES", 4096)


def expect(found, x, counted, axis=-1):
    """Compare with the exact statistics of the values that are not missing."""
    for channel in range(x.shape[axis]):
        values = np.take(x, channel, axis)[np.take(counted, channel, axis)].reshape(1, -1)
        assert found["count"][channel] == values.size
        assert found["omitted"][channel] == x.size // x.shape[axis] - values.size
        if not values.size:
            assert [found[key][channel] for key in ("mean", "std", "min", "max")] == [None] * 4
            continue
        mean, var = oracle.moments(values, 0)
        assert (found["min"][channel], found["max"][channel]) == (values.min(), values.max())
        np.testing.assert_allclose(found["mean"][channel], mean[0], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(found["std"][channel], np.sqrt(var[0]), rtol=1e-12, atol=1e-12)


def holes(shape, pattern):
    """A mask of missing values: single values, whole positions, a whole channel, or none."""
    rng = np.random.default_rng(7)
    missing = rng.random(shape) < 0.2
    if pattern == "positions":
        missing = np.broadcast_to(rng.random((*shape[:-1], 1)) < 0.2, shape)
    elif pattern == "channel":
        missing[..., 1] = True
    elif pattern == "none":
        missing[:] = False
    return missing


@pytest.mark.parametrize("pattern", ["values", "positions", "channel", "none"])
@pytest.mark.parametrize(("dtype", "value"), [
    ("float32", -9999), ("float64", 1e300), ("float16", 0.1), (">f4", -9999), ("int16", -32768), ("uint8", 0),
    ("uint16", 65535), ("int32", -2147483648), ("float32", np.nan),
    ("float32", float(np.finfo(np.float32).min)), ("float64", -np.inf)])
@pytest.mark.parametrize("axis", [-1, 1])
def test_nodata(dtype, value, axis, pattern, tmp_path):
    x = np.moveaxis(np.maximum(normal(40, 30, 3, dtype="float64") * 9, 1).astype(dtype), -1, axis)
    missing = np.moveaxis(holes((40, 30, 3), pattern), -1, axis)
    x[missing] = value
    np.save(tmp_path / "x.npy", x)
    found = stats(tmp_path, tmp_path / "x.npy", "--nodata", repr(value), "--axis", axis)
    expect(found, x, ~missing, axis)


@pytest.mark.parametrize("pattern", ["values", "positions", "channel", "none"])
@pytest.mark.parametrize("nodata", [[], ["--nodata", "-1"]], ids=["", "nodata"])
def test_nan_omit(nodata, pattern, tmp_path, capsys):
    x, missing = normal(400, 7, 3), holes((400, 7, 3), pattern)
    x[missing] = np.nan
    counted = ~missing
    if nodata:
        x[::5] = -1
        counted[::5] = False
    np.save(tmp_path / "x.npy", x)
    expect(stats(tmp_path, tmp_path / "x.npy", "--nan", "omit", *nodata), x, counted)
    assert capsys.readouterr().err == ""


def test_nan_propagates_by_default(tmp_path, capsys):
    x = normal(700, 3)
    x[5, 1], x[6, 2] = np.nan, -1
    np.save(tmp_path / "x.npy", x)
    for options in ([], ["--nan", "propagate"], ["--nodata", "-1"]):
        found = stats(tmp_path, tmp_path / "x.npy", *options)
        assert [value is None for value in found["mean"]] == [False, True, False]
        assert capsys.readouterr().err == f"{tmp_path / 'x.npy'}: has NaN or Inf in channel 1\n"
    assert found["count"] == [700, 700, 699]


def test_nan_raises(tmp_path, capsys):
    x, y = normal(700, 12), normal(700, 12)
    x[5, 1:11] = np.nan
    np.savez(tmp_path / "x.npz", x=x)
    np.save(tmp_path / "y.npy", y)
    arguments = ["stats", str(tmp_path / "y.npy"), str(tmp_path / "x.npz"), "--nan", "raise"]
    assert main(arguments) == 1
    reason = f"{tmp_path / 'x.npz'}: member 'x' has NaN in channels 1, 2, 3, 4, 5, 6, 7, 8 and 2 more\n"
    assert capsys.readouterr() == ("", reason)
    found = stats(tmp_path, *arguments[1:], "--on-error", "skip")
    assert found["count"] == [700] * 12
    assert capsys.readouterr().err == f"skipped: {reason}inputs counted: 1; skipped: 1\n"
    y[0, 0] = np.inf    # not a NaN
    np.save(tmp_path / "y.npy", y)
    assert stats(tmp_path, tmp_path / "y.npy", "--nan", "raise")["max"][0] is None
    x[5, 1:11] = -1
    x[6, 1] = np.nan
    np.save(tmp_path / "y.npy", np.where(np.isnan(x), -1, x))
    assert stats(tmp_path, tmp_path / "y.npy", "--nan", "raise", "--nodata", "-1")["count"][:3] == [700, 698, 699]


@pytest.mark.parametrize(("dtype", "value", "found"), [
    ("uint8", -9999, []), ("uint8", 256, []), ("uint8", 1.5, []), ("uint8", 3.0, [3]), ("uint8", np.inf, []),
    ("uint8", np.nan, []), ("int64", 2**63 - 1, [4]), ("uint64", 2**64 - 1, [4]), ("float16", 1e10, []),
    ("float32", 0.1, [2]), ("float32", np.inf, [4]), ("float32", 10**400, []), ("bool", 1, [1, 2, 3, 4]),
    ("bool", 2, []),
], ids=lambda value: str(value)[:20])
def test_equal(dtype, value, found):
    last = np.iinfo(dtype).max if np.dtype(dtype).kind in "iu" else np.inf
    x = np.array([0, 1, 2, 3, last], dtype)
    if np.dtype(dtype) == np.float32:
        x[2] = 0.1
    assert np.flatnonzero(equal(x, value)).tolist() == found


def test_integers_are_not_converted():
    x = np.array([[2**31 - 1, -5], [2**31 - 1, -5], [0, -5]], np.int32)
    found = measure(x, 1, Missing(nodata=0))
    assert (found.count.tolist(), found.mean.tolist(), found.var().tolist()) == ([2, 3], [2.0**31 - 1, -5], [0, 0])


def test_what_is_printed(tmp_path, capsys):
    x = np.array([[1, 9, 0], [3, 0, 0], [3, 9, 0]], np.uint8)
    np.save(tmp_path / "x.npy", x)
    assert main(["stats", str(tmp_path / "x.npy"), "--nodata", "0"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines() == [
        'mean, std = (2.33333333, 9, float("nan")), (0.942809042, 0, float("nan"))',
        "# normalize is omitted: channel 1 is constant; channel 2 has no values",
        "# channel axis -1; the first array has shape (3, 3)",
        "",
        "channel            count         omitted             min             max            mean             std",
        "      0                3               0               1               3      2.33333333     0.942809042",
        "      1                2               1               9               9               9               0",
        "      2                0               3             nan             nan             nan             nan",
    ]


@pytest.mark.parametrize(("options", "shown"), [
    (["--nan", "omit"], True), (["--nodata", "7"], True), (["--nan", "raise"], False), ([], False)], ids=str)
def test_the_table_has_the_numbers_omitted_if_there_can_be_any(options, shown, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.array([[1.0, 9.0], [3.0, 5.0]]))
    assert main(["stats", str(tmp_path / "x.npy"), *options]) == 0
    names, *rows = (line.split() for line in capsys.readouterr().out.splitlines()[-3:])
    assert names == ["channel", "count", *["omitted"] * shown, "min", "max", "mean", "std"]
    assert [row[:3] for row in rows] == ([["0", "2", "0"], ["1", "2", "0"]] if shown else
                                         [["0", "2", "1"], ["1", "2", "5"]])


@pytest.mark.parametrize("nodata", [-9999, np.nan], ids=str)
@pytest.mark.parametrize("source", ["C order", "F order", "archive", "standard input", "inputs"])
def test_every_source_counts_as_numpy_does(source, nodata, tmp_path, monkeypatch):
    x = normal(300, 7, 3)
    missing = holes(x.shape, "values")
    x[missing] = nodata
    paths = [tmp_path / "x.npy"]
    np.save(paths[0], np.asfortranarray(x) if source == "F order" else x)
    if source == "archive":
        paths = [tmp_path / "x.npz"]
        np.savez_compressed(paths[0], a=x[:120], b=x[120:])
    elif source == "inputs":
        paths = [tmp_path / "a.npy", tmp_path / "b.npy"]
        np.save(paths[0], x[:1])
        np.save(paths[1], x[1:])
    elif source == "standard input":
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(paths[0].read_bytes())))
        paths = ["-"]
    found = stats(tmp_path, *paths, *(["--nan", "omit"] if np.isnan(nodata) else ["--nodata", nodata]))
    kept = np.ma.masked_array(x.astype(np.float64), missing)
    holed = kept.filled(np.nan)
    assert found["count"] == kept.count(axis=(0, 1)).tolist()
    assert found["omitted"] == missing.sum(axis=(0, 1)).tolist()
    for name, masked, with_nan in (("mean", kept.mean, np.nanmean), ("std", kept.std, np.nanstd)):
        np.testing.assert_allclose(found[name], masked(axis=(0, 1)), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(found[name], with_nan(holed, axis=(0, 1)), rtol=1e-12, atol=1e-14)
    assert found["min"] == kept.min(axis=(0, 1)).tolist()
    assert found["max"] == kept.max(axis=(0, 1)).tolist()


def test_the_numbers_omitted_of_the_last_blocks(tmp_path):
    # A block has a part of the channels, and its own number of values.
    x = np.zeros((1, 5000), np.float64)
    x[0, ::3], x[0, 4999] = np.nan, 1
    np.save(tmp_path / "x.npy", x)
    found = stats(tmp_path, tmp_path / "x.npy", "--nan", "omit")
    assert found["omitted"] == np.isnan(x[0]).astype(int).tolist()
    assert found["count"] == (1 - np.isnan(x[0])).astype(int).tolist()


@pytest.mark.parametrize("options", [["--nan", "omit"], ["--nodata", "-1"], ["--nodata", "nan"]], ids=str)
def test_a_resumed_run_needs_the_same_options(options, tmp_path, monkeypatch, capsys, heard_signals):
    x = normal(3000, 3)
    x[::7, 1] = -1 if "-1" in options else np.nan
    np.save(tmp_path / "x.npy", x)
    wanted = stats(tmp_path, tmp_path / "x.npy", *options)
    monkeypatch.chdir(tmp_path)

    def interrupted(*arguments):
        for number, state in enumerate(counting.count(*arguments)):
            yield state
            if number == 3:
                signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr("fastbn.cli.stats.run.count", interrupted)
        assert main(["stats", "x.npy", *options]) == 143
    capsys.readouterr()
    assert main(["stats", "x.npy", "--resume", "fastbn-stats.resume"]) == 1
    message = {"--nan": "treatment of NaN omit; this run has propagate",
               "--nodata": f"nodata {options[1]}; this run has None"}[options[0]]
    assert capsys.readouterr().err == f"fastbn-stats.resume: was written with {message}\n"
    same(stats(tmp_path, "x.npy", *options, "--resume", "fastbn-stats.resume"), wanted)


def test_a_second_value_is_an_error(tmp_path, capsys):
    np.save(tmp_path / "x.npy", normal(4, 3))
    with pytest.raises(SystemExit) as ending:
        main(["stats", str(tmp_path / "x.npy"), "--nodata", "0", "--nodata=-9"])
    assert ending.value.code == 2
    assert "argument --nodata: given twice; expected one value" in capsys.readouterr().err

"""The output of fastbn stats: lines of Python, the table, JSON, and warnings."""

import errno
import json
import os
import sys

import numpy as np
import pytest

import fastbn
from fastbn.__main__ import main
from fastbn.cli import console
from fastbn.cli.stats.counting.count import State
from fastbn.cli.stats.counting.tally import Tally
from tests.cli.stats.arrays import normal, stats


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


def test_only_bytes_are_scaled(tmp_path):
    x = normal(100, 3, dtype="uint8")
    np.save(tmp_path / "x.npy", x)
    scaled = stats(tmp_path, tmp_path / "x.npy")["scaled"]
    assert scaled["scale"] == 1 / 255
    np.testing.assert_allclose(scaled["mean"], (x / 255).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(scaled["std"], (x / 255).std(axis=0), rtol=1e-12)


def test_channels_that_are_not_finite_are_named_and_null(tmp_path, capsys):
    x, y = normal(600, 4), normal(600, 4, seed=1)
    y[5, 1], y[7, 3], y[8, 3] = np.nan, np.inf, -np.inf
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    found = stats(tmp_path, tmp_path / "x.npy", tmp_path / "y.npy", tmp_path / "y.npy")
    assert capsys.readouterr().err == f"{tmp_path / 'y.npy'}: has NaN or Inf in channels 1, 3\n"
    for key in ("mean", "std", "min", "max"):
        assert [value is None for value in found[key]] == [False, True, False, True], key
    assert found["count"] == [1800] * 4


def test_json_on_a_full_disk(tmp_path, monkeypatch, capsys):
    np.save(tmp_path / "x.npy", normal(4, 3))

    def full(path, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(console, "replace", full)
    assert main(["stats", str(tmp_path / "x.npy"), "--json", str(tmp_path / "out.json")]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("mean, std = (")
    assert err == f"{tmp_path / 'out.json'}: cannot be written: No space left on device\n"


def test_json_on_standard_output_is_the_only_output(tmp_path, capsys):
    np.save(tmp_path / "x.npy", normal(4, 3))
    assert main(["stats", str(tmp_path / "x.npy"), "--json", "-"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == stats(tmp_path, tmp_path / "x.npy")
    assert err == ""


def test_a_file_named_like_standard_output(tmp_path, monkeypatch, capsys):
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


@pytest.mark.parametrize(("x", "lines"), [
    (np.array([[0, 7, 1], [2, 7, 3]], np.uint8),
     ["mean, std = (1, 7, 2), (1, 0, 1)", "# normalize is omitted: channel 1 is constant"]),
    (np.array([[0, np.nan], [2, 1]]), ['mean, std = (1, float("nan")), (1, float("nan"))']),
    (np.array([[0, np.inf], [2, 1]]), ['mean, std = (1, float("nan")), (1, float("nan"))']),
    (np.array([[0, 51], [102, 255]], np.uint8), [
        "mean, std = (51, 153), (51, 102)",
        "normalize = fastbn.ChannelAffine.from_mean_std((0.2, 0.6), (0.2, 0.4))  # of values / 255"]),
], ids=["constant", "NaN", "Inf", "bytes"])
def test_lines_for_special_values_are_python(x, lines, tmp_path, capsys):
    np.save(tmp_path / "x.npy", x)
    assert main(["stats", str(tmp_path / "x.npy")]) == 0
    printed = capsys.readouterr().out.partition("\n\n")[0]
    assert printed.splitlines() == [*lines, f"# channel axis -1; the first array has shape {x.shape}"]
    names = {"fastbn": fastbn}
    exec(printed, names)
    np.testing.assert_allclose(names["std"][0], x[:, 0].std())


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
    assert "# normalize is omitted: channels 0, 1, 2, 3, 4, 5, 6, 7 and 1992 more are constant\n" in out


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


def test_outputs_that_cannot_be_written(tmp_path, capsys, monkeypatch):
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

"""What the extra "population" brings: a progress bar, and the picture of a report."""

import io
import sys

import numpy as np
import pytest

from fastbn import BatchNorm, population_statistics

BATCHES = [np.random.default_rng(k).normal(k, 1, (6, 3)) for k in range(4)]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("progress", "terminal", "shown"), [
    (None, True, True), (None, False, False), (True, True, True), (True, False, True), (False, True, False)])
def test_progress_bar(progress, terminal, shown, monkeypatch):
    pytest.importorskip("tqdm", reason="the interop extra is not installed: no tqdm")
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    bn = BatchNorm(3)
    population_statistics(bn, BATCHES, bn, progress=progress)
    assert ("4/4" in stream.getvalue()) is shown
    assert bn.num_batches_tracked == 4


@pytest.mark.parametrize("live", [False, True], ids=["stored", "with a batch"])
@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_picture(suffix, live, tmp_path):
    pytest.importorskip("matplotlib", reason="the interop extra is not installed: no matplotlib")
    bn = BatchNorm(8)
    for x in BATCHES:
        bn(np.concatenate([x, x, x[:, :2]], axis=1))
    healthy = tmp_path / f"healthy{suffix}"
    bn.report().plot(healthy)
    bn.gamma[1], bn.running_var[2], bn.running_var[3], bn.running_mean[4] = 0, np.nan, -1, 1e38
    report = bn.report(np.random.default_rng(0).normal(0, 1, (9, 8)) if live else None)
    path = tmp_path / f"layer{suffix}"
    report.plot(path)
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG" if suffix == ".png" else b"<?xml")
    assert data != healthy.read_bytes()
    if suffix == ".svg":
        text = data.decode()
        # Text is kept in comments; a mark for each kind of trouble, and the third panel only with a batch.
        for word in ("dead", "NaN", "negative variance", "saturated", "Scale, |gamma| / sqrt(var + eps)"):
            assert f"<!-- {word} -->" in text, word
        assert ("<!-- Drift of the batch, nats -->" in text) is live
        assert "<!-- dead -->" not in healthy.read_text()


@pytest.mark.parametrize("channels", [1, 300])
def test_picture_of_few_and_of_many_channels(channels, tmp_path):
    pytest.importorskip("matplotlib", reason="the interop extra is not installed: no matplotlib")
    bn = BatchNorm(channels)
    bn.gamma[...] = 0
    bn.report(np.zeros((4, channels))).plot(tmp_path / "layer.png")
    assert (tmp_path / "layer.png").stat().st_size > 1000

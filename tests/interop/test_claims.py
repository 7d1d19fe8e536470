"""The claims: short runs of their scripts, the numbers that were measured, and the page that has them."""

import json

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the demo extra is not installed: no scikit-learn")
pytest.importorskip("matplotlib", reason="the demo extra is not installed: no matplotlib")

from examples.claims.__main__ import CLAIMS, main, page, read
from examples.claims.batch_noise import power
from examples.claims.claim import RESULTS, SHORT, run
from examples.claims.effect import paired
from examples.claims.gradient_flow import growth

MEASURED = read(RESULTS)


@pytest.mark.parametrize("name", CLAIMS)
def test_a_short_run(name, tmp_path):
    numbers = run(CLAIMS[name], SHORT, tmp_path)
    assert (tmp_path / f"{name}.png").stat().st_size > 5000
    assert (tmp_path / f"{name}.json").stat().st_size > 100
    assert set(CLAIMS[name].values(numbers)) == set(CLAIMS[name].values(MEASURED[name]))


@pytest.mark.parametrize("name", ["identity", "redundant_bias", "weight_scale", "gradient_flow"])
def test_what_does_not_depend_on_training_is_exact_in_a_short_run(name, tmp_path):
    numbers = run(CLAIMS[name], SHORT, tmp_path)
    if name == "identity":
        assert max(numbers["exact"]) < 2
    elif name == "redundant_bias":
        assert max(numbers["moved"]) < 1e-5
        assert max(numbers["fold"]) < 1e-5
    elif name == "weight_scale":
        assert max(rows[1][k] for rows in numbers["differences"].values() for k in range(13)) < 1e-12
        assert max(numbers["differences"]["y"][0][6:]) < 1e-4      # a of 1 and more
    else:
        curves = numbers["norms"]
        assert growth(curves["double"]["without"]) == pytest.approx(2, rel=0.05)
        np.testing.assert_allclose(*(curves[s]["with batch norm"] for s in ("half", "double")), rtol=0.2)     # by eps


def test_the_page_has_the_measured_numbers():
    assert page(MEASURED) == RESULTS.with_suffix(".md").read_text()


@pytest.mark.parametrize("name", CLAIMS)
def test_each_was_measured_over_five_seeds_in_two_minutes(name):
    measured = MEASURED[name]["run"]
    assert measured["seeds"] >= 5
    assert not measured["short"]
    assert measured["seconds"] < 120
    assert (RESULTS / f"{name}.png").stat().st_size > 5000


def test_an_unknown_claim_is_an_error(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["claims", "family", "faster"])
    with pytest.raises(SystemExit) as ending:
        main()
    assert ending.value.code == 2
    assert "there is no claim 'faster'; expected faster_training, " in capsys.readouterr().err


def test_a_short_run_does_not_replace_measured_numbers(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = (RESULTS / "identity.json").read_text()
    monkeypatch.setattr("sys.argv", ["claims", "identity", "--short"])
    assert main() == 0
    assert (RESULTS / "identity.json").read_text() == before
    assert (tmp_path / "claims" / "identity.json").exists()
    assert capsys.readouterr().out.startswith("claims/identity.png, ")


def test_the_page_takes_no_names(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["claims", "--page", "identity"])
    with pytest.raises(SystemExit) as ending:
        main()
    assert ending.value.code == 2
    assert "--page measures nothing; expected no names, got identity" in capsys.readouterr().err


def test_a_goal_that_was_not_reached_is_no_number(tmp_path):
    numbers = run(CLAIMS["faster_training"], SHORT, tmp_path)
    assert None in numbers["mlp"]["first"][1]       # a tenth of the steps without batch norm
    assert json.loads((tmp_path / "faster_training.json").read_text()) == numbers
    text = CLAIMS["faster_training"].values(numbers)
    assert text["mlp_without"] == text["mlp_speed"] == "unknown, because not all seeds have a value"


def test_effects_without_a_spread():
    assert paired([1, 1], [1, 1]) == (0, 0, 0, 0)
    assert paired([2, 2], [1, 1]).size == np.inf


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setattr("sys.argv", ["claims", "identity", "--out", str(tmp_path / "file")])
    with pytest.raises(SystemExit) as ending:
        main()
    assert ending.value.code == 2
    assert "is no folder, and cannot be made: File exists" in capsys.readouterr().err


def mean(values):
    return float(np.mean(values))


def test_faster_training():
    numbers = MEASURED["faster_training"]
    for name, factor in (("mlp", 10), ("cnn", 1.3)):
        with_, without = map(np.array, numbers[name]["first"])
        assert (without / with_ > factor).all()
        rates = numbers[name]["largest rate"]
        assert min(rates[0]) >= 2 * max(rates[1])


def test_initialization():
    numbers = MEASURED["initialization"]
    assert np.min(numbers["with"]) > 88
    assert mean(np.array(numbers["without"])[:, [0, 1, -1]]) < 30


def test_weight_scale():
    numbers = MEASURED["weight_scale"]
    assert max(max(rows[1]) for rows in numbers["differences"].values()) < 1e-13
    without, with_ = (np.array(group)[:, -1] / np.array(group)[:, 0] for group in numbers["norms"])
    assert (without > 1).all()
    assert (with_ < 0.8).all()


def test_redundant_bias():
    numbers = MEASURED["redundant_bias"]
    assert np.max(numbers["bias"]) < 1e-5 * np.max(numbers["beta"])
    assert max(numbers["moved"]) < 1e-5
    assert numbers["same"] == numbers["of"]


def test_identity():
    numbers = MEASURED["identity"]
    assert max(numbers["exact"]) < 1
    assert np.array(numbers["learned"])[:, :2, -1].max() < 1e-5


def test_ignored_gradient():
    right, wrong = (np.array(MEASURED["ignored_gradient"][name]) for name in ("right", "ignoring"))
    half = wrong.shape[2] // 2
    assert (np.abs(wrong[:, 0, -1] / wrong[:, 0, half] - 1) < 0.01).all()       # the loss stands still
    assert (wrong[:, 1:, -1] > 1.3 * wrong[:, 1:, half]).all()                  # the norms grow
    assert (right[:, 0, -1] < wrong[:, 0, -1]).all()
    assert right[:, 2].max() < 1e-4


def test_whitening_cost():
    numbers = MEASURED["whitening_cost"]
    correlation = {name: mean(values) for name, values in numbers["correlation"].items()}
    assert correlation["batch norm"] == pytest.approx(correlation["input"], rel=1e-3)
    assert correlation["whitening, ZCA"] < 0.01
    ratios = np.array(numbers["times"]["whitening, ZCA"]) / numbers["times"]["batch norm"]
    assert 2 < ratios[0] < ratios[-1] / 2


def test_batch_noise():
    numbers = MEASURED["batch_noise"]
    noise = np.array(numbers["spread"]).mean(axis=0)
    assert (np.diff(noise) < 0).all()
    assert -0.6 < power(numbers["sizes"], noise) < -0.4
    assert paired(numbers["test"]["batch norm"], numbers["test"]["neither"]).low > 0


def test_batch_size():
    errors = {name: np.array(rows) for name, rows in MEASURED["batch_size"]["errors"].items()}
    assert paired(errors["batch norm"][0], errors["group norm"][0]).low > 10
    assert errors["batch norm"][1:].mean() < 15


def test_inference():
    drifted = MEASURED["inference"]["sorted at the end"]
    accuracy = {name: mean(values["accuracy"]) for name, values in drifted.items()}
    assert accuracy["population statistics"] - accuracy["momentum 1"] > 5
    assert accuracy["population statistics"] - accuracy["cumulative"] < 1


def test_dependent_batches():
    numbers = MEASURED["dependent_batches"]
    assert paired(numbers["noise"]["adapt, n0 = 16"], numbers["noise"]["stored statistics"]).low > 5
    contrast = {name: mean(values) for name, values in numbers["half the contrast"].items()}
    assert contrast["stored statistics"] < 50 < 95 < contrast["adapt, n0 = 16"]


def test_covariate_shift():
    with_, without, noisy = (
        {name: np.array(curves).mean(axis=1) for name, curves in MEASURED["covariate_shift"][kind].items()}
        for kind in ("with batch norm", "without", "batch norm and noise"))
    assert (with_["drift"] < 0.2 * without["drift"]).all()
    assert (noisy["shift"] > without["shift"]).all()
    assert paired(noisy["accuracy"], without["accuracy"]).low > 0
    assert (with_["change"] < without["change"]).all()


def test_gradient_flow():
    norms = MEASURED["gradient_flow"]["norms"]
    for name, scale in (("half", 0.5), ("He", 1), ("double", 2)):
        assert growth(norms[name]["without"]) == pytest.approx(scale, rel=0.03)
        assert growth(norms[name]["with batch norm"]) == pytest.approx(np.sqrt(np.pi / (np.pi - 1)), rel=0.02)
        assert 1 < growth(norms[name]["batch norm and shortcuts"]) < 1.15


def test_family():
    numbers = MEASURED["family"]["digits, convolutions"]
    assert paired(numbers["batch norm"], numbers["none"]).low > 0
    assert max(numbers, key=lambda name: mean(numbers[name])) == "batch norm"
    for task in ("wine", "breast cancer"):      # no difference
        table = MEASURED["family"][task]
        for name in table.keys() - {"none"}:
            effect = paired(table[name], table["none"])
            assert effect.low <= 0 <= effect.high

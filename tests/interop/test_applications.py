"""The applications: their numbers."""

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the demo extra is not installed: no scikit-learn")
pytest.importorskip("matplotlib", reason="the demo extra is not installed: no matplotlib")

from examples.applications import autoencoder, dcgan, mlp, residual_cnn, rnn, tabular
from examples.applications.result import main


@pytest.fixture(autouse=True)
def one_thread():
    """As in the scripts, whose matrices are small."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        yield


def numbers(module, tmp_path, **options):
    """The numbers of an application, after its picture has been written."""
    result = module.application(0, **options)
    result.figure.savefig(tmp_path / "result.png")
    assert (tmp_path / "result.png").stat().st_size > 5000
    return result.numbers


@pytest.mark.parametrize(("arguments", "message"), [
    (["--seed", "-1"], "expected an integer of at least 0, got '-1'"),
    (["--out", "x.jpg"], "expected a path that ends in .png or .pdf or .svg, got 'x.jpg'"),
    (["--out", "nowhere/x.png"], "there is no folder 'nowhere'")])
def test_wrong_arguments_are_refused_before_training(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["mlp", *arguments])
    with pytest.raises(SystemExit) as ending:
        main("mlp.py", "", lambda *_: pytest.fail("it has begun"))
    assert ending.value.code == 2
    assert message in capsys.readouterr().err


def test_a_script(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["mlp", "--short", "--out", str(tmp_path / "x.png")])
    assert main("mlp.py", "", mlp.application) == 0
    assert capsys.readouterr().out.startswith("wine: test accuracy in %: ")
    assert (tmp_path / "x.png").exists()


def test_mlp(tmp_path):
    found = numbers(mlp, tmp_path)
    assert found["wine: test accuracy in %"] >= 95
    assert found["breast_cancer: test accuracy in %"] >= 94


def test_residual_cnn(tmp_path):
    assert numbers(residual_cnn, tmp_path)["test accuracy in %"] >= 98


def test_rnn(tmp_path):
    found = numbers(rnn, tmp_path)
    assert found["batch norm: test accuracy in %"] >= 90
    assert found["layer norm: test accuracy in %"] >= 90


@pytest.mark.parametrize("kind", ["batch norm", "layer norm", "none"])
def test_gradients_of_the_recurrent_network(kind):
    rng = np.random.default_rng(0)
    model, x, lengths = rnn.Recurrent(kind, rng), rng.normal(size=(5, 8, 8)), np.array([8, 4, 5, 7, 6])
    dlogits = rng.normal(size=(5, 10))
    model(x, lengths)
    model.backward(dlogits)
    for parameter in model.parameters():
        index = tuple(rng.integers(length) for length in parameter.value.shape)
        gradient, kept, found = float(parameter.gradient()[index]), parameter.value[index], []
        for sign in (1, -1):
            parameter.value[index] = kept + sign * 1e-2
            found.append((float(parameter.value[index]), float((model(x, lengths) * dlogits).sum())))
        parameter.value[index] = kept
        slope = (found[0][1] - found[1][1]) / (found[0][0] - found[1][0])
        assert slope == pytest.approx(gradient, rel=0.02, abs=0.02)


def test_autoencoder(tmp_path):
    found = numbers(autoencoder, tmp_path)
    assert found["digits, code of 12 numbers: share of the variance that is lost"] < 0.2
    for name, most in (("digits", 0.3), ("photographs", 0.15)):
        assert found[f"{name}: squared error of the result, relative to that of the noisy input"] < most


def test_tabular(tmp_path):
    assert numbers(tabular, tmp_path)["network: explained variance of the test set in %"] > 35


def test_dcgan(tmp_path):
    found = numbers(dcgan, tmp_path)
    apart, together = (found[f"{name}: distance of generated digits to test digits"] for name in ("apart", "together"))
    assert apart < 0.4
    assert together > 1.5 * apart
    assert found["apart: share of the rarest digit in %"] > 2

"""Layers from and to Keras 3, with its torch backend."""

import os

import numpy as np
import pytest

pytest.importorskip("torch", reason="the interop extra is not installed: no torch")
os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras", reason="the interop extra is not installed: no keras")

from fastbn import BatchNorm  # noqa: E402
from fastbn.checkpoints import convert  # noqa: E402
from tests import oracle  # noqa: E402
from tests.compare import close, same_bits  # noqa: E402

# Keras converts torch tensors to NumPy in this way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

OPTIONS = {
    "default": {},
    "settings": {"epsilon": 1e-5, "momentum": 0.75},
    "no center": {"center": False},
    "no scale": {"scale": False},
    "neither": {"center": False, "scale": False},
    "channels first": {"axis": 1},
    "float64": {"dtype": "float64"},
    "mixed": {"dtype": "mixed_float16"},
}


def batch(seed):
    return np.random.default_rng(seed).normal(seed % 3, 2, (6, 5, 7, 5))


def trained(**options):
    """Return a layer with non-default parameters after three batches."""
    layer = keras.layers.BatchNormalization(**options)
    layer.build((None, 5, 7, 5))
    if layer.gamma is not None:
        layer.gamma.assign(np.linspace(0.5, 2, 5))
    if layer.beta is not None:
        layer.beta.assign(np.linspace(-1, 1, 5))
    for seed in range(3):
        layer(batch(seed).astype("float32"), training=True)
    return layer


def array(tensor):
    return keras.ops.convert_to_numpy(tensor)


@pytest.mark.parametrize("options", OPTIONS)
def test_from_keras(options):
    theirs = trained(**OPTIONS[options])
    ours = BatchNorm.from_keras(theirs)
    assert (ours.axis, ours.eps, ours.unbiased, ours.training) == (theirs.axis, theirs.epsilon, False, True)
    assert ours.momentum == pytest.approx(1 - theirs.momentum, abs=1e-15)
    assert (ours.scale, ours.center) == (theirs.scale, theirs.center)
    assert ours.dtype == ("float64" if options == "float64" else "float32")
    np.testing.assert_array_equal(ours.running_var, array(theirs.moving_variance))
    if options == "mixed":      # y is float16
        return
    x = batch(9).astype(ours.dtype)
    y = ours.eval()(x)
    gamma, beta, mean, var = (None if v is None else array(v) for v in (
        theirs.gamma, theirs.beta, theirs.moving_mean, theirs.moving_variance))
    close(y, oracle.forward(x, gamma, beta, axis=theirs.axis, mean=mean, var=var, eps=theirs.epsilon).y, ours.dtype)
    # Keras computes in float32 for every dtype of the layer.
    close(y.astype(np.float32), array(theirs(x, training=False)), np.float32)


@pytest.mark.parametrize("options", ["default", "settings", "channels first", "no center", "no scale", "neither"])
def test_training_goes_on(options):
    theirs = trained(**OPTIONS[options])
    ours = BatchNorm.from_keras(theirs)
    for seed in range(3, 6):
        x = batch(seed).astype("float32")
        theirs(x, training=True)
        ours(x)
    np.testing.assert_allclose(ours.running_mean, array(theirs.moving_mean), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours.running_var, array(theirs.moving_variance), rtol=1e-5)


@pytest.mark.parametrize("unbiased", [True, False])
def test_to_keras(unbiased):
    ours = BatchNorm(5, axis=-1, eps=1e-3, unbiased=unbiased)
    ours.gamma[...] = np.linspace(0.5, 2, 5)
    for seed in range(3):
        ours(batch(seed).astype("float32"))
    theirs = keras.layers.BatchNormalization()
    theirs.build((None, 5, 7, 5))
    # Evaluation gives the same result if the variance is unchanged.
    theirs.set_weights(list(convert(ours.state_dict(), "fastbn", "keras", keep_variance=True).values()))
    x = batch(9).astype("float32")
    close(ours.eval()(x), array(theirs(x, training=False)), np.float32)
    back = BatchNorm.from_keras(theirs)
    same_bits(back.running_var, ours.running_var)
    same_bits(back.gamma, ours.gamma)


def test_weights_in_files(tmp_path):
    theirs = trained()
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    np.savez(tmp_path / "weights.npz", **{f"bn/{name}": array(getattr(theirs, name)) for name in names})
    ours = BatchNorm.load(tmp_path / "weights.npz", prefix="bn/", convention="keras")
    assert (ours.axis, ours.eps, ours.momentum, ours.unbiased) == (-1, 1e-3, 0.01, False)
    x = batch(9).astype("float32")
    close(ours.eval()(x), array(theirs(x, training=False)), np.float32)


def test_a_frozen_layer_evaluates():
    theirs = trained()
    theirs.trainable = False
    assert BatchNorm.from_keras(theirs).training is False


class Act(keras.layers.BatchNormalization):
    def call(self, inputs, training=None, mask=None):
        return keras.ops.relu(super().call(inputs, training=training, mask=mask))


class Named(keras.layers.BatchNormalization):
    """A subclass without overrides."""


def test_an_overridden_call_is_refused():
    layer = Act()
    layer.build((None, 5))
    with pytest.raises(TypeError, match="layer of class Act overrides call, so its result may differ from that of "
                                        "BatchNormalization"):
        BatchNorm.from_keras(layer)
    layer = Named()
    layer.build((None, 5))
    assert BatchNorm.from_keras(layer).num_features == 5


BAD_LAYERS = {
    "not built": (lambda: keras.layers.BatchNormalization(), ValueError, "layer is not built"),
    "other layer": (lambda: keras.layers.LayerNormalization(), TypeError, "of Keras 3, got LayerNormalization"),
    "a class": (lambda: keras.layers.BatchNormalization, TypeError, "of Keras 3, got "),
    "None": (lambda: None, TypeError, "of Keras 3, got NoneType"),
}


@pytest.mark.parametrize("name", BAD_LAYERS)
def test_bad_layers(name):
    make, error, message = BAD_LAYERS[name]
    with pytest.raises(error, match=message):
        BatchNorm.from_keras(make())


def test_renormalization():
    layer = keras.layers.BatchNormalization()
    if "renorm" not in layer.get_config():
        pytest.skip("this Keras has no renormalization")
    layer = keras.layers.BatchNormalization(renorm=True)
    layer.build((None, 5))
    with pytest.raises(ValueError, match="layer has renorm=True"):
        BatchNorm.from_keras(layer)

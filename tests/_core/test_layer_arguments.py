"""Kernels of layer norm and RMS norm over rows: arguments that do not fit raise before anything is written."""

import numpy as np
import pytest

from fastbn._core import views
from fastbn._core.dispatch import kernels
from tests.row_norms import values

X, DY, GAMMA, BETA = values(6, 65, np.float32)
ROWS = views.view(X, 1)
STATISTICS = kernels.layer_forward(ROWS, views.output(ROWS), None, None, 1e-5, about_zero=False, num_threads=1)


def untouched(call, **arguments):
    """The call must raise with y or dx as it was; it returns the error."""
    out = np.full(X.shape, 7, np.float32)
    name = "dx" if call is kernels.layer_backward else "y"
    arguments.setdefault(name, views.view(out, 1))
    with pytest.raises((TypeError, ValueError)) as error:
        call(**arguments)
    assert (out == 7).all()
    return error.type.__name__ + ": " + str(error.value)


def of_forward(call, **changes):
    arguments = {"x": ROWS, "gamma": GAMMA, "beta": BETA, "eps": 1e-5, "about_zero": False, "num_threads": 1}
    return untouched(call, **(arguments | changes))


def of_backward(**changes):
    arguments = {"dy": views.view(DY, 1), "x": ROWS, "statistics": STATISTICS, "gamma": GAMMA, "num_threads": 1}
    return untouched(kernels.layer_backward, **(arguments | changes))


def read_only():
    array = X.copy()
    array.flags.writeable = False
    return views.view(array, 1)


OTHERS = {
    "longer": views.view(np.zeros((7, 65), np.float32), 1),
    "wider": views.view(np.zeros((6, 66), np.float32), 1),
    "double": views.view(X.astype(np.float64), 1),
    "half": views.view(X.astype(np.float16), 1),
    "planes": views.view(np.zeros((6, 65, 2), np.float32), 1),
}
EMPTY = [views.view(np.zeros(shape, np.float32), 1) for shape in ((0, 65), (6, 0))]


@pytest.mark.parametrize("call", [kernels.layer_forward, kernels.layer_inference])
@pytest.mark.parametrize(("changes", "message"), [
    ({"gamma": GAMMA[:-1]}, r"ValueError: gamma has shape (64,); expected (65,)"),
    ({"beta": np.zeros((65, 1))}, r"ValueError: beta has shape (65, 1); expected (65,)"),
    ({"gamma": GAMMA.astype(np.int64)}, r"TypeError: gamma has dtype int64; expected float32 or float64"),
    ({"beta": BETA.astype(np.float16)}, r"TypeError: beta has dtype float16; expected float32 or float64"),
    ({"y": read_only()}, r"ValueError: y is read-only"),
    ({"x": OTHERS["planes"]}, r"ValueError: x must be rows"),
    ({"x": views.view(np.ones((6, 65), np.uint8), 1, statistics=True)}, r"TypeError: x has dtype uint8"),
    ({"x": None}, r"TypeError: Argument 'x' has incorrect type"),
    ({"y": None}, r"TypeError: Argument 'y' has incorrect type"),
], ids=str)
def test_forward(call, changes, message):
    assert of_forward(call, **changes).startswith(message)


@pytest.mark.parametrize("call", [kernels.layer_forward, kernels.layer_inference])
@pytest.mark.parametrize("other", OTHERS)
def test_an_output_that_is_not_like_x(call, other):
    assert of_forward(call, y=OTHERS[other]).startswith("ValueError: y does not have the shape, the dtype")


@pytest.mark.parametrize("empty", EMPTY)
def test_an_empty_view(empty):
    for call in (kernels.layer_forward, kernels.layer_inference):
        assert of_forward(call, x=empty).startswith("ValueError: x is empty")
    assert of_backward(x=empty).startswith("ValueError: x is empty")


def test_chosen_rows():
    chosen = views.view(np.ones((100, 64), np.float32), 1)
    assert views.choose(chosen, np.array([0, 99]))
    assert of_forward(kernels.layer_forward, x=chosen).startswith("ValueError: x must be rows without a choice")
    assert of_backward(x=chosen).startswith("ValueError: x must be rows without a choice")


@pytest.mark.parametrize("other", OTHERS)
def test_gradients_that_are_not_like_x(other):
    assert of_backward(dy=OTHERS[other]).startswith("ValueError: dy does not have the shape, the dtype")
    assert of_backward(dx=OTHERS[other]).startswith("ValueError: dx does not have the shape, the dtype")


MEAN, LOW, RSTD = STATISTICS


@pytest.mark.parametrize(("changes", "message"), [
    ({"dx": read_only()}, "ValueError: dx is read-only"),
    ({"gamma": GAMMA[:-1]}, "ValueError: gamma has shape (64,); expected (65,)"),
    ({"gamma": GAMMA > 1}, "TypeError: gamma has dtype bool; expected float32 or float64"),
    ({"statistics": (MEAN, RSTD)}, "ValueError: statistics must be (mean, low, rstd), got 2 values"),
    ({"statistics": (MEAN, LOW, None)}, "TypeError: rstd must be a numpy.ndarray, got NoneType"),
    ({"statistics": (MEAN, None, RSTD)}, "TypeError: mean_low must be a numpy.ndarray, got NoneType"),
    ({"statistics": (MEAN[:-1], LOW, RSTD)}, "ValueError: mean must be contiguous, aligned and of shape (6,)"),
    ({"statistics": (MEAN, LOW, np.repeat(RSTD, 2)[::2])}, "ValueError: rstd must be contiguous, aligned"),
    ({"statistics": (MEAN, LOW.astype(np.float32), RSTD)}, "TypeError: mean_low has dtype float32; expected float64"),
    ({"statistics": (MEAN, LOW, list(RSTD))}, "TypeError: rstd must be a numpy.ndarray, got list"),
    ({"statistics": None}, "TypeError: Argument 'statistics' has incorrect type"),
    ({"dy": None}, "TypeError: Argument 'dy' has incorrect type"),
], ids=str)
def test_backward(changes, message):
    assert of_backward(**changes).startswith(message)


RELU, SILU = (1, 0.0), (7, 0.0)
BITS = np.zeros(6 * 5, np.uint16)


@pytest.mark.parametrize("other", OTHERS)
def test_a_residual_that_is_not_like_x(other):
    for call in (kernels.layer_forward, kernels.layer_inference):
        assert of_forward(call, residual=OTHERS[other]).startswith("ValueError: residual does not have the shape")
    assert of_backward(dresidual=OTHERS[other]).startswith("ValueError: dresidual does not have the shape")


@pytest.mark.parametrize(("changes", "message"), [
    ({"activation": (14, 0.0)}, "ValueError: activation has the code 14; expected 0 to 13"),
    ({"bits": BITS}, "ValueError: bits requires a residual and a ReLU"),
    ({"bits": BITS, "residual": ROWS}, "ValueError: bits requires a residual and a ReLU"),
    ({"bits": BITS, "activation": RELU}, "ValueError: bits requires a residual and a ReLU"),
    ({"bits": BITS[1:], "activation": RELU, "residual": ROWS}, "ValueError: bits must be uint16[30], C-contiguous"),
    ({"bits": list(BITS), "activation": RELU, "residual": ROWS}, "TypeError: bits must be a numpy.ndarray, got list"),
], ids=str)
def test_activation_and_bits(changes, message):
    assert of_forward(kernels.layer_forward, **changes).startswith(message)


@pytest.mark.parametrize(("changes", "message"), [
    ({"activation": (-1, 0.0)}, "ValueError: activation has the code -1; expected 0 to 13"),
    ({"bits": BITS}, "ValueError: bits and dresidual must be given together"),
    ({"bits": BITS, "activation": RELU}, "ValueError: bits and dresidual must be given together"),
    ({"dresidual": views.view(X.copy(), 1), "activation": RELU}, "ValueError: bits and dresidual must be given"),
    ({"dresidual": views.view(X.copy(), 1), "activation": SILU}, "ValueError: an activation after a residual has no"),
    ({"dresidual": read_only()}, "ValueError: dresidual is read-only"),
    ({"gamma": None, "beta": BETA}, "ValueError: beta requires gamma"),
    ({"beta": BETA[1:]}, "ValueError: beta has shape (64,); expected (65,)"),
], ids=str)
def test_backward_of_activation_and_bits(changes, message):
    assert of_backward(**changes).startswith(message)

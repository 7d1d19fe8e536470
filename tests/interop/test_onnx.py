"""The onnx package's own tests of normalization operators, run through a small backend over fastbn."""

import re
import unittest

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the interop extra is not installed: no onnx")

from onnx import numpy_helper  # noqa: E402
from onnx.backend.base import Backend, BackendRep  # noqa: E402

from fastbn.functional import (  # noqa: E402
    batch_norm_inference,
    batch_norm_training,
    group_norm_inference,
    instance_norm_inference,
    layer_norm_training,
    rms_norm_inference,
)

# Those that onnx has under these names; the operator of an `_expanded` variant is expressed by others.
PATTERN = r"test_(batchnorm|BatchNorm|instancenorm|group_norm|layer_norm|rms_norm)(?!.*_expanded).*_cpu"
AXES = ("default_axis", *(
    f"{rank}d_axis{axis}{'_epsilon' if rank == 3 else ''}" for rank in (2, 3, 4)
    for k in range(rank) for axis in (f"{k}", f"_negative_{rank - k}")))
TESTS = (
    "test_batchnorm_epsilon_cpu",
    "test_batchnorm_epsilon_training_mode_cpu",
    "test_batchnorm_example_cpu",
    "test_batchnorm_example_training_mode_cpu",
    "test_BatchNorm1d_3d_input_eval_cpu",
    "test_BatchNorm2d_eval_cpu",
    "test_BatchNorm2d_momentum_eval_cpu",
    "test_BatchNorm3d_eval_cpu",
    "test_BatchNorm3d_momentum_eval_cpu",
    "test_group_normalization_epsilon_cpu",
    "test_group_normalization_example_cpu",
    "test_instancenorm_epsilon_cpu",
    "test_instancenorm_example_cpu",
    *(f"test_layer_normalization_{axis}_cpu" for axis in AXES),
    *(f"test_rms_normalization_{axis}_cpu" for axis in AXES),
)


def batch_normalization(x, scale, bias, mean, var, epsilon=1e-5, momentum=0.9, training_mode=0, **_):
    """Of opset 6 to 15; the running averages of training take the biased variance, and momentum is what stays."""
    if not training_mode:
        return (batch_norm_inference(x, mean, var, scale, bias, eps=epsilon),)
    y, saved = batch_norm_training(x, scale, bias, eps=epsilon)
    return y, *((momentum * running + (1 - momentum) * batch).astype(running.dtype)
                for running, batch in ((mean, saved.mean), (var, saved.var)))


def instance_normalization(x, scale, bias, epsilon=1e-5):
    return (instance_norm_inference(x, scale, bias, eps=epsilon),)


def group_normalization(x, scale, bias, num_groups, epsilon=1e-5, stash_type=1):
    """Of opset 18, with a scale per group, or of opset 21, with one per channel."""
    return (group_norm_inference(x, num_groups, scale, bias, eps=epsilon),)


def layer_normalization(x, scale, bias=None, axis=-1, epsilon=1e-5, stash_type=1):
    axis %= x.ndim
    y, saved = layer_norm_training(x, x.shape[axis:], scale, bias, eps=epsilon)
    per_row = *x.shape[:axis], *(1,) * (x.ndim - axis)
    return y, *(statistic.reshape(per_row).astype(np.float32) for statistic in (saved.mean, saved.rstd))


def rms_normalization(x, scale, axis=-1, epsilon=1e-5, stash_type=1):
    return (rms_norm_inference(x, x.shape[axis:], scale, eps=epsilon),)


OPERATORS = {
    "BatchNormalization": batch_normalization,
    "GroupNormalization": group_normalization,
    "InstanceNormalization": instance_normalization,
    "LayerNormalization": layer_normalization,
    "RMSNormalization": rms_normalization,
}


class FastbnRep(BackendRep):
    def __init__(self, graph):
        self.graph = graph

    def run(self, inputs, **_):
        values = {t.name: numpy_helper.to_array(t) for t in self.graph.initializer}
        values |= zip([i.name for i in self.graph.input if i.name not in values], inputs, strict=True)
        for node in self.graph.node:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            results = OPERATORS[node.op_type](*(values[name] for name in node.input), **attributes)
            values |= zip(node.output, results, strict=False)       # the last outputs are optional
        return tuple(values[output.name] for output in self.graph.output)


class FastbnBackend(Backend):
    @classmethod
    def prepare(cls, model, device="CPU", **_):
        onnx.checker.check_model(model)
        return FastbnRep(model.graph)

    @classmethod
    def supports_device(cls, device):
        return device == "CPU"


@pytest.fixture(scope="module")
def suite():
    """{name: test} of all that onnx has under the pattern."""
    import warnings

    with warnings.catch_warnings():
        # onnx works out the expected results of all its tests as it is imported; some overflow, as they should.
        warnings.simplefilter("ignore")
        import onnx.backend.test

        runner = onnx.backend.test.BackendTest(FastbnBackend, __name__)
        cases = runner.include(PATTERN).test_cases
    return {name: case(name) for case in cases.values() for name in unittest.TestLoader().getTestCaseNames(case)
            if re.fullmatch(PATTERN, name)}


def test_these_are_all(suite):
    assert set(suite) == set(TESTS)
    assert len(TESTS) == 51


@pytest.mark.parametrize("name", TESTS)
def test_backend(suite, name):
    result = unittest.TestResult()
    suite[name].run(result)
    assert result.testsRun == 1
    assert not result.skipped
    assert result.wasSuccessful(), "\n".join(text for _, text in result.errors + result.failures)


@pytest.mark.parametrize(("function", "name"), [
    ("batch_norm_inference", "test_batchnorm_example_cpu"),
    ("group_norm_inference", "test_group_normalization_example_cpu"),
    ("instance_norm_inference", "test_instancenorm_example_cpu"),
    ("rms_norm_inference", "test_rms_normalization_2d_axis1_cpu"),
])
def test_the_backend_runs_fastbn(function, name, monkeypatch, suite):
    # A backend that computed nothing would pass nothing.
    monkeypatch.setitem(globals(), function, lambda x, *a, **k: np.zeros_like(x))
    result = unittest.TestResult()
    suite[name].run(result)
    assert len(result.failures) == 1

"""The onnx package's own tests of BatchNormalization, run through a small backend over fastbn."""

import re
import unittest

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the interop extra is not installed: no onnx")

from onnx import numpy_helper  # noqa: E402
from onnx.backend.base import Backend, BackendRep  # noqa: E402

from fastbn.functional import batch_norm_inference, batch_norm_training  # noqa: E402

PATTERNS = (r"test_batchnorm.*_cpu", r"test_BatchNorm.*_cpu")
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
)


def batch_normalization(x, scale, bias, mean, var, epsilon=1e-5, momentum=0.9, training_mode=0, **_):
    """Of opset 6 to 15; the running averages of training take the biased variance, and momentum is what stays."""
    if not training_mode:
        return (batch_norm_inference(x, mean, var, scale, bias, eps=epsilon),)
    y, saved = batch_norm_training(x, scale, bias, eps=epsilon)
    return y, *((momentum * running + (1 - momentum) * batch).astype(running.dtype)
                for running, batch in ((mean, saved.mean), (var, saved.var)))


class FastbnRep(BackendRep):
    def __init__(self, graph):
        self.graph = graph

    def run(self, inputs, **_):
        values = {t.name: numpy_helper.to_array(t) for t in self.graph.initializer}
        values |= zip([i.name for i in self.graph.input if i.name not in values], inputs, strict=True)
        for node in self.graph.node:
            if node.op_type != "BatchNormalization":
                raise NotImplementedError(node.op_type)
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            results = batch_normalization(*(values[name] for name in node.input), **attributes)
            values |= zip(node.output, results, strict=True)
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
    """{name: test} of all that onnx has under the patterns."""
    import warnings

    with warnings.catch_warnings():
        # onnx works out the expected results of all its tests as it is imported; some overflow, as they should.
        warnings.simplefilter("ignore")
        import onnx.backend.test

        runner = onnx.backend.test.BackendTest(FastbnBackend, __name__)
        for pattern in PATTERNS:
            runner.include(pattern)
        cases = runner.test_cases
    return {name: case(name) for case in cases.values() for name in unittest.TestLoader().getTestCaseNames(case)
            if any(re.fullmatch(pattern, name) for pattern in PATTERNS)}


def test_these_are_all(suite):
    assert set(suite) == set(TESTS)
    assert len(TESTS) == 9


@pytest.mark.parametrize("name", TESTS)
def test_backend(suite, name):
    result = unittest.TestResult()
    suite[name].run(result)
    assert result.testsRun == 1
    assert not result.skipped
    assert result.wasSuccessful(), "\n".join(text for _, text in result.errors + result.failures)


def test_the_backend_runs_fastbn(monkeypatch, suite):
    # A backend that computed nothing would pass nothing.
    monkeypatch.setitem(globals(), "batch_norm_inference", lambda x, *a, **k: np.zeros_like(x))
    result = unittest.TestResult()
    suite["test_batchnorm_example_cpu"].run(result)
    assert len(result.failures) == 1

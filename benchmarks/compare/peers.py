"""The libraries that are compared, all of them asked for the same operations on the same numbers.

- training, inference, backward: into a buffer that is there already
- training_fresh, inference_fresh, backward_fresh: into a new array
- call: inference of one small input, where only the cost of the call counts

Where a library has several ways to do the same, `calls` returns all of them and the fastest one counts. All train
without running averages, and go back to x, gamma and beta.
"""
# ruff: noqa: D102  the methods are the operations above

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.cases import Case, parameters

if TYPE_CHECKING:
    from collections.abc import Callable

    Calls = list[Callable[[], object]]

OPS = ("training", "training_fresh", "inference", "inference_fresh", "backward", "backward_fresh", "call")
CALL_CASE = Case((1, 64), "rows")
EPS = 1e-5


def applies(op: str, case: Case) -> bool:
    """Return whether `op` is measured on `case`."""
    if op == "call":
        return case == CALL_CASE
    return case.learns or op.startswith("inference")


class Peer:
    """What the libraries have in common: the arrays of the case."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def prepare(self, case: Case) -> None:
        """Make the arrays of a case."""
        self.case = case
        self.x, self.dy, self.y = (case.array(seed) for seed in range(3))
        for name, values in parameters(case.channels).items():
            setattr(self, name, values)
        self.convert()

    def convert(self) -> None:
        """Turn the arrays into what the library works on, without copying."""

    @classmethod
    def supports(cls, op: str, case: Case) -> bool:
        """Return whether this library can do `op` on `case`; asked without importing it."""
        return hasattr(cls, op)

    def calls(self, op: str) -> Calls:
        """Return the ways to do `op`."""
        ways: Calls = getattr(self, op)()
        return ways


class Fastbn(Peer):
    """The library itself."""

    def convert(self) -> None:
        from fastbn import BatchNorm, functional

        self.f = functional
        self.options = {"axis": self.case.axis, "num_threads": self.threads}
        self.layer = BatchNorm(self.case.channels, axis=self.case.axis, num_threads=self.threads).eval()
        self.layer.load_state_dict({"weight": self.gamma, "bias": self.beta, "running_mean": self.mean,
                                    "running_var": self.var})
        if self.case.learns:
            self.saved = functional.batch_norm_training(self.x, self.gamma, self.beta, out=self.y, **self.options)[1]

    def training(self) -> Calls:
        return [lambda: self.f.batch_norm_training(self.x, self.gamma, self.beta, out=self.y, **self.options)]

    def training_fresh(self) -> Calls:
        return [lambda: self.f.batch_norm_training(self.x, self.gamma, self.beta, **self.options)]

    def inference(self) -> Calls:
        given = (self.x, self.mean, self.var, self.gamma, self.beta)
        return [lambda: self.f.batch_norm_inference(*given, out=self.y, **self.options)]

    def inference_fresh(self) -> Calls:
        given = (self.x, self.mean, self.var, self.gamma, self.beta)
        return [lambda: self.f.batch_norm_inference(*given, **self.options)]

    def backward(self) -> Calls:
        given = (self.dy, self.x, self.saved, self.gamma)
        return [lambda: self.f.batch_norm_backward(*given, out=self.y, **self.options)]

    def backward_fresh(self) -> Calls:
        given = (self.dy, self.x, self.saved, self.gamma)
        return [lambda: self.f.batch_norm_backward(*given, **self.options)]

    def call(self) -> Calls:
        bn, x, y = self.layer, self.x, self.y
        return [lambda: bn(x, out=y)]


class Torch(Peer):
    """PyTorch, eager: rows are the channels-last view of NHWC memory.

    Its backward has no form that writes into a given buffer (``native_batch_norm_backward.out`` makes a new tensor and
    copies it). The same is had from a heap that keeps its memory: see `TORCH_KEPT_HEAP`.
    """

    def __init__(self, threads: int) -> None:
        import torch

        super().__init__(threads)
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.torch = torch

    def convert(self) -> None:
        torch = self.torch
        self.w, self.b, self.m, self.v = map(torch.from_numpy, (self.gamma, self.beta, self.mean, self.var))
        self.views = [tuple(torch.from_numpy(a).movedim(self.case.axis, 1) for a in (self.x, self.dy, self.y))]
        if self.case.layout == "rows" and self.x.ndim == 3:  # torch's channels-last loops do not know (N, C, L)
            flat = (-1, self.case.channels)
            self.views.append(tuple(torch.from_numpy(a.reshape(flat)) for a in (self.x, self.dy, self.y)))
        self.saved = [torch.empty(self.case.channels) for _ in range(2)]

    def _out(self, training: bool) -> Calls:
        given = (self.w, self.b, None, None) if training else (self.w, self.b, self.m, self.v)
        saved = self.saved if training else [self.torch.empty(0), self.torch.empty(0)]
        aten = self.torch.ops.aten.native_batch_norm.out

        def ways(x: Any, y: Any) -> Calls:
            out = (y, *saved)
            return [
                lambda: aten(x, *given, training, 0.1, EPS, out=y, save_mean=saved[0], save_invstd=saved[1]),
                lambda: self.torch.native_batch_norm(x, *given, training, 0.1, EPS, out=out),
            ]

        return [way for x, _, y in self.views for way in ways(x, y)]

    def _fresh(self, training: bool) -> Calls:
        given = (self.w, self.b, None, None) if training else (self.w, self.b, self.m, self.v)
        running = (None, None) if training else (self.m, self.v)

        def ways(x: Any) -> Calls:
            return [
                lambda: self.torch.nn.functional.batch_norm(x, *running, self.w, self.b, training, 0.1, EPS),
                lambda: self.torch.native_batch_norm(x, *given, training, 0.1, EPS),
            ]

        return [way for x, _, _ in self.views for way in ways(x)]

    def training(self) -> Calls:
        return self._out(training=True)

    def training_fresh(self) -> Calls:
        return self._fresh(training=True)

    def inference(self) -> Calls:
        return self._out(training=False)

    def inference_fresh(self) -> Calls:
        return self._fresh(training=False)

    def backward_fresh(self) -> Calls:
        aten = self.torch.ops.aten.native_batch_norm_backward

        def way(x: Any, dy: Any) -> Callable[[], object]:
            mean, rstd = self.torch.native_batch_norm(x, self.w, self.b, None, None, True, 0.1, EPS)[1:]
            return lambda: aten(dy, x, self.w, None, None, mean, rstd, True, EPS, [True, True, True])

        return [way(x, dy) for x, dy, _ in self.views]

    def call(self) -> Calls:
        return self._out(training=False) + self._fresh(training=False)


class TorchKept(Torch):
    """PyTorch on a heap that keeps its memory, so that a new tensor is a warm buffer."""

    @classmethod
    def supports(cls, op: str, case: Case) -> bool:
        return op == "backward"

    def backward(self) -> Calls:
        return self.backward_fresh()


# glibc then never returns memory to the system, and asks for huge pages, as NumPy does.
TORCH_KEPT_HEAP = {
    "GLIBC_TUNABLES": f"glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold={1 << 40}:glibc.malloc.hugetlb=1",
}


class OnnxRuntime(Peer):
    """ONNX Runtime, inference of (N, C, ...): it has no other layout."""

    @classmethod
    def supports(cls, op: str, case: Case) -> bool:
        return super().supports(op, case) and (case.layout == "planes" or len(case.shape) == 2)

    def convert(self) -> None:
        import onnx
        import onnxruntime
        from onnx import TensorProto, helper, numpy_helper

        names = ("gamma", "beta", "mean", "var")
        node = helper.make_node("BatchNormalization", ["x", *names], ["y"], epsilon=EPS)
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, self.case.shape) for name in "xy"]
        weights = [numpy_helper.from_array(getattr(self, name), name) for name in names]
        graph = helper.make_graph([node], "batch_norm", ends[:1], ends[1:], weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
        onnx.checker.check_model(model)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self.binding = self.session.io_binding()
        wrap = onnxruntime.OrtValue.ortvalue_from_numpy  # shares the memory of the array
        self.values = [wrap(self.x), wrap(self.y)]
        self.binding.bind_ortvalue_input("x", self.values[0])
        self.binding.bind_ortvalue_output("y", self.values[1])

    def inference(self) -> Calls:
        return [lambda: self.session.run_with_iobinding(self.binding)]

    def inference_fresh(self) -> Calls:
        return [lambda: self.session.run(None, {"x": self.x})]


class Numpy(Peer):
    """NumPy as one writes it; it uses one thread."""

    def convert(self) -> None:
        shape = [1] * self.x.ndim
        shape[self.case.axis] = -1
        self.axes = tuple(i for i, length in enumerate(shape) if length == 1)
        self.gamma, self.beta, self.mean, self.var = (
            v.reshape(shape) for v in (self.gamma, self.beta, self.mean, self.var))
        self.batch_mean = self.x.mean(self.axes, keepdims=True)
        self.rstd = 1 / np.sqrt(self.x.var(self.axes, keepdims=True) + np.float32(EPS))

    def _train(self, out: Any) -> object:
        mean = self.x.mean(self.axes, keepdims=True)
        y = np.subtract(self.x, mean, out=out)
        var = np.square(y).mean(self.axes, keepdims=True)
        y *= self.gamma / np.sqrt(var + np.float32(EPS))
        y += self.beta
        return y

    def _infer(self, out: Any) -> object:
        scale = self.gamma / np.sqrt(self.var + np.float32(EPS))
        y = np.multiply(self.x, scale, out=out)
        y += self.beta - self.mean * scale
        return y

    def _back(self, out: Any) -> object:
        count = np.float32(self.case.size / self.case.channels)
        x_hat = self.x - self.batch_mean
        x_hat *= self.rstd
        dbeta = self.dy.sum(self.axes, keepdims=True)
        dgamma = (self.dy * x_hat).sum(self.axes, keepdims=True)
        x_hat *= dgamma / count
        dx = np.subtract(self.dy, x_hat, out=out)
        dx -= dbeta / count
        dx *= self.gamma * self.rstd
        return dx, dgamma, dbeta

    def training(self) -> Calls:
        return [lambda: self._train(self.y)]

    def training_fresh(self) -> Calls:
        return [lambda: self._train(None)]

    def inference(self) -> Calls:
        return [lambda: self._infer(self.y)]

    def inference_fresh(self) -> Calls:
        return [lambda: self._infer(None)]

    def backward(self) -> Calls:
        return [lambda: self._back(self.y)]

    def backward_fresh(self) -> Calls:
        return [lambda: self._back(None)]

    def call(self) -> Calls:
        x, y = self.x, self.y
        scale = self.gamma / np.sqrt(self.var + np.float32(EPS))
        shift = self.beta - self.mean * scale

        def two_ufuncs() -> None:
            np.multiply(x, scale, out=y)
            np.add(y, shift, out=y)

        return [two_ufuncs]

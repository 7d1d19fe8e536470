"""The libraries, asked for the same operations on the same numbers (see cases.py).

Where a library has several ways to do the same, `calls` returns all of them and the fastest one counts.
"""
# ruff: noqa: D102  the methods are the operations

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.compare import peers
from benchmarks.compare.inference.cases import COMPILED, INFERENCE, MEAN, STD

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.cases import Case

    Calls = list[Callable[[], object]]

EPS = peers.EPS


class Peer(peers.Peer):
    """What the libraries have in common: the arrays of the case, and the images of an images case."""

    def prepare(self, case: Case) -> None:
        self.pixels = np.random.default_rng(0).integers(0, 256, case.array_shape, dtype=np.uint8)
        super().prepare(case)


class Fastbn(Peer):
    """The library itself."""

    def convert(self) -> None:
        import ml_dtypes

        from fastbn import ChannelAffine, functional

        self.functional = functional
        self.options = {"axis": self.case.axis, "num_threads": self.threads}
        self.affine = ChannelAffine.from_statistics(
            self.mean, self.var, self.gamma, self.beta, EPS, **self.options)
        self.dtypes = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}

    def _infer(self, residual: Any, activation: str | None) -> Calls:
        affine, x, y = self.affine, self.x, self.y
        bound = affine.bind(x.shape, np.float32, activation=activation)
        return [lambda: affine(x, residual, activation, y), lambda: bound(x, y, residual)]

    def bn(self) -> Calls:
        return self._infer(None, None)

    def bn_relu(self) -> Calls:
        return self._infer(None, "relu")

    def bn_residual_relu(self) -> Calls:
        return self._infer(self.dy, "relu")

    def _typed(self, name: str) -> tuple[Any, Any]:
        x = self.x.astype(self.dtypes[name])
        return x, np.zeros_like(x)

    def _infer_typed(self, name: str) -> Calls:
        x, y = self._typed(name)
        return [lambda: self.affine(x, out=y)]

    def _train_typed(self, name: str) -> Calls:
        x, y = self._typed(name)
        return [lambda: self.functional.batch_norm_training(x, self.gamma, self.beta, out=y, **self.options)]

    def bn_float16(self) -> Calls:
        return self._infer_typed("float16")

    def bn_bfloat16(self) -> Calls:
        return self._infer_typed("bfloat16")

    def training_float32(self) -> Calls:
        return self._train_typed("float32")

    def training_float16(self) -> Calls:
        return self._train_typed("float16")

    def training_bfloat16(self) -> Calls:
        return self._train_typed("bfloat16")

    def images(self) -> Calls:
        from fastbn import ChannelAffine

        normalize = ChannelAffine.from_mean_std(MEAN, STD, num_threads=self.threads)
        y = np.zeros(self.case.shape, np.float32)
        return [lambda: normalize(self.pixels, out_axis=1, out=y)]

    def call(self) -> Calls:
        return self._infer(None, None)[1:]


class Torch(Peer):
    """PyTorch, eager, in inference mode; rows are the channels-last view of NHWC memory."""

    def __init__(self, threads: int) -> None:
        import torch

        super().__init__(threads)
        torch.set_num_threads(threads)
        torch.inference_mode().__enter__()
        self.torch = torch

    def convert(self) -> None:
        from_numpy = self.torch.from_numpy
        self.given = tuple(map(from_numpy, (self.gamma, self.beta, self.mean, self.var)))
        self.views = [from_numpy(a).movedim(self.case.axis, 1) for a in (self.x, self.dy, self.y)]

    def _fresh(self, x: Any, residual: Any, relu: bool) -> Any:
        w, b, m, v = self.given
        y = self.torch.nn.functional.batch_norm(x, m, v, w, b, False, 0.1, EPS)
        if residual is not None:
            y += residual
        return self.torch.relu_(y) if relu else y

    def _ways(self, with_residual: bool, relu: bool) -> Calls:
        x, r, y = self.views
        residual = r if with_residual else None
        nothing = [self.torch.empty(0), self.torch.empty(0)]

        def into() -> object:
            self.torch.native_batch_norm(x, *self.given, False, 0.1, EPS, out=(y, *nothing))
            if with_residual:
                y.add_(r)
            return y.relu_() if relu else y

        return [into, lambda: self._fresh(x, residual, relu)]

    def bn(self) -> Calls:
        return self._ways(with_residual=False, relu=False)

    def bn_relu(self) -> Calls:
        return self._ways(with_residual=False, relu=True)

    def bn_residual_relu(self) -> Calls:
        return self._ways(with_residual=True, relu=True)

    def _typed(self, name: str, training: bool) -> Calls:
        torch = self.torch
        w, b, m, v = self.given
        x = self.views[0].to(getattr(torch, name))
        y = torch.empty_like(x)
        saved = [torch.empty(self.case.channels) for _ in range(2)] if training else [torch.empty(0)] * 2
        running = (None, None) if training else (m, v)
        return [
            lambda: torch.native_batch_norm(x, w, b, *running, training, 0.1, EPS, out=(y, *saved)),
            lambda: torch.nn.functional.batch_norm(x, *running, w, b, training, 0.1, EPS),
        ]

    def bn_float16(self) -> Calls:
        return self._typed("float16", training=False)

    def bn_bfloat16(self) -> Calls:
        return self._typed("bfloat16", training=False)

    def training_float32(self) -> Calls:
        return self._typed("float32", training=True)

    def training_float16(self) -> Calls:
        return self._typed("float16", training=True)

    def training_bfloat16(self) -> Calls:
        return self._typed("bfloat16", training=True)

    def images(self) -> Calls:
        torch = self.torch
        pixels = torch.from_numpy(self.pixels)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        y = torch.empty(self.case.shape)

        def as_torchvision() -> object:     # ToTensor and Normalize, for a batch
            return pixels.permute(0, 3, 1, 2).contiguous().to(torch.float32).div_(255).sub_(mean).div_(std)

        scale, shift = 1 / (255 * std), mean / std

        def in_three_passes() -> object:
            y.copy_(pixels.permute(0, 3, 1, 2))
            return y.mul_(scale).sub_(shift)

        def in_two_passes() -> object:
            return torch.mul(pixels.permute(0, 3, 1, 2), scale, out=y).sub_(shift)

        return [as_torchvision, in_three_passes, in_two_passes]

    def call(self) -> Calls:
        return self.bn()


class TorchCompiled(Torch):
    """PyTorch with torch.compile, on a heap that keeps its memory, since its results are new tensors."""

    @classmethod
    def supports(cls, op: str, case: Case) -> bool:
        # It takes seconds to compile each.
        return op in INFERENCE[1:] and case in COMPILED

    def _ways(self, with_residual: bool, relu: bool) -> Calls:
        torch = self.torch
        w, b, m, v = self.given
        x, r, _ = self.views

        def forward(x: Any, r: Any) -> Any:
            y = torch.nn.functional.batch_norm(x, m, v, w, b, False, 0.1, EPS)
            if with_residual:
                y = y + r
            return torch.relu(y) if relu else y

        torch.compiler.reset()
        compiled = torch.compile(forward, dynamic=False)
        return [lambda: compiled(x, r)]


class Exported(Peer):
    """An engine that runs an ONNX graph of (N, C, ...)."""

    @classmethod
    def supports(cls, op: str, case: Case) -> bool:
        return op in INFERENCE and (case.layout == "planes" or len(case.shape) == 2)

    def model(self, op: str) -> Any:
        """Return the graph of an operation."""
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        names = ("gamma", "beta", "mean", "var")
        steps = [("BatchNormalization", ["x", *names])]
        inputs = ["x"]
        if op == "bn_residual_relu":
            steps.append(("Add", ["0", "r"]))
            inputs.append("r")
        if op != "bn":
            steps.append(("Relu", [str(len(steps) - 1)]))
        nodes = [helper.make_node(kind, given, ["y" if k == len(steps) - 1 else str(k)],
                                  **({"epsilon": EPS} if k == 0 else {})) for k, (kind, given) in enumerate(steps)]
        ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, self.case.shape) for name in names_of]
                for names_of in (inputs, ["y"])]
        weights = [numpy_helper.from_array(getattr(self, name), name) for name in names]
        model = helper.make_model(helper.make_graph(nodes, op, *ends, weights),
                                  opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
        onnx.checker.check_model(model)
        return model

    def arrays(self, op: str) -> dict[str, Any]:
        """Return inputs and output by name."""
        return {"x": self.x, "y": self.y} | ({"r": self.dy} if op == "bn_residual_relu" else {})


class OnnxRuntime(Exported):
    """ONNX Runtime with IO binding."""

    def calls(self, op: str) -> Calls:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            self.model(op).SerializeToString(), options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        self.kept = []
        for name, array in self.arrays(op).items():
            value = onnxruntime.OrtValue.ortvalue_from_numpy(array)     # shares the memory of the array
            self.kept.append(value)
            bind = binding.bind_ortvalue_output if name == "y" else binding.bind_ortvalue_input
            bind(name, value)
        return [lambda: session.run_with_iobinding(binding)]


class OpenVino(Exported):
    """OpenVINO, in float32, on tensors that share the arrays' memory."""

    def calls(self, op: str) -> Calls:
        import io

        import openvino

        core = openvino.Core()
        settings = {"INFERENCE_NUM_THREADS": self.threads, "PERFORMANCE_HINT": "LATENCY",
                    "INFERENCE_PRECISION_HINT": "f32"}
        compiled = core.compile_model(core.read_model(io.BytesIO(self.model(op).SerializeToString())), "CPU", settings)
        request = compiled.create_infer_request()
        for name, array in self.arrays(op).items():
            request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        return [lambda: request.infer()]


class Numpy(Peer):
    """NumPy as one writes it; it uses one thread."""

    def convert(self) -> None:
        shape = [1] * self.x.ndim
        shape[self.case.axis] = -1
        self.scale = (self.gamma / np.sqrt(self.var + np.float32(EPS))).reshape(shape)
        self.shift = (self.beta - self.mean * self.scale.ravel()).reshape(shape)

    def _infer(self, with_residual: bool, relu: bool) -> Calls:
        x, r, y = self.x, self.dy, self.y

        def ufuncs() -> None:
            np.multiply(x, self.scale, out=y)
            np.add(y, self.shift, out=y)
            if with_residual:
                np.add(y, r, out=y)
            if relu:
                np.maximum(y, np.float32(0), out=y)

        return [ufuncs]

    def bn(self) -> Calls:
        return self._infer(with_residual=False, relu=False)

    def bn_relu(self) -> Calls:
        return self._infer(with_residual=False, relu=True)

    def bn_residual_relu(self) -> Calls:
        return self._infer(with_residual=True, relu=True)

    def images(self) -> Calls:
        y = np.zeros(self.case.shape, np.float32)
        scale, shift = ((np.array(v, np.float32)) for v in (1 / (255 * np.array(STD)), np.array(MEAN) / STD))

        def two_ufuncs() -> None:
            view = np.moveaxis(y, 1, -1)
            np.multiply(self.pixels, scale, out=view)
            np.subtract(view, shift, out=view)

        def planes() -> None:
            for c in range(3):
                np.multiply(self.pixels[..., c], scale[c], out=y[:, c])
                np.subtract(y[:, c], shift[c], out=y[:, c])

        return [two_ufuncs, planes]

    def call(self) -> Calls:
        return self.bn()


class OpenCv(Peer):
    """OpenCV's blobFromImages, with a scale for each colour."""

    @classmethod
    def supports(cls, op: str, case: Case) -> bool:
        return op == "images"

    def images(self) -> Calls:
        import cv2

        cv2.setNumThreads(self.threads)
        std, mean = np.array(STD), np.array(MEAN)
        settings = cv2.dnn.Image2BlobParams()
        settings.scalefactor = tuple(1 / (255 * std))
        settings.mean = tuple(255 * mean)
        pictures = list(self.pixels)
        return [lambda: cv2.dnn.blobFromImagesWithParams(pictures, settings)]

"""Engines of neural networks: PyTorch, ONNX Runtime and OpenVINO."""
# ruff: noqa: D102  the methods are kinds of operations

from __future__ import annotations

import io
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks.peers import EPS, MEAN, STD, Peer

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.cases import Case, Operation
    from benchmarks.peers import Calls


class Torch(Peer):
    """PyTorch, eager, in inference mode. Rows are the channels-last view of NHWC memory."""

    mode: ClassVar[ExitStack | None] = None     # inference mode lasts as long as its context

    def __init__(self, case: Case, threads: int) -> None:
        import torch

        super().__init__(case, threads)
        torch.set_num_threads(threads)
        if Torch.mode is None:
            Torch.mode = ExitStack()
            Torch.mode.enter_context(torch.inference_mode())
        self.torch = torch
        self.w, self.b, self.m, self.v = map(torch.from_numpy, (self.gamma, self.beta, self.mean, self.var))

    @classmethod
    def leave_inference_mode(cls) -> None:
        """End inference mode, for peers that need autograd."""
        if Torch.mode is not None:
            Torch.mode.close()
            Torch.mode = None

    @classmethod
    def supports(cls, op: Operation, case: Case) -> bool:
        # A new tensor is the only result of its backward pass: `native_batch_norm_backward.out` copies one; see
        # TorchKept.
        followed = op.kind == "affine" and op.activation is not None
        return followed or (super().supports(op, case) and (op.kind != "backward" or op.fresh))

    def view(self, array: Any) -> Any:
        """Return an array as a tensor with the channels second."""
        if self.case.layout == "rows":  # as (N, C) without space: `native_batch_norm.out` is wrong on (N, C, L) views
            array = array.reshape(-1, self.case.channels) if array.ndim == 3 else array
        return self.torch.from_numpy(array).movedim(self.case.axis, 1)

    def ways(self, op: Operation, training: bool) -> tuple[Calls, Calls]:
        """Return the ways to the forward pass: into a given buffer, and into a new tensor."""
        torch, w, b = self.torch, self.w, self.b
        running = (None, None) if training else (self.m, self.v)
        x, y = (self.view(array).to(getattr(torch, op.dtype)) for array in (self.x, self.y))
        saved = [torch.empty(self.case.channels if training else 0) for _ in range(2)]
        out = (y, *saved)
        aten = torch.ops.aten.native_batch_norm.out
        return [
            lambda: aten(x, w, b, *running, training, 0.1, EPS, out=y, save_mean=saved[0], save_invstd=saved[1]),
            lambda: torch.native_batch_norm(x, w, b, *running, training, 0.1, EPS, out=out),
        ], [
            lambda: torch.nn.functional.batch_norm(x, *running, w, b, training, 0.1, EPS),
            lambda: torch.native_batch_norm(x, w, b, *running, training, 0.1, EPS),
        ]

    def training(self, op: Operation) -> Calls:
        return self.ways(op, training=True)[op.fresh]

    def inference(self, op: Operation) -> Calls:
        return self.ways(op, training=False)[op.fresh]

    def backward(self, op: Operation) -> Calls:
        torch = self.torch
        x, dy = self.view(self.x), self.view(self.dy)
        mean, rstd = torch.native_batch_norm(x, self.w, self.b, None, None, True, 0.1, EPS)[1:]
        aten = torch.ops.aten.native_batch_norm_backward
        return [lambda: aten(dy, x, self.w, None, None, mean, rstd, True, EPS, [True, True, True])]

    def call(self, op: Operation) -> Calls:
        into, fresh = self.ways(op, training=False)
        return into + fresh

    plan = call

    def activation(self, op: Operation) -> Callable[[Any], Any]:
        """Return the activation of an operation, in place."""
        aten = self.torch.ops.aten
        functions: dict[str | None, Callable[[Any], Any]] = {
            "relu": aten.relu_, "relu6": aten.relu6_, "leaky_relu": aten.leaky_relu_, "hardswish": aten.hardswish_,
            "hard_sigmoid": aten.hardsigmoid_, "sigmoid": aten.sigmoid_, "tanh": aten.tanh_, "silu": aten.silu_,
            "gelu": aten.gelu_, "gelu_tanh": lambda y: aten.gelu_(y, approximate="tanh"), "mish": aten.mish_,
            "softplus": lambda y: aten.softplus.out(y, out=y), "elu": aten.elu_,
        }
        return functions[op.activation]

    def affine(self, op: Operation) -> Calls:
        ways = self.call(op)
        if op.activation is None:
            return ways
        residual, activate = self.view(self.dy), self.activation(op)

        def followed(way: Any) -> Any:
            def call() -> object:
                y = way()
                y = y[0] if isinstance(y, tuple) else y
                if op.residual:
                    y += residual
                return activate(y)

            return call

        return [followed(way) for way in ways]

    def images(self, op: Operation) -> Calls:
        torch = self.torch
        pixels = torch.from_numpy(self.pixels).permute(0, 3, 1, 2)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        scale, shift = 1 / (255 * std), mean / std
        y = torch.empty(self.case.shape)
        return [
            lambda: pixels.contiguous().to(torch.float32).div_(255).sub_(mean).div_(std),   # as torchvision does it
            lambda: y.copy_(pixels).mul_(scale).sub_(shift),
            lambda: torch.mul(pixels, scale, out=y).sub_(shift),
        ]


class TorchKept(Torch):
    """PyTorch on a heap that keeps its memory, where the new tensor of a backward pass is a warm buffer."""

    @classmethod
    def supports(cls, op: Operation, case: Case) -> bool:
        return op.name == "backward"


class TorchCompiled(Torch):
    """PyTorch with torch.compile, on a heap that keeps its memory, because its results are new tensors."""

    @classmethod
    def supports(cls, op: Operation, case: Case) -> bool:
        few = case.channels in (8, 64) and len(case.shape) == 4
        return few and op.activation is not None and super().supports(op, case)

    def affine(self, op: Operation) -> Calls:
        torch = self.torch
        x, r = self.view(self.x), self.view(self.dy)
        activate = self.activation(op)

        def forward(x: Any, r: Any) -> Any:
            y = torch.nn.functional.batch_norm(x, self.m, self.v, self.w, self.b, False, 0.1, EPS)
            return activate(y + r if op.residual else y)

        torch.compiler.reset()
        compiled = torch.compile(forward, dynamic=False)
        return [lambda: compiled(x, r)]


class Exported(Peer):
    """An engine that runs an ONNX graph of (N, C, ...); it has no other layout."""

    @classmethod
    def supports(cls, op: Operation, case: Case) -> bool:
        return (super().supports(op, case) and op.dtype == "float32"
                and (case.layout == "planes" or len(case.shape) == 2))

    def model(self, op: Operation) -> bytes:
        """Return the graph of an operation."""
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        names = ("gamma", "beta", "mean", "var")
        steps = [("BatchNormalization", ["x", *names]), *([("Add", ["0", "r"])] if op.residual else [])]
        if op.activation:
            steps.append(("Relu", [str(len(steps) - 1)]))
        nodes = [helper.make_node(kind, given, ["y" if k == len(steps) - 1 else str(k)],
                                  **({"epsilon": EPS} if k == 0 else {})) for k, (kind, given) in enumerate(steps)]
        output, *inputs = (helper.make_tensor_value_info(name, TensorProto.FLOAT, self.case.shape)
                           for name in self.arrays(op))
        weights = [numpy_helper.from_array(getattr(self, name), name) for name in names]
        model = helper.make_model(helper.make_graph(nodes, op.name, inputs, [output], weights),
                                  opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
        onnx.checker.check_model(model)
        graph: bytes = model.SerializeToString()
        return graph

    def arrays(self, op: Operation) -> dict[str, Any]:
        """Return output and inputs by name."""
        return {"y": self.y, "x": self.x} | ({"r": self.dy} if op.residual else {})


class OnnxRuntime(Exported):
    """ONNX Runtime with IO binding, on values that share the memory of the arrays."""

    def affine(self, op: Operation) -> Calls:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(self.model(op), options, providers=["CPUExecutionProvider"])
        if op.fresh:
            return [lambda: session.run(None, {"x": self.x})]
        binding = session.io_binding()
        self.bound = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in self.arrays(op).items()}
        for name, value in self.bound.items():
            (binding.bind_ortvalue_output if name == "y" else binding.bind_ortvalue_input)(name, value)
        return [lambda: session.run_with_iobinding(binding)]

    inference = affine


class OpenVino(Exported):
    """OpenVINO, in float32, on tensors that share the memory of the arrays."""

    def affine(self, op: Operation) -> Calls:
        import openvino

        core = openvino.Core()
        settings = {"INFERENCE_NUM_THREADS": self.threads, "PERFORMANCE_HINT": "LATENCY",
                    "INFERENCE_PRECISION_HINT": "f32"}
        model = core.read_model(io.BytesIO(self.model(op)))
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        for name, array in self.arrays(op).items():
            request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        return [lambda: request.infer()]

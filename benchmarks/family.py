"""The siblings of batch norm in fastbn, PyTorch and ONNX Runtime."""
# ruff: noqa: D102  the methods are kinds of operations

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks.cases import GROUPS
from benchmarks.engines import OnnxRuntime, Torch
from benchmarks.peers import EPS, Peer

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.cases import Case, Operation
    from benchmarks.peers import Calls


class FastbnFamily(Peer):
    """fastbn."""

    def __init__(self, case: Case, threads: int) -> None:
        from fastbn import functional

        super().__init__(case, threads)
        self.f = functional

    def result_of(self, function: Any, *arguments: Any, **options: Any) -> Calls:
        """Return a forward pass."""
        return [lambda: function(self.x, *arguments, eps=EPS, out=self.y, num_threads=self.threads, **options)]

    def gradient_of(self, function: Any, saved: Any, **options: Any) -> Calls:
        """Return a backward pass."""
        return [lambda: function(self.dy, self.x, saved, self.gamma, out=self.y, num_threads=self.threads, **options)]

    def layer_norm(self, op: Operation) -> Calls:
        return self.result_of(self.f.layer_norm_training, self.case.channels, self.gamma, self.beta)

    def layer_norm_backward(self, op: Operation) -> Calls:
        saved = self.f.layer_norm_training(self.x, self.case.channels, self.gamma, self.beta, eps=EPS)[1]
        return self.gradient_of(self.f.layer_norm_backward, saved)

    def rms_norm(self, op: Operation) -> Calls:
        return self.result_of(self.f.rms_norm_training, self.case.channels, self.gamma)

    def rms_norm_backward(self, op: Operation) -> Calls:
        saved = self.f.rms_norm_training(self.x, self.case.channels, self.gamma, eps=EPS)[1]
        return self.gradient_of(self.f.rms_norm_backward, saved)

    def group_norm(self, op: Operation) -> Calls:
        return self.result_of(self.f.group_norm_training, GROUPS, self.gamma, self.beta, axis=self.case.axis)

    def group_norm_backward(self, op: Operation) -> Calls:
        axis = self.case.axis
        saved = self.f.group_norm_training(self.x, GROUPS, self.gamma, self.beta, eps=EPS, axis=axis)[1]
        return self.gradient_of(self.f.group_norm_backward, saved, axis=axis)

    def instance_norm(self, op: Operation) -> Calls:
        return self.result_of(self.f.instance_norm_training, self.gamma, self.beta, axis=self.case.axis)

    def instance_norm_backward(self, op: Operation) -> Calls:
        axis = self.case.axis
        saved = self.f.instance_norm_training(self.x, self.gamma, self.beta, eps=EPS, axis=axis)[1]
        return self.gradient_of(self.f.instance_norm_backward, saved, axis=axis)


class TorchFamily(Torch):
    """PyTorch on a heap that keeps its memory, where new tensors are warm buffers."""

    @classmethod
    def supports(cls, op: Operation, case: Case) -> bool:
        return op.kind in cls.__dict__

    def forward(self, function: Callable[[Any, Any, Any], Any]) -> Calls:
        """Return a forward pass without autograd."""
        x = self.view(self.x)
        return [lambda: function(x, self.w, self.b)]

    def backward_of(self, function: Callable[[Any, Any, Any], Any]) -> Calls:
        """Return a backward pass of autograd."""
        Torch.leave_inference_mode()
        torch = self.torch
        x, w, b = (tensor.detach().clone().requires_grad_() for tensor in (
            self.view(self.x), *map(torch.from_numpy, (self.gamma, self.beta))))
        dy = self.view(self.dy)
        y = function(x, w, b)
        inputs = x, w, b
        return [lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True, allow_unused=True)]

    def layer(self, x: Any, w: Any, b: Any) -> Any:
        """Apply layer norm."""
        return self.torch.nn.functional.layer_norm(x, (self.case.channels,), w, b, EPS)

    def rms(self, x: Any, w: Any, b: Any) -> Any:
        """Apply RMS norm."""
        return self.torch.nn.functional.rms_norm(x, (self.case.channels,), w, EPS)

    def group(self, x: Any, w: Any, b: Any) -> Any:
        """Apply group norm."""
        return self.torch.nn.functional.group_norm(x, GROUPS, w, b, EPS)

    def instance(self, x: Any, w: Any, b: Any) -> Any:
        """Apply instance norm."""
        return self.torch.nn.functional.instance_norm(x, None, None, w, b, True, 0.1, EPS)

    def layer_norm(self, op: Operation) -> Calls:
        return self.forward(self.layer)

    def rms_norm(self, op: Operation) -> Calls:
        return self.forward(self.rms)

    def group_norm(self, op: Operation) -> Calls:
        return self.forward(self.group)

    def instance_norm(self, op: Operation) -> Calls:
        return self.forward(self.instance)

    def layer_norm_backward(self, op: Operation) -> Calls:
        return self.backward_of(self.layer)

    def rms_norm_backward(self, op: Operation) -> Calls:
        return self.backward_of(self.rms)

    def group_norm_backward(self, op: Operation) -> Calls:
        return self.backward_of(self.group)

    def instance_norm_backward(self, op: Operation) -> Calls:
        return self.backward_of(self.instance)


class OnnxRuntimeFamily(OnnxRuntime):
    """ONNX Runtime with IO binding; it has no channels-last layout and no backward pass."""

    NODES: ClassVar[dict[str, tuple[str, dict[str, int]]]] = {
        "layer_norm": ("LayerNormalization", {"axis": -1}), "rms_norm": ("RMSNormalization", {"axis": -1}),
        "group_norm": ("GroupNormalization", {"num_groups": GROUPS}), "instance_norm": ("InstanceNormalization", {}),
    }

    @classmethod
    def supports(cls, op: Operation, case: Case) -> bool:
        return op.kind in cls.NODES and (case.layout == "planes" or len(case.shape) == 2)

    def model(self, op: Operation) -> bytes:
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        kind, attributes = self.NODES[op.kind]
        names = ("gamma",) if op.kind == "rms_norm" else ("gamma", "beta")
        node = helper.make_node(kind, ["x", *names], ["y"], epsilon=EPS, **attributes)
        value = partial(helper.make_tensor_value_info, elem_type=TensorProto.FLOAT, shape=self.case.shape)
        weights = [numpy_helper.from_array(getattr(self, name), name) for name in names]
        model = helper.make_model(helper.make_graph([node], op.name, [value("x")], [value("y")], weights),
                                  opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
        onnx.checker.check_model(model)
        graph: bytes = model.SerializeToString()
        return graph

    def calls(self, op: Operation) -> Calls:
        return self.affine(op)

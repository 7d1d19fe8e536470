"""An ONNX graph with an index: who makes a value, who takes it, and what it is if it never changes."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from fastbn.folding.errors import FoldingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, NodeProto

# What exporters put between an initializer and its use.
CONSTANT_OPERATORS = ("Constant", "ConstantOfShape", "Identity", "Transpose")
# From this version on an initializer that is also an input of the graph is a default, which a caller may override;
# before it, every initializer had to be one.
FIRST_IR_WITH_DEFAULTS = 4


def is_operator(node: NodeProto, *operators: str) -> bool:
    """Tell whether a node is one of some operators of ONNX itself."""
    return node.domain in ("", "ai.onnx") and node.op_type in operators


def label(node: NodeProto) -> str:
    """Return what to call a node: its operator, and its name or else its first output."""
    return f"{node.op_type} {node.name or next(filter(None, node.output), '')!r}"


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """Return the value of an attribute of a node."""
    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the graphs in a node's attributes, and those within them."""
    for a in node.attribute:
        for graph in ([a.g] if a.type == onnx.AttributeProto.GRAPH else a.graphs):
            yield graph
            for inner in graph.node:
                yield from subgraphs(inner)


class Graph:
    """The main graph of a model, to be changed node by node; `finish` writes the changes back.

    Parameters
    ----------
    model : onnx.ModelProto
        Must not be used between the first change and `finish`.
    """

    def __init__(self, model: ModelProto) -> None:
        self.model, self.proto = model, model.graph
        self.nodes = list(self.proto.node)
        self._labels = {id(node): label(node) for node in self.nodes}
        self.opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
        self.initializers = {t.name: t for t in self.proto.initializer}
        inputs = {i.name for i in self.proto.input}
        self.overridable = inputs & self.initializers.keys() if model.ir_version >= FIRST_IR_WITH_DEFAULTS else set()
        self.producers: dict[str, NodeProto] = {name: node for node in self.nodes for name in node.output if name}
        self.consumers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                self.consumers[name].append(node)
        # Values that are taken by more than nodes of this graph.
        self.outputs = {o.name for o in self.proto.output}
        inner = [graph for node in self.nodes for graph in subgraphs(node)]
        self.captured = {name for graph in inner for node in graph.node for name in node.input}
        self.captured |= {o.name for graph in inner for o in graph.output}
        self._names = {*inputs, *self.initializers, *self.producers, *self.captured}
        self._names |= {name for graph in inner for node in graph.node for name in node.output}
        self._removed: set[int] = set()
        self._released: list[str] = []
        self._ranks = self._infer_ranks()

    def constant(self, name: str) -> NDArray[Any] | None:
        """Return a value that is the same in every run, or None."""
        if name in self.initializers:
            return None if name in self.overridable else numpy_helper.to_array(self.initializers[name])
        node = self.producers.get(name)
        if node is None or not is_operator(node, *CONSTANT_OPERATORS) or attribute(node, "sparse_value", None):
            return None
        inputs = {taken: self.constant(taken) for taken in node.input}
        if any(value is None for value in inputs.values()):
            return None
        result: Any = ReferenceEvaluator(node).run(None, inputs)
        return np.asarray(result[0])

    def label(self, node: NodeProto) -> str:
        """Return what a node was called before a fold changed the output that an unnamed one is called by."""
        return self._labels[id(node)]

    def rank(self, name: str) -> int | None:
        """Return how many axes a value has, if that is known."""
        return self._ranks.get(name)

    def require_private(self, name: str, what: str) -> NodeProto:
        """Return the one node that takes a value, if nothing else does.

        Raises
        ------
        FoldingError
            If something else does; the text calls the value `what`.
        """
        if name in self.outputs:
            raise FoldingError(f"{what} is an output of the graph")
        if name in self.captured:
            raise FoldingError(f"{what} is used in a subgraph")
        if len(self.consumers[name]) != 1:
            raise FoldingError(f"{what} is used {len(self.consumers[name])} times")
        return self.consumers[name][0]

    def connect(self, node: NodeProto, index: int, name: str) -> None:
        """Make a value the input of a node, at an index up to one behind its last."""
        if index == len(node.input):
            node.input.append(name)
        else:
            self._drop(node, node.input[index])
            node.input[index] = name
        self.consumers[name].append(node)

    def connect_constant(self, node: NodeProto, index: int, values: NDArray[Any]) -> None:
        """Make new values the input of a node: what was there may have other users."""
        old = node.input[index] if index < len(node.input) else ""
        name = self._unused(f"{(old or node.name or node.output[0]).removesuffix('_folded')}_folded")
        tensor = numpy_helper.from_array(values, name)
        self.initializers[name] = tensor
        self.connect(node, index, name)

    def bypass(self, node: NodeProto, last: NodeProto) -> None:
        """Let a node make what `last` made, which is removed."""
        old, new = node.output[0], last.output[0]
        self.remove(last)
        node.output[0] = new
        del self.producers[old]
        self.producers[new] = node

    def remove(self, node: NodeProto) -> None:
        """Remove a node."""
        self._removed.add(id(node))
        for name in list(node.input):
            self._drop(node, name)
        for name in filter(None, node.output):
            del self.producers[name]

    def finish(self) -> None:
        """Write the changes to the model, without constants that have lost their last user."""
        while self._released:
            name = self._released.pop()
            if self.consumers[name] or name in self.outputs or name in self.captured:
                continue
            self.initializers.pop(name, None)
            node = self.producers.get(name)
            if node is not None and is_operator(node, *CONSTANT_OPERATORS):
                self.remove(node)
        self._write_initializers()
        for index in reversed(range(len(self.nodes))):
            if id(self.nodes[index]) in self._removed:
                del self.proto.node[index]
        inputs = {i.name for i in self.proto.input}
        for index in reversed(range(len(self.proto.value_info))):
            name = self.proto.value_info[index].name
            if name not in self.producers and name not in self.initializers and name not in inputs:
                del self.proto.value_info[index]

    def _write_initializers(self) -> None:
        before = {t.name for t in self.proto.initializer}
        for values in (self.proto.initializer, self.proto.input):
            for index in reversed(range(len(values))):
                if values[index].name in before and values[index].name not in self.initializers:
                    del values[index]
        added = [tensor for name, tensor in self.initializers.items() if name not in before]
        self.proto.initializer.extend(added)
        if self.model.ir_version < FIRST_IR_WITH_DEFAULTS:
            self.proto.input.extend(onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in added)

    def _drop(self, node: NodeProto, name: str) -> None:
        takers = self.consumers[name]
        del takers[next(index for index, taker in enumerate(takers) if taker is node)]
        self._released.append(name)

    def _unused(self, name: str) -> str:
        unused, count = name, 1
        while unused in self._names:
            unused, count = f"{name}_{count}", count + 1
        self._names.add(unused)
        return unused

    def _infer_ranks(self) -> dict[str, int]:
        # Only the folds around a MatMul ask, and the inference takes a copy of the model.
        if not any(is_operator(node, "MatMul") for node in self.nodes):
            return {}
        inferred = onnx.shape_inference.infer_shapes(self.model).graph
        known = (*inferred.value_info, *inferred.input, *inferred.output)
        return {v.name: len(v.type.tensor_type.shape.dim) for v in known if v.type.tensor_type.HasField("shape")}

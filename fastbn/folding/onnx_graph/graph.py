"""An ONNX graph with an index of the producer, the consumers and the constant value of each name."""

from __future__ import annotations

import math
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
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

# Exporters insert these operators between an initializer and its consumer.
CONSTANT_OPERATORS = (
    "Constant", "ConstantOfShape", "Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Cast")
# A fold must know the shapes of the inputs and outputs of these operators.
SHAPED_OPERATORS = (
    "MatMul", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Add", "Sub", "Mul", "Div")
# Shape inference needs the values of initializers that are shapes, and those are small.
MOST_SHAPE_VALUES = 64
# From this version on, an initializer that is also an input of the graph is a default that callers may override;
# before, every initializer had to be an input.
FIRST_IR_WITH_DEFAULTS = 4


def is_operator(node: NodeProto, *operators: str) -> bool:
    """Return whether a node has one of these operators, in the domain of ONNX itself."""
    return node.domain in ("", "ai.onnx") and node.op_type in operators


def label(node: NodeProto) -> str:
    """Return the operator and the name of a node, or its first output if it has no name."""
    return f"{node.op_type} {node.name or next(filter(None, node.output), '')!r}"


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """Return the value of an attribute of a node."""
    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the graphs in the attributes of a node, recursively."""
    for a in node.attribute:
        for graph in ([a.g] if a.type == onnx.AttributeProto.GRAPH else a.graphs):
            yield graph
            for inner in graph.node:
                yield from subgraphs(inner)


class Graph:
    """The main graph of a model, edited node by node; `finish` writes the edits to the model.

    Parameters
    ----------
    model : onnx.ModelProto
        Must not be used between the first edit and `finish`.
    """

    def __init__(self, model: ModelProto) -> None:
        self.model: ModelProto = model
        self.proto: GraphProto = model.graph
        self.nodes: list[NodeProto] = list(self.proto.node)
        self._labels = {id(node): label(node) for node in self.nodes}
        self.opset: int = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
        self.initializers: dict[str, TensorProto] = {t.name: t for t in self.proto.initializer}
        inputs = {i.name for i in self.proto.input}
        self.overridable: set[str] = set()
        if model.ir_version >= FIRST_IR_WITH_DEFAULTS:
            self.overridable = inputs & self.initializers.keys()
        self.producers: dict[str, NodeProto] = {name: node for node in self.nodes for name in node.output if name}
        self.consumers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                self.consumers[name].append(node)
        # Values with consumers other than nodes of this graph.
        self.outputs: set[str] = {o.name for o in self.proto.output}
        inner = [graph for node in self.nodes for graph in subgraphs(node)]
        self.captured: set[str] = {name for graph in inner for node in graph.node for name in node.input}
        self.captured |= {o.name for graph in inner for o in graph.output}
        self._names = {*inputs, *self.initializers, *self.producers, *self.captured}
        self._names |= {name for graph in inner for node in graph.node for name in node.output}
        self._removed: set[int] = set()
        self._released: list[str] = []
        self._shapes = self._infer_shapes()

    def constant(self, name: str) -> NDArray[Any] | None:
        """Return a value that is constant, or None."""
        if name in self.initializers:
            return None if name in self.overridable else numpy_helper.to_array(self.initializers[name])
        node = self.producers.get(name)
        if node is None or not is_operator(node, *CONSTANT_OPERATORS) or attribute(node, "sparse_value", None):
            return None
        inputs = {taken: self.constant(taken) for taken in node.input}
        if any(value is None for value in inputs.values()):
            return None
        # Evaluate a graph with the model's opset: a single node would be evaluated with the newest.
        taken, made = ([onnx.ValueInfoProto(name=value) for value in names] for names in (inputs, node.output))
        alone = onnx.helper.make_graph([node], "constant", taken, made)
        result: Any = ReferenceEvaluator(alone, {"": self.opset}).run(None, inputs)
        return np.asarray(result[0])

    def label(self, node: NodeProto) -> str:
        """Return the original label of a node: a fold may rename the output that an unnamed node is labeled with."""
        return self._labels[id(node)]

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        """Return the shape of a value, with None for unknown lengths; None if the number of axes is unknown."""
        return self._shapes.get(name)

    def rank(self, name: str) -> int | None:
        """Return the number of axes of a value, or None if it is unknown."""
        shape = self.shape(name)
        return None if shape is None else len(shape)

    def remaining(self, *operators: str) -> list[NodeProto]:
        """Return the nodes with these operators that have not been removed."""
        return [node for node in self.nodes if is_operator(node, *operators) and id(node) not in self._removed]

    def takers(self, name: str, what: str) -> list[NodeProto]:
        """Return the nodes that consume a value.

        Raises
        ------
        FoldingError
            If the value is an output of the graph or used in a subgraph; the message calls it `what`.
        """
        if name in self.outputs:
            raise FoldingError(f"{what} is an output of the graph")
        if name in self.captured:
            raise FoldingError(f"{what} is used in a subgraph")
        return list(self.consumers[name])

    def require_private(self, name: str, what: str) -> None:
        """Raise FoldingError unless a value has exactly one consumer; the message calls it `what`."""
        count = len(self.takers(name, what))
        if count != 1:
            raise FoldingError(f"{what} is used {count} times")

    def connect(self, node: NodeProto, index: int, name: str) -> None:
        """Make a value the input of a node, at an index up to one past the last."""
        if index == len(node.input):
            node.input.append(name)
        else:
            self._drop(node, node.input[index])
            node.input[index] = name
        self.consumers[name].append(node)

    def connect_constant(self, node: NodeProto, index: int, values: NDArray[Any]) -> None:
        """Make new values the input of a node. The previous constant is not changed: it may have other consumers."""
        old = node.input[index] if index < len(node.input) else ""
        name = self._unused(f"{(old or node.name or node.output[0]).removesuffix('_folded')}_folded")
        tensor = numpy_helper.from_array(values, name)
        self.initializers[name] = tensor
        self.connect(node, index, name)

    def turn_into_add(self, node: NodeProto, values: NDArray[Any]) -> None:
        """Replace a node by an Add of its first input and a constant."""
        for index in reversed(range(1, len(node.input))):
            self._drop(node, node.input[index])
            del node.input[index]
        del node.output[1:]
        del node.attribute[:]
        node.op_type = "Add"
        self.connect_constant(node, 1, values)

    def bypass(self, node: NodeProto, last: NodeProto) -> None:
        """Make a node produce the output of `last`, and remove `last`."""
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
        """Write the edits to the model, and remove constants without consumers."""
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

    def _infer_shapes(self) -> dict[str, tuple[int | None, ...]]:
        if not any(is_operator(node, *SHAPED_OPERATORS) for node in self.nodes):
            return {}
        try:
            inferred = onnx.shape_inference.infer_shapes(self._skeleton(), data_prop=True).graph
        except onnx.shape_inference.InferenceError:     # folds that need a shape report that it is unknown
            return {}
        known = (*inferred.value_info, *inferred.input, *inferred.output)
        shapes: dict[str, tuple[int | None, ...]] = {t.name: tuple(t.dims) for t in self.initializers.values()}
        return shapes | {
            v.name: tuple(d.dim_value if d.HasField("dim_value") else None for d in v.type.tensor_type.shape.dim)
            for v in known if v.type.tensor_type.HasField("shape")}

    def _skeleton(self) -> ModelProto:
        # The model without the values of its weights, because shape inference copies its argument.
        skeleton = onnx.ModelProto(ir_version=self.model.ir_version, opset_import=self.model.opset_import,
                                   functions=self.model.functions)
        graph, inputs = self.proto, {i.name for i in self.proto.input}
        skeleton.graph.name = graph.name
        for field in ("node", "input", "output", "value_info"):
            getattr(skeleton.graph, field).extend(getattr(graph, field))
        for tensor in graph.initializer:
            if math.prod(tensor.dims) <= MOST_SHAPE_VALUES:
                skeleton.graph.initializer.append(tensor)
            elif tensor.name not in inputs:
                skeleton.graph.input.append(
                    onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        return skeleton

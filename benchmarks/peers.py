"""The libraries that are compared, and what a library must provide.

Every library does the same operations (`benchmarks.cases.Operation`) on the same numbers, in its own process.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.cases import Case, Operation, filled, parameters

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Calls = list[Callable[[], object]]

EPS = 1e-5
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)    # of images

# glibc then never returns memory to the system and asks for huge pages, as NumPy does: new arrays are warm buffers.
KEPT_HEAP = {
    "GLIBC_TUNABLES": f"glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold={1 << 40}:glibc.malloc.hugetlb=1",
}


class Peer:
    """The arrays of a case. A library adds one method for each kind of operation that it has.

    Such a method takes the operation and returns callables that all do it, in different ways; the fastest one counts.
    """

    def __init__(self, case: Case, threads: int) -> None:
        self.case = case
        self.threads = threads
        self.gamma, self.beta, self.mean, self.var = parameters(case.channels).values()

    @cached_property
    def x(self) -> NDArray[np.float32]:
        """Values, float32."""
        return filled(self.case.array_shape, 0)

    @cached_property
    def dy(self) -> NDArray[np.float32]:
        """Gradients, or a residual."""
        return filled(self.case.array_shape, 1)

    @cached_property
    def y(self) -> NDArray[np.float32]:
        """A warm buffer."""
        return filled(self.case.array_shape, 2)

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """Values, uint8."""
        return np.random.default_rng(0).integers(0, 256, self.case.array_shape, np.uint8)

    def values(self, op: Operation) -> NDArray[Any]:
        """Return float32 or uint8 values, whichever the operation takes."""
        return self.pixels if op.dtype == "uint8" else self.x

    @classmethod
    def supports(cls, op: Operation, case: Case) -> bool:
        """Return whether the library can do `op` on `case`, without importing it."""
        fused = op.kind == "affine" and op.activation == "relu"
        return hasattr(cls, op.kind) and not op.frozen and (op.activation is None or fused)

    def calls(self, op: Operation) -> Calls:
        """Return the ways to do `op`."""
        ways: Calls = getattr(self, op.kind)(op)
        return ways


@dataclass(frozen=True)
class Library:
    """A library, and the process that it needs.

    Attributes
    ----------
    name, title : str
        In the results, and in the tables. Two processes may share a name if they do different operations.
    target : str
        ``module:class`` of its `Peer`.
    module : str
        The module that must be installed.
    environment : dict
        Variables of its process.
    threaded : bool
        Whether the number of threads makes a difference.
    """

    name: str
    title: str
    target: str
    module: str
    environment: dict[str, str] = field(default_factory=dict)
    threaded: bool = True

    @property
    def peer(self) -> type[Peer]:
        """The class of `target`."""
        module, name = self.target.split(":")
        peer: type[Peer] = getattr(importlib.import_module(module), name)
        return peer

    def installed(self) -> bool:
        """Return whether the library can be imported."""
        return importlib.util.find_spec(self.module) is not None


FLOORS = Library("floors", "floor", "benchmarks.floors:Floors", "numpy")
LIBRARIES = (
    Library("fastbn", "fastbn", "benchmarks.arrays:Fastbn", "fastbn"),
    Library("torch", "PyTorch", "benchmarks.engines:Torch", "torch"),
    Library("torch", "PyTorch", "benchmarks.engines:TorchKept", "torch", KEPT_HEAP),
    Library("torch.compile", "torch.compile", "benchmarks.engines:TorchCompiled", "torch", KEPT_HEAP),
    Library("torch", "PyTorch", "benchmarks.steps:TorchStep", "torch", KEPT_HEAP),
    Library("torch.compile", "torch.compile", "benchmarks.steps:TorchCompiledStep", "torch", KEPT_HEAP),
    Library("jax", "JAX", "benchmarks.steps:Jax", "jax", KEPT_HEAP),
    Library("onnxruntime", "ONNX Runtime", "benchmarks.engines:OnnxRuntime", "onnxruntime"),
    Library("openvino", "OpenVINO", "benchmarks.engines:OpenVino", "openvino"),
    Library("opencv", "OpenCV", "benchmarks.arrays:OpenCv", "cv2"),
    Library("numpy", "NumPy", "benchmarks.arrays:Numpy", "numpy", threaded=False),
    Library("numpy.tricks", "NumPy tricks", "benchmarks.arrays:NumpyTricks", "numpy", threaded=False),
    Library("sklearn", "scikit-learn", "benchmarks.arrays:ScikitLearn", "sklearn", threaded=False),
    Library("fastbn", "fastbn", "benchmarks.family:FastbnFamily", "fastbn"),
    Library("torch", "PyTorch", "benchmarks.family:TorchFamily", "torch", KEPT_HEAP),
    Library("onnxruntime", "ONNX Runtime", "benchmarks.family:OnnxRuntimeFamily", "onnxruntime"),
)
TITLES = {library.name: library.title for library in LIBRARIES}
PEERS = [name for name in TITLES if name != "fastbn"]
UNTHREADED = {library.name for library in LIBRARIES if not library.threaded}

"""Which processes take part, and what the results call them."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field

from benchmarks import floors
from benchmarks.cases import Case
from benchmarks.compare import peers


@dataclass(frozen=True)
class Library:
    """A library, or one of the processes it needs, and what it runs on.

    Attributes
    ----------
    name : str
        In the results. Two processes may share one where they do different operations.
    peer : type
    module : str
        What must be installed.
    environment : dict
        Variables of its process.
    threaded : bool
        Whether the number of threads makes a difference.
    """

    name: str
    peer: type[peers.Peer]
    module: str
    environment: dict[str, str] = field(default_factory=dict)
    threaded: bool = True

    @property
    def target(self) -> str:
        """What `benchmarks.worker` calls it."""
        return f"{self.peer.__module__}:{self.peer.__name__}"

    def installed(self) -> bool:
        """Return whether it can be imported."""
        return importlib.util.find_spec(self.module) is not None


LIBRARIES = (
    Library("fastbn", peers.Fastbn, "fastbn"),
    Library("torch", peers.Torch, "torch"),
    Library("torch", peers.TorchKept, "torch", peers.TORCH_KEPT_HEAP),
    Library("onnxruntime", peers.OnnxRuntime, "onnxruntime"),
    Library("numpy", peers.Numpy, "numpy", threaded=False),
)
PEER_NAMES = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime", "numpy": "NumPy"}


def flat(case: Case) -> Case:
    """Return the case that floors are kept under.

    They depend on the size alone. The layout is kept so that each size is measured at more than one moment.
    """
    return Case((case.size,), case.layout)


FLOORS = floors.LIBRARY

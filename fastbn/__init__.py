"""Batch normalization for NumPy on the CPU: fast, exact, and the same bits on every machine.

`BatchNorm` is the layer; `functional` has the same without state; `ChannelStats` are mergeable statistics of channels;
`ChannelAffine` is what a layer is at inference.
"""

from fastbn import functional
from fastbn._config import __version__, show_config
from fastbn._threads import get_num_threads, num_threads, set_num_threads
from fastbn.affine import ChannelAffine
from fastbn.batchnorm import BatchNorm
from fastbn.stats import ChannelStats

__all__ = [
    "BatchNorm",
    "ChannelAffine",
    "ChannelStats",
    "__version__",
    "functional",
    "get_num_threads",
    "num_threads",
    "set_num_threads",
    "show_config",
]

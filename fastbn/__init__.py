"""Batch normalization for NumPy on the CPU: fast and exact.

Results have the same bits for any number of threads and any instruction set.

`BatchNorm` is the layer, and `SyncBatchNorm` the layer for several processes; `Whitening` also removes the correlation
of channels. `functional` has the same operations without state. `ChannelStats` holds mergeable statistics of channels.
`ChannelAffine` is batch normalization at inference, `Plan` a transform for one shape, and `fold_conv` and its relatives
fold a layer into its neighbour.
"""

from fastbn._core.startup import guard_imports

guard_imports()

from fastbn._core.source_tree import use_built  # noqa: E402

use_built(__path__)

from fastbn import functional  # noqa: E402
from fastbn._core.config import __version__, show_config  # noqa: E402
from fastbn._core.pool import release_memory  # noqa: E402
from fastbn._core.threads import get_num_threads, num_threads, set_num_threads  # noqa: E402
from fastbn.affine import ChannelAffine, Plan  # noqa: E402
from fastbn.folding import fold_before_conv, fold_before_linear, fold_conv, fold_linear  # noqa: E402
from fastbn.functional.renorm import Ramp  # noqa: E402
from fastbn.layers.accumulate import WholeBatch  # noqa: E402
from fastbn.layers.adapt import adapt  # noqa: E402
from fastbn.layers.batchnorm import BatchNorm  # noqa: E402
from fastbn.layers.conditional import ConditionalBatchNorm  # noqa: E402
from fastbn.layers.domains import DomainSpecificBatchNorm  # noqa: E402
from fastbn.layers.groupnorm import GroupNorm  # noqa: E402
from fastbn.layers.instancenorm import InstanceNorm  # noqa: E402
from fastbn.layers.layernorm import LayerNorm  # noqa: E402
from fastbn.layers.population import population_statistics  # noqa: E402
from fastbn.layers.renorm import BatchRenorm  # noqa: E402
from fastbn.layers.report import Report  # noqa: E402
from fastbn.layers.rmsnorm import RMSNorm  # noqa: E402
from fastbn.layers.sync import SyncBatchNorm  # noqa: E402
from fastbn.layers.whitening import Whitening  # noqa: E402
from fastbn.statistics.channel_stats import ChannelStats  # noqa: E402

__all__ = [
    "BatchNorm",
    "BatchRenorm",
    "ChannelAffine",
    "ChannelStats",
    "ConditionalBatchNorm",
    "DomainSpecificBatchNorm",
    "GroupNorm",
    "InstanceNorm",
    "LayerNorm",
    "Plan",
    "RMSNorm",
    "Ramp",
    "Report",
    "SyncBatchNorm",
    "Whitening",
    "WholeBatch",
    "__version__",
    "adapt",
    "fold_before_conv",
    "fold_before_linear",
    "fold_conv",
    "fold_linear",
    "functional",
    "get_num_threads",
    "num_threads",
    "population_statistics",
    "release_memory",
    "set_num_threads",
    "show_config",
]

# Pickles and documentation refer to the public names, whatever file defines them.
for _name in __all__:
    if callable(globals()[_name]):
        globals()[_name].__module__ = "fastbn"

"""What fastbn sets out to reach, and the cells that miss it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import geometric_mean
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.cases import (
    ACTIVATIONS,
    CALL,
    CHANNEL_NORMS,
    MB,
    ROW_NORMS,
    STEP,
    TRAINING,
    Case,
    Operation,
    Suite,
)

if TYPE_CHECKING:
    from benchmarks.results import Results

NOISE = 0.97    # a speed-up of 1, within the noise of a measurement


def every(case: Case) -> bool:
    return True


def small(case: Case) -> bool:
    return case.nbytes <= 4 * MB


def large(case: Case) -> bool:
    return case.nbytes > 32 * MB


def over_1mb(case: Case) -> bool:
    return case.nbytes > MB


def cached(case: Case) -> bool:
    """In the last cache, but too large for the second level."""
    return over_1mb(case) and not large(case)


def planes(case: Case) -> bool:
    return case.layout == "planes"


def rows(case: Case) -> bool:
    return case.layout == "rows"


def wide_rows(case: Case) -> bool:
    return rows(case) and case.shape[1] >= 16


@dataclass(frozen=True)
class Target:
    """A bound on the cells of some operations.

    A bound against a library or "baseline" is the least speed-up; one against "floor" is the most times it. With
    `mean` it bounds the geometric mean of the speed-ups. Without `threads`, all numbers of threads that were measured
    count.
    """

    name: str
    against: str
    bound: float
    ops: Sequence[str]
    selects: Callable[[Case], bool] = every
    threads: Sequence[int] = ()
    mean: bool = False

    @property
    def limit(self) -> str:
        """The bound as text."""
        return f"{'mean ' if self.mean else ''}{'≤' if self.against == 'floor' else '≥'} {self.bound:g}x"

    def verdicts(self, results: Results, suite: Suite) -> list[Verdict]:
        """Return every measured cell, the worst one first."""
        found = [
            Verdict(self, value, op, case, threads)
            for op, cases in suite.plan.items() if op.name in self.ops
            for case in filter(self.selects, cases) for threads in self.threads or results.threads()
            if (value := results.ratio(self.against, op, case, threads)) is not None]
        return sorted(found, key=lambda verdict: verdict.reached)


def summary(target: Target, verdicts: Sequence[Verdict]) -> tuple[float, int]:
    """Return the value that counts, of the worst cell or the mean, and how many cells, or whether the mean, miss it."""
    if not target.mean:
        return verdicts[0].value, sum(verdict.reached < 1 for verdict in verdicts)
    mean = geometric_mean([verdict.value for verdict in verdicts])
    return mean, int(mean < target.bound)


class Verdict(NamedTuple):
    """The ratio of one cell, and a target for it."""

    target: Target
    value: float
    op: Operation
    case: Case
    threads: int

    @property
    def reached(self) -> float:
        """The part of the target that was reached: below 1 if it was missed."""
        return self.target.bound / self.value if self.target.against == "floor" else self.value / self.target.bound


TARGETS = {
    "training": [
        Target("training, planes", "torch", 4.5, ["training"], planes, mean=True),
        Target("training, planes", "torch", 2.7, ["training"], planes),
        Target("training, planes over 32 MB", "floor", 1.3, ["training"], lambda c: planes(c) and large(c)),
        Target("training, planes of 1 to 32 MB", "floor", 2.6, ["training"], lambda c: planes(c) and cached(c)),
        Target("training, rows of 16 channels and more", "torch", 1.6, ["training"], wide_rows, mean=True),
        Target("training, rows", "torch", 1.05, ["training"], rows),
        Target("training, rows over 32 MB", "floor", 1.15, ["training"], lambda c: rows(c) and large(c)),
        Target("training, rows of 1 to 32 MB", "floor", 2.2, ["training"], lambda c: rows(c) and cached(c)),
        Target("backward, planes", "torch", 1.9, ["backward"], planes, mean=True),
        Target("backward, planes", "torch", 1.2, ["backward"], planes),
        Target("backward, planes over 32 MB", "floor", 1.35, ["backward"], lambda c: planes(c) and large(c)),
        Target("backward, planes of 1 to 32 MB", "floor", 2.5, ["backward"], lambda c: planes(c) and cached(c)),
        Target("backward, rows of 16 channels and more", "torch", 1.5, ["backward"], wide_rows, mean=True),
        Target("backward, rows", "torch", 1.05, ["backward"], rows),
        Target("backward, rows over 32 MB", "floor", 1.2, ["backward"], lambda c: rows(c) and large(c)),
        Target("backward, rows of 1 to 32 MB", "floor", 2.3, ["backward"], lambda c: rows(c) and cached(c)),
        Target("inference over 4 MB", "torch", NOISE, ["inference"], lambda c: not small(c)),
        Target("inference over 4 MB", "floor", 1.15, ["inference"], lambda c: not small(c)),
        Target("inference up to 4 MB", "torch", 1.05, ["inference"], small),
        Target("new array over 1 MB", "baseline", round(1 / 1.1, 2),
               ["training_fresh", "inference_fresh", "backward_fresh"], over_1mb),
        Target("training step", "torch", 1.5, [STEP.name]),
        Target("training step", "torch.compile", 1.0, [STEP.name]),
        Target("training step", "jax", 1.0, [STEP.name]),
        Target("small call", "torch", 3.0, ["call"], threads=[2]),
        Target("small call", "numpy", 1.0, ["call"], threads=[2]),
        Target("every cell", "torch", NOISE, [op.name for op in (*TRAINING, STEP, CALL)]),
    ],
    "inference": [
        Target("batch norm + residual + ReLU", "torch", 2.0, ["bn_residual_relu"]),
        Target("batch norm + activation", "torch", 1.0, [op.name for op in ACTIVATIONS]),
        Target("float32", "onnxruntime", 1.0, ["bn", "bn_relu", "bn_residual_relu"]),
        Target("half precision, over 32 MB in float32", "baseline", 1.5,
               ["bn_float16", "bn_bfloat16", "training_float16", "training_bfloat16"], large),
        Target("bfloat16", "torch", 1.0, ["bn_bfloat16", "training_bfloat16"]),
        Target("images", "numpy", 3.0, ["images"]),
        Target("images", "torch", 1.5, ["images"]),
        Target("images", "opencv", 1.5, ["images"]),
        Target("small call", "numpy", 2.0, ["plan"]),
    ],
    "statistics": [],
    "family": [
        Target("layer norm", "torch", 1.3, ["layer_norm", "layer_norm_backward"], mean=True),
        Target("RMS norm", "torch", 3.0, ["rms_norm", "rms_norm_backward"], mean=True),
        Target("group norm", "torch", 1.5, ["group_norm", "group_norm_backward"], mean=True),
        Target("instance norm", "torch", 6.0, ["instance_norm", "instance_norm_backward"], mean=True),
        Target("every cell", "torch", 1.0, [op.name for op in (*ROW_NORMS, *CHANNEL_NORMS)]),
        Target("layer and RMS norm over 32 MB", "floor", 1.25, ["layer_norm", "rms_norm"], large),
        Target("layer and RMS norm of 1 to 32 MB", "floor", 2.0, ["layer_norm", "rms_norm"], cached),
        Target("layer and RMS norm, backward, over 32 MB", "floor", 1.3,
               ["layer_norm_backward", "rms_norm_backward"], large),
        Target("layer and RMS norm, backward, of 1 to 32 MB", "floor", 2.0,
               ["layer_norm_backward", "rms_norm_backward"], cached),
        Target("group and instance norm over 1 MB", "floor", 1.5, ["group_norm", "instance_norm"], over_1mb),
        Target("group and instance norm, backward, over 1 MB", "floor", 1.6,
               ["group_norm_backward", "instance_norm_backward"], over_1mb),
    ],
}


def missed(results: Results, suite: Suite) -> list[Verdict]:
    """Return the cells that miss a target, by operation and peer, the worst one first.

    Of several bounds on a cell against the same peer, the strictest counts.
    """
    worst: dict[tuple[str, Operation, Case, int], Verdict] = {}
    for target in (target for target in TARGETS[suite.name] if not target.mean):
        for verdict in target.verdicts(results, suite):
            place = target.against, verdict.op, verdict.case, verdict.threads
            if verdict.reached < min(1.0, worst[place].reached if place in worst else 1.0):
                worst[place] = verdict
    order = list(suite.plan)
    return sorted(worst.values(), key=lambda v: (order.index(v.op), v.target.against, v.reached))

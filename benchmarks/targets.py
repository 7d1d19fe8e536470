"""What fastbn sets out to reach, and the cells that miss it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.cases import ACTIVATIONS, CALL, MB, STEP, TRAINING, Case, Operation, Suite

if TYPE_CHECKING:
    from benchmarks.results import Results

NOISE = 0.95    # a speed-up of 1, within the noise of a measurement


def every(case: Case) -> bool:
    return True


def resnet(case: Case) -> bool:
    return len(case.shape) == 4 and case.shape[0] == 32


def seven(case: Case) -> bool:
    return case.shape[2:] == (7, 7)


def small(case: Case) -> bool:
    return case.nbytes <= 4 * MB


def large(case: Case) -> bool:
    return case.nbytes > 32 * MB


def over_1mb(case: Case) -> bool:
    return case.nbytes > MB


def planes(case: Case) -> bool:
    return case.layout == "planes"


def rows(case: Case) -> bool:
    return case.layout == "rows"


def resnet_rows(case: Case) -> bool:
    """Rows of ResNet-50, and (N, C)."""
    return rows(case) and (resnet(case) or len(case.shape) == 2)


@dataclass(frozen=True)
class Target:
    """A bound on the cells of some operations.

    A bound against a library or "baseline" is the least speed-up; one against "floor" is the most times it. Without
    `threads`, all numbers of threads that were measured count.
    """

    name: str
    against: str
    bound: float
    ops: Sequence[str]
    selects: Callable[[Case], bool] = every
    threads: Sequence[int] = ()

    @property
    def limit(self) -> str:
        """The bound as text."""
        return f"{'≤' if self.against == 'floor' else '≥'} {self.bound:g}x"

    def verdicts(self, results: Results, suite: Suite) -> list[Verdict]:
        """Return every measured cell, the worst one first."""
        found = [
            Verdict(self, value, op, case, threads)
            for op, cases in suite.plan.items() if op.name in self.ops
            for case in filter(self.selects, cases) for threads in self.threads or results.threads()
            if (value := results.ratio(self.against, op, case, threads)) is not None]
        return sorted(found, key=lambda verdict: verdict.reached)


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


def both(op: str) -> list[str]:
    """Return an operation into a buffer and into a new array."""
    return [op, f"{op}_fresh"]


TARGETS = {
    "training": [
        Target("training, planes of ResNet-50", "torch", 2.7, ["training"], lambda c: planes(c) and resnet(c), [2]),
        Target("training, planes of ResNet-50 over 32 MB, new array", "torch", 2.5, ["training_fresh"],
               lambda c: planes(c) and resnet(c) and large(c), [2]),
        Target("training, planes of ResNet-50 except 7x7", "floor", 1.4, ["training"],
               lambda c: planes(c) and resnet(c) and not seven(c), [2]),
        Target("training, planes of ResNet-50, 7x7", "floor", 2.2, ["training"],
               lambda c: planes(c) and resnet(c) and seven(c), [2]),
        Target("training, planes up to 4 MB", "torch", 4.0, both("training"), lambda c: planes(c) and small(c), [2]),
        Target("training, rows of ResNet-50 and (N, C) over 4 MB", "torch", 1.15, both("training"),
               lambda c: resnet_rows(c) and not small(c), [2]),
        Target("training, rows of ResNet-50 and (N, C) up to 4 MB", "torch", 1.5, both("training"),
               lambda c: resnet_rows(c) and small(c), [2]),
        Target("training, rows of ResNet-50 and (N, C)", "floor", 1.2, ["training"], resnet_rows, [2]),
        Target("backward, planes of ResNet-50", "torch", 2.2, both("backward"),
               lambda c: planes(c) and resnet(c), [2]),
        Target("backward, planes of ResNet-50", "floor", 1.4, ["backward"], lambda c: planes(c) and resnet(c), [2]),
        Target("backward, rows", "torch", 1.7, both("backward"), rows, [2]),
        Target("backward, rows", "floor", 1.25, ["backward"], rows, [2]),
        Target("inference over 4 MB", "torch", NOISE, ["inference"], lambda c: not small(c), [2]),
        Target("inference up to 4 MB", "torch", 1.2, ["inference"], small, [2]),
        Target("inference over 32 MB, new array", "torch", 1.9, ["inference_fresh"], large, [2]),
        Target("inference over 4 MB", "floor", 1.1, ["inference"], lambda c: not small(c), [2]),
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
        Target("half precision, over 32 MB in float32", "baseline", 1.6,
               ["bn_float16", "bn_bfloat16", "training_float16", "training_bfloat16"], large),
        Target("bfloat16", "torch", 1.0, ["bn_bfloat16", "training_bfloat16"]),
        Target("images", "numpy", 3.0, ["images"]),
        Target("images", "torch", 1.5, ["images"]),
        Target("images", "opencv", 1.5, ["images"]),
        Target("small call", "numpy", 2.0, ["plan"]),
    ],
    "statistics": [],
}


def missed(results: Results, suite: Suite) -> list[Verdict]:
    """Return the cells that miss a target, by operation and peer, the worst one first.

    Of several bounds on a cell against the same peer, the strictest counts.
    """
    worst: dict[tuple[str, Operation, Case, int], Verdict] = {}
    for target in TARGETS[suite.name]:
        for verdict in target.verdicts(results, suite):
            place = target.against, verdict.op, verdict.case, verdict.threads
            if verdict.reached < min(1.0, worst[place].reached if place in worst else 1.0):
                worst[place] = verdict
    order = list(suite.plan)
    return sorted(worst.values(), key=lambda v: (order.index(v.op), v.target.against, v.reached))

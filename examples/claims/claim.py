"""One claim: what measures it, draws it and describes it; and the command that does all three."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

import fastbn
from examples.nn.loop import progress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

RESULTS = Path(__file__).parents[2] / "docs" / "claims"     # the numbers of the page


@dataclass(frozen=True)
class Plan:
    """How much a claim measures.

    Attributes
    ----------
    seeds : int
        Number of repetitions, each with other initial weights, another split of the data and another order.
    short : bool
        Whether to take a tenth of the steps, which shows that a script runs, and little else.
    """

    seeds: int = 5
    short: bool = False

    def parallel(self, work: Callable[..., Any], items: list[tuple[Any, ...]], name: str) -> list[Any]:
        """Return the results of independent pieces of work, in their order, by two processes with a progress bar."""
        fresh = get_context("spawn")        # a fork of a process with threads of other libraries may hang
        with (self.progress(len(items), name) as bar,
              ProcessPoolExecutor(2, mp_context=fresh, initializer=one_thread) as pool):
            futures = [pool.submit(work, *item) for item in items]
            for future in futures:
                future.add_done_callback(lambda _: bar.update())
            return [future.result() for future in futures]

    def steps(self, number: int) -> int:
        """Return a number of training steps."""
        return max(2, number // 10) if self.short else number

    def progress(self, total: int, name: str) -> Any:
        """Return a progress bar for a number of units of work."""
        return progress(total, name)


def one_thread() -> None:
    """Let this process have one thread: the matrices are small, and the bits do not depend on the machine."""
    threadpool_limits(1, user_api="blas")
    fastbn.set_num_threads(1)


SHORT = Plan(seeds=2, short=True)


@dataclass(frozen=True)
class Claim:
    """A claim of the literature.

    Attributes
    ----------
    name : str
        Of its module, its picture and its numbers.
    title : str
    measure : callable
        Gets a Plan, and returns what JSON can hold.
    draw : callable
        Gets an empty figure and the numbers.
    values : callable
        Gets the numbers, and returns those of the page as text, by the names that page.md has.
    """

    name: str
    title: str
    measure: Callable[[Plan], dict[str, Any]]
    draw: Callable[[Figure, Mapping[str, Any]], None]
    values: Callable[[Mapping[str, Any]], dict[str, str]]


def run(claim: Claim, plan: Plan, out: Path) -> dict[str, Any]:
    """Measure a claim, and write its numbers and its picture into a folder."""
    started = time.perf_counter()
    with threadpool_limits(1, user_api="blas"):
        numbers = claim.measure(plan)
    numbers["run"] = {"seconds": round(time.perf_counter() - started, 1), "seeds": plan.seeds, "short": plan.short}
    numbers = {name: rounded(value) for name, value in numbers.items()}
    out.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value, allow_nan=False)}"
                       for name, value in numbers.items())
    (out / f"{claim.name}.json").write_text(f"{{\n{lines}\n}}\n")
    picture(claim, numbers, out)
    return numbers


def rounded(value: Any) -> Any:
    """Return numbers with five digits; None for what is not finite, which JSON does not have."""
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    if not isinstance(value, float):
        return value
    return float(f"{value:.5g}") if math.isfinite(value) else None


def picture(claim: Claim, numbers: Mapping[str, Any], out: Path) -> None:
    """Draw the numbers of a claim."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    claim.draw(figure, numbers)
    figure.savefig(out / f"{claim.name}.png", dpi=110)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that all commands have."""
    parser.add_argument("--short", action="store_true", help="a tenth of the steps, and two seeds")
    parser.add_argument("--out", type=folder, default=Path("claims"), metavar="FOLDER",
                        help="where pictures and numbers go (default: claims)")


def folder(text: str) -> Path:
    """Return the path of a folder, which is made if it does not exist."""
    path = Path(text)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no folder, and cannot be made: {error.strerror}") from None
    if not os.access(path, os.W_OK):
        raise argparse.ArgumentTypeError(f"nothing can be written to the folder {text!r}")
    return path


def main(claim: Claim) -> int:
    """Run one claim as a script."""
    parser = argparse.ArgumentParser(description=claim.title)
    add_arguments(parser)
    arguments = parser.parse_args()
    numbers = run(claim, SHORT if arguments.short else Plan(), arguments.out)
    lines = [f"{name}: {text}" for name, text in claim.values(numbers).items()]
    sys.stdout.write("\n".join([*lines, f"{arguments.out / claim.name}.png, {numbers['run']['seconds']:g} s", ""]))
    return 0

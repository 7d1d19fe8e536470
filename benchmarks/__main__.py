"""Measure fastbn beside other libraries.

    python -m benchmarks run                        all suites; figures and reports go to docs/
    python -m benchmarks run training --resume      continue an interrupted run
    python -m benchmarks run training --shapes 32x64x112x112 --threads 2
    python -m benchmarks report                     tables and charts again, from saved figures
    python -m benchmarks targets                    what is missed
    python -m benchmarks accuracy                   errors of y and of variances
    python -m benchmarks row-accuracy               errors of layer norm and RMS norm
    python -m benchmarks neighbour                  latency while another process keeps a core busy
    python -m benchmarks placement                  the cost of where arrays begin in a page and in a cache line
    python -m benchmarks whitening                  the cost of whitening against the number of channels
    mpiexec -n 2 python -m benchmarks collective    the cost of SyncBatchNorm

Every command takes --tiny for a smoke test. Figures are saved as they come. Further runs of the same build on the same
machine add to them, and the best time of each cell counts; a run of another build or machine replaces them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import accuracy, charts, neighbour, placement, report, row_accuracy, whitening
from benchmarks.cases import LAYOUTS, OPERATIONS, SUITES, TINY_SUITES, Suite
from benchmarks.results import ROOT, Results, configuration
from benchmarks.runner import measure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DOCS = ROOT / "docs"
ROUNDS, BUDGET, TINY_BUDGET = 3, 0.2, 0.005


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command."""
    options = parser().parse_args(arguments)
    try:
        options.command(options)
    except KeyboardInterrupt:
        sys.exit("interrupted: `run` continues with --resume")


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(required=True, metavar="command")

    def add(name: str, command: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        sub.add_argument("--tiny", action="store_true", help="a smoke test: tiny cases, hardly measured")
        return sub

    sub = add("run", run, "measure suites, save the figures and write the report")
    _suites(sub)
    sub.add_argument("--threads", type=int, nargs="+", metavar="N", help="default 1 2, or 2 with --tiny")
    sub.add_argument("--rounds", type=int, metavar="R", help=f"default {ROUNDS}, or 1 with --tiny")
    sub.add_argument("--budget", type=float, metavar="SECONDS", help=f"for one cell in one round; default {BUDGET}")
    sub.add_argument("--ops", nargs="+", choices=OPERATIONS, metavar="OP", help=", ".join(OPERATIONS))
    sub.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=LAYOUTS, metavar="LAYOUT",
                     help=", ".join(LAYOUTS))
    sub.add_argument("--shapes", nargs="+", metavar="SHAPE", help="such as 32x64x112x112; default all")
    sub.add_argument("--resume", action="store_true", help="skip what was measured in all rounds")
    _suites(add("report", render, "write tables and charts from saved figures"))
    _suites(add("targets", targets, "print the targets and the cells that miss them, from saved figures"))
    add("accuracy", lambda options: accuracy.main(options.tiny),
        "print the errors of y and of variances, beside other libraries")
    add("row-accuracy", lambda options: row_accuracy.main(options.tiny),
        "print the errors of layer norm and RMS norm, beside other libraries")
    add("neighbour", lambda options: neighbour.main(options.tiny),
        "print latencies while another process keeps a core busy")
    add("placement", lambda options: placement.main(options.tiny),
        "print the cost of where arrays begin in a page and in a cache line")
    add("whitening", lambda options: whitening.main(options.tiny),
        "print the cost of whitening against the number of channels")
    sub = add("collective", collective, "print the cost of SyncBatchNorm; start it with mpiexec")
    sub.add_argument("--batch", type=int, default=8, metavar="N", help="samples a rank; default 8")
    return top


def _suites(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("suites", nargs="*", metavar="SUITE", help=f"{', '.join(SUITES)}; default all")
    sub.add_argument("--out", type=Path, metavar="FOLDER", help="default docs; with --tiny none")


def chosen(options: argparse.Namespace) -> list[tuple[Suite, Path | None]]:
    """Return the suites of a command, each with its file of figures."""
    known = TINY_SUITES if options.tiny else SUITES
    unknown = set(options.suites) - known.keys()
    if unknown:
        sys.exit(f"no such suite: {', '.join(sorted(unknown))}")
    folder = options.out or (None if options.tiny else DOCS)
    suites = [known[name] for name in options.suites or known]
    return [(suite, folder / f"{suite.document}.json" if folder else None) for suite in suites]


def run(options: argparse.Namespace) -> None:
    """Measure suites, and write the report."""
    threads, rounds, budget = ([2], 1, TINY_BUDGET) if options.tiny else ([1, 2], ROUNDS, BUDGET)
    measured = False
    for suite, path in chosen(options):
        plan = {op: [case for case in cases if case.layout in options.layouts
                     and case.name in (options.shapes or [case.name])]
                for op, cases in suite.plan.items() if op.name in (options.ops or [op.name])}
        if not any(plan.values()):
            continue
        measured = True
        results = Results(path, configuration())
        if results.dropped:
            print(f"{path} holds figures of another build or machine: they are replaced", file=sys.stderr)
        measure(results, plan, threads=options.threads or threads, rounds=options.rounds or rounds,
                budget=options.budget or budget, resume=options.resume)
        publish(results, suite)
    if not measured:
        sys.exit("no case has these shapes, layouts and operations")


def publish(results: Results, suite: Suite) -> None:
    """Print the report of a suite, and write it and its chart beside the figures."""
    print(f"# {suite.name.capitalize()}\n\n{report.markdown(results, suite)}")
    if results.path is None:
        return
    image = results.path.with_suffix(".png")
    chart = image.name if charts.draw(image, results, suite) else None
    document = results.path.with_suffix(".md")
    if not report.write(document, report.markdown(results, suite, chart), suite.name.capitalize()):
        print(f"{document} has no generated part: the report is printed only", file=sys.stderr)


def saved(options: argparse.Namespace) -> list[tuple[Suite, Results]]:
    """Return the suites of a command that have figures."""
    found = [(suite, Results.read(path)) for suite, path in chosen(options) if path is not None and path.exists()]
    if not found:
        sys.exit("no figures: measure with `python -m benchmarks run` first, or name the folder with --out")
    return found


def render(options: argparse.Namespace) -> None:
    """Write the reports of saved figures."""
    for suite, results in saved(options):
        publish(results, suite)


def targets(options: argparse.Namespace) -> None:
    """Print the targets of saved figures."""
    for suite, results in saved(options):
        print(f"# {suite.name.capitalize()}\n\n{report.summary(results, suite)}\n\n{report.missed(results, suite)}\n")


def collective(options: argparse.Namespace) -> None:
    """Print the cost of SyncBatchNorm."""
    from benchmarks import collective as exchanges  # starts MPI, from the extra mpi

    exchanges.main(options.tiny, options.batch)


if __name__ == "__main__":
    main()

"""Set fastbn beside its peers.

    python -m benchmarks.compare                    everything, a quarter of an hour; docs/benchmarks.md, .json and .png
    python -m benchmarks.compare --quick            every case, one short round
    python -m benchmarks.compare --tiny             a smoke run: prints, and writes nothing without --out
    python -m benchmarks.compare --resume           go on where a run was interrupted
    python -m benchmarks.compare --render           draw table and chart anew from the figures that are there
    python -m benchmarks.compare inference          another suite, what services run: see its --help

The figures go into a JSON file beside the document as they come. Further runs of the same build on the same machine add
to it, and the best time of each cell counts; those of anything else replace it.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import floors
from benchmarks.cases import LAYOUTS, Case, cases
from benchmarks.compare import chart, report
from benchmarks.compare.inference import suite as inference
from benchmarks.compare.libraries import FLOORS, LIBRARIES, Library, flat
from benchmarks.compare.machine import Load, configuration, is_busy
from benchmarks.compare.peers import OPS, applies
from benchmarks.compare.results import Results
from benchmarks.compare.targets import THREADS
from benchmarks.worker import ROOT, Worker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DEFAULT_OUT = ROOT / "docs" / "benchmarks.md"


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    chosen = [case for case in cases(options.tiny)
              if case.layout in options.layouts and case.name in (options.shapes or [case.name])]
    path = options.out.with_suffix(".json") if options.out else None
    if options.render:
        results = Results.read(path)
    else:
        results = Results(path, configuration())
        if results.dropped:
            print(f"{path} holds figures of another build or machine: they are replaced", file=sys.stderr)
        measure(results, chosen, options)
    print(report.markdown(results, chosen))
    if options.out:
        image = options.out.with_suffix(".png")
        threads = THREADS if THREADS in results.threads() else max(results.threads(), default=1)
        drawn = chart.draw(image, results, cases(options.tiny), threads)
        report.write(options.out, report.markdown(results, cases(options.tiny), image.name if drawn else None))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="one short round")
    size.add_argument("--tiny", action="store_true", help="one very short round of tiny cases")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument("--rounds", type=int, metavar="R", help="default 3")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="for one cell in one round; default 0.2")
    parser.add_argument("--ops", nargs="+", choices=OPS, default=OPS, metavar="OP", help=", ".join(OPS))
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=LAYOUTS, metavar="LAYOUT",
                        help=", ".join(LAYOUTS))
    parser.add_argument("--shapes", nargs="+", metavar="SHAPE", help="as 32x64x112x112; default all")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="default docs/benchmarks.md")
    parser.add_argument("--resume", action="store_true", help="skip what has been measured in all rounds")
    parser.add_argument("--render", action="store_true", help="measure nothing")
    options = parser.parse_args(arguments)
    rounds, budget = (1, 0.01) if options.tiny else (1, 0.05) if options.quick else (3, 0.2)
    options.rounds = options.rounds or rounds
    options.budget = options.budget or budget
    if options.out is None and not options.tiny:
        options.out = DEFAULT_OUT
    unknown = set(options.shapes or []) - {case.name for case in cases(options.tiny)}
    if unknown:
        parser.error(f"no such shape: {', '.join(sorted(unknown))}")
    if options.render and not (options.out and options.out.with_suffix(".json").exists()):
        parser.error("--render needs a file of figures beside --out")
    return options


def measure(results: Results, chosen: Sequence[Case], options: argparse.Namespace) -> None:
    """Measure every cell in every round, and keep the figures as they come."""
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
    libraries = [library for library in LIBRARIES if library.installed()]
    plan = list(cells(libraries, chosen, options))
    start = {key: 0 if not options.resume else results.rounds(key) for *_, key in plan}
    with ExitStack() as stack:
        workers = {}
        for target, threads, environment in sorted({(t, n, tuple(e.items())) for t, n, e, *_ in plan}):
            workers[target, threads] = stack.enter_context(Worker(target, threads, dict(environment)))
        load = Load(worker.pid for worker in workers.values())
        for turn in range(options.rounds):
            todo = [cell for cell in plan if start[cell[-1]] <= turn]
            if not todo:
                continue
            load.start()
            for done, (target, threads, _, case, op, key) in enumerate(todo, 1):
                progress(f"round {turn + 1} of {options.rounds}, {done} of {len(todo)}: {key}")
                results.add(key, workers[target, threads].measure(case, op, options.budget))
                if done % 50 == 0:
                    results.save()
            results.runs.append(load.stop())
            results.save()
            if is_busy(results.runs[-1]):
                print(f"\nthe machine was busy: {results.runs[-1]}", file=sys.stderr)
    progress("")


def cells(
    libraries: Sequence[Library], chosen: Sequence[Case], options: argparse.Namespace
) -> Iterator[tuple[str, int, dict[str, str], Case, str, str]]:
    """Yield (target, threads, environment, case, op, key) in the order of measuring.

    The libraries take turns at each operation, so that a busy minute slows all of them alike.
    """
    seen = set()
    for threads in options.threads:
        for case in chosen:
            for name in floors.PASSES:
                key = Results.key("floors", name, flat(case), threads)
                if key not in seen:
                    seen.add(key)
                    yield FLOORS, threads, {}, flat(case), name, key
            for op in options.ops:
                if not applies(op, case):
                    continue
                for library in libraries:
                    key = Results.key(library.name, op, case, threads)
                    if library.peer.supports(op, case) and key not in seen:
                        seen.add(key)
                        yield (library.target, threads if library.threaded else 1, library.environment, case, op, key)


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:<100.100}", end="\r" if not text else "", file=sys.stderr, flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["inference"]:
        inference.main(sys.argv[2:])
    else:
        main()

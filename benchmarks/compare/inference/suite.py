"""Set what services run beside the engines that services use.

    python -m benchmarks.compare inference              everything; docs/inference.md, .json and .png
    python -m benchmarks.compare inference --tiny       a smoke run: prints, and writes nothing without --out
    python -m benchmarks.compare inference --render     write the document anew from the figures that are there

The figures are kept as those of the other suite are.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.compare.inference import peers, report
from benchmarks.compare.inference.cases import plan
from benchmarks.compare.libraries import Library
from benchmarks.compare.machine import Load, configuration, is_busy
from benchmarks.compare.peers import TORCH_KEPT_HEAP
from benchmarks.compare.results import Results
from benchmarks.worker import ROOT, Worker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.cases import Case

LIBRARIES = (
    Library("fastbn", peers.Fastbn, "fastbn"),
    Library("torch", peers.Torch, "torch"),
    Library("torch.compile", peers.TorchCompiled, "torch", TORCH_KEPT_HEAP),
    Library("onnxruntime", peers.OnnxRuntime, "onnxruntime"),
    Library("openvino", peers.OpenVino, "openvino"),
    Library("numpy", peers.Numpy, "numpy", threaded=False),
    Library("opencv", peers.OpenCv, "cv2"),
)
DEFAULT_OUT = ROOT / "docs" / "inference.md"


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments)
    path = options.out.with_suffix(".json") if options.out else None
    if options.render:
        results = Results.read(path)
    else:
        results = Results(path, configuration())
        measure(results, options)
    print(report.markdown(results, plan(options.tiny)))
    if options.out:
        image = options.out.with_suffix(".png")
        drawn = report.draw(image, results, plan(options.tiny))
        report.write(options.out, report.markdown(results, plan(options.tiny), image.name if drawn else None))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare inference", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="one very short round of tiny cases")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument("--rounds", type=int, metavar="R", help="default 3")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="for one cell in one round; default 0.1")
    parser.add_argument("--ops", nargs="+", choices=list(plan()), default=list(plan()), metavar="OP",
                        help=", ".join(plan()))
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="default docs/inference.md")
    parser.add_argument("--render", action="store_true", help="measure nothing")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.tiny else 3)
    options.budget = options.budget or (0.01 if options.tiny else 0.1)
    if options.out is None and not options.tiny:
        options.out = DEFAULT_OUT
    if options.render and not (options.out and options.out.with_suffix(".json").exists()):
        parser.error("--render needs a file of figures beside --out")
    return options


def measure(results: Results, options: argparse.Namespace) -> None:
    """Measure every cell in every round."""
    cells = list(cells_of(options))
    with ExitStack() as stack:
        workers = {}
        for library, threads, *_ in cells:
            if (library.name, threads) not in workers:
                workers[library.name, threads] = stack.enter_context(
                    Worker(library.target, threads, library.environment))
        load = Load(worker.pid for worker in workers.values())
        for turn in range(options.rounds):
            load.start()
            for done, (library, threads, op, case) in enumerate(cells, 1):
                key = Results.key(library.name, op, case, threads)
                if sys.stderr.isatty():
                    print(f"\rround {turn + 1} of {options.rounds}, {done} of {len(cells)}: {key:<60.60}", end="",
                          file=sys.stderr, flush=True)
                results.add(key, workers[library.name, threads].measure(case, op, options.budget))
            results.runs.append(load.stop())
            results.save()
            if is_busy(results.runs[-1]):
                print(f"\nthe machine was busy: {results.runs[-1]}", file=sys.stderr)


def cells_of(options: argparse.Namespace) -> Iterator[tuple[Library, int, str, Case]]:
    """Yield what is measured, in that order: the libraries take turns at each operation."""
    installed = [library for library in LIBRARIES if library.installed()]
    for threads in options.threads:
        for op, cases in plan(options.tiny).items():
            for case in cases if op in options.ops else ():
                for library in installed:
                    once = not library.threaded and threads != min(options.threads)
                    if library.peer.supports(op, case) and not once:
                        yield library, threads if library.threaded else 1, op, case

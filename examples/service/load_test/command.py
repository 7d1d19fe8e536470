"""Measure throughput and latency of the service, kill workers under load, and report the results.

    python -m examples.service.load_test            # about three minutes; writes service.md and .png in docs/guides
    python -m examples.service.load_test --quick    # one short round; writes files only with --out

wrk runs on the same machine and connects over the loopback device.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from examples.service.client import ROOT, Service, running, wrong_answers
from examples.service.load_test import chart, report, wrk
from examples.service.load_test.kill import kill_workers
from examples.service.load_test.machine import LoadMeter, describe
from examples.service.load_test.report import PAGE, ROUTES, SERVERS, Cell, Results
from examples.service.model import Classifier
from examples.service.parameters import restore, save
from examples.service.training import test_pixels, train
from fastbn.cli.arguments import positive_int

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

DEFAULT_OUT = ROOT / "docs" / "guides" / "service.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report.

    Returns
    -------
    int
        The exit code: 0 on success; 1 if an answer was wrong or refused, or a worker was not replaced; 2 without wrk.
    """
    options = parse(argv)
    if not wrk.installed():
        print(wrk.INSTALL, file=sys.stderr)
        return 2
    meter = LoadMeter()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder), options)
    text = report.markdown(results, meter.read())
    print(text)
    if options.out:
        picture = options.out.with_suffix(".png")
        chart.draw(results, picture)
        report.write(options.out, f"{text}\n\n![Requests per second and latency]({picture.name})")
    return 0 if results.good else 1


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.service.load_test", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of one second")
    parser.add_argument("--seconds", type=positive_int, metavar="S", help="duration of a measurement; default 3")
    parser.add_argument("--rounds", type=positive_int, metavar="R", help="repetitions of each measurement; default 3")
    parser.add_argument("--connections", type=positive_int, nargs="+", default=[1, 8, 32], metavar="N",
                        help="numbers of connections; default 1 8 32")
    parser.add_argument("--workers", type=positive_int, default=2, metavar="N", help="worker processes; default 2")
    parser.add_argument("--threads", type=positive_int, default=1, metavar="N",
                        help="threads of each worker; default 1")
    parser.add_argument("--kills", type=positive_int, default=4, metavar="N",
                        help="workers to kill under load, per server; default 4")
    parser.add_argument("--out", type=Path, metavar="FILE.md",
                        help="document for the results (default docs/guides/service.md)")
    options = parser.parse_args(argv)
    seconds, rounds = (1, 1) if options.quick else (3, 3)
    options.seconds = options.seconds or seconds
    options.rounds = options.rounds or rounds
    if options.out is None and not options.quick:
        options.out = DEFAULT_OUT
    return options


def measure(folder: Path, options: argparse.Namespace) -> Results:
    """Train the network, then check and load both servers in turn."""
    progress("training")
    model = folder / "digits.npz"
    save(model, train()[0])
    classifier, images = Classifier(restore(model)), test_pixels()
    logits = {path: classifier.logits(images, folded=folded) for path, folded in ROUTES.items()}
    digits = {path: folder / f"{number}.lua" for number, path in enumerate(ROUTES)}
    for path, file in digits.items():
        wrk.write_digits(file, images, logits[path])
    changed_digits, change = compare(*logits.values())
    results = Results(machine=describe(), workers=options.workers, threads=options.threads, seconds=options.seconds,
                      rounds=options.rounds, changed_digits=changed_digits, change=change)
    for interface in SERVERS:
        with running(interface, model, folder / "log", workers=options.workers, threads=options.threads) as service:
            check(results, service, images, classifier)
            for turn in range(options.rounds):
                for connections in options.connections:
                    for path in (*ROUTES, PAGE):
                        progress(f"{SERVERS[interface]}, round {turn + 1} of {options.rounds}: {path}, "
                                 f"{report.plural(connections, 'connection')}")
                        figures = wrk.finish(
                            wrk.start(service.port, path, connections, options.seconds, digits.get(path)))
                        results.cells.setdefault(Cell(interface, path, connections), []).append(figures)
            progress(f"{SERVERS[interface]}: killing workers")
            results.recoveries.append(kill_workers(interface, service, options.kills, digits["/predict"]))
            check(results, service, images, classifier)
    return results


def check(results: Results, service: Service, images: NDArray[np.uint8], classifier: Classifier) -> None:
    """Send every digit over both routes, and count answers that differ from the local classifier in any bit."""
    for path, folded in ROUTES.items():
        results.compared += 2 * len(images)
        results.wrong += wrong_answers(service, path, images, classifier, folded)


def compare(logits: NDArray[np.float32], folded: NDArray[np.float32]) -> tuple[int, float]:
    """Return how many digits folding changes, and the largest change of a logit relative to the largest logit."""
    changed = int((logits.argmax(axis=1) != folded.argmax(axis=1)).sum())
    return changed, float(np.abs(logits - folded).max() / np.abs(logits).max())


def progress(text: str) -> None:
    """Print progress on standard error."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

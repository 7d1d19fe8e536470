"""``python -m fastbn demo``: what batch normalization does for a network, on real handwritten digits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn.cli.console import FAILED, WRONG_ARGUMENTS, show, tell, write_file
from fastbn.cli.demo.picture import draw
from fastbn.cli.demo.training import Run, load, train_all

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray


def run(epochs: int, batch: int, rate: float, seed: int, out: Path) -> int:
    """Train, print, draw.

    Parameters
    ----------
    epochs, batch : int
    rate : float
        The lower of the two learning rates; the other is ten times that.
    seed : int
    out : Path
        Where the picture goes.

    Returns
    -------
    int
        The exit code: 0; 1 if an image was classified differently alone than in a batch; 2 if `batch` does not fit.
    """
    train, test = load(seed)
    if not 2 <= batch <= len(train.labels):
        tell(f"--batch must be between 2 and the {len(train.labels)} training digits, got {batch}")
        return WRONG_ARGUMENTS
    runs = train_all(train, test, epochs, batch, rate, seed)
    try:
        show("", f"Test accuracy in %: trained on {len(train.labels)} digits, tested on {len(test.labels)} others", "",
             *table(runs))
        alike = classify_alone(runs[-1], test.images)
    finally:    # also for a reader who takes the first lines alone
        write_file(out, draw(runs, len(test.labels), out.suffix[1:].lower()))
    show("", f"picture: {out}")
    return 0 if alike else FAILED


def table(runs: list[Run]) -> list[str]:
    """Return the lines of a table: the test accuracy by epoch, one column a run."""
    rates = "".join(f"{f'rate {rate:g}':>26}" for rate in dict.fromkeys(run.rate for run in runs))
    lines = [f"     {rates}", "epoch" + "".join(f"{run.name:>13}" for run in runs)]
    for epoch, accuracies in enumerate(zip(*(run.accuracy for run in runs), strict=True), 1):
        lines.append(f"{epoch:>5}" + "".join(f"{'diverged' if a != a else f'{a:.1f}':>13}" for a in accuracies))
    return lines


def classify_alone(run: Run, images: NDArray[Any]) -> bool:
    """Compare the network on single images with itself on all of them; return whether every prediction is the same."""
    if run.diverged:
        show("", f"At rate {run.rate:g} even the network with batch normalization diverged: no inference to show.")
        return True
    network = run.network.train(False)
    frozen = network.frozen()
    together = network.logits(images)
    show("", f"Inference needs no batch: {len(images)} test digits one at a time, compared with all at once")
    ways: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
        "bn.eval()": network.logits,
        "bn.frozen()": lambda image: network.logits(image, frozen),
    }
    alike = True
    for name, logits in ways.items():
        alone = np.concatenate([logits(images[i:i + 1]) for i in range(len(images))])
        equal = int((alone.argmax(axis=1) == together.argmax(axis=1)).sum())
        difference = "logits the same bits" if np.array_equal(alone, together) else (
            f"largest difference of a logit {abs(alone - together).max():.2g}")
        show(f"  {name:<12} {equal} of {len(images)} predictions equal; {difference}")
        alike = alike and equal == len(images)
    return alike

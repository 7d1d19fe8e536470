"""Trains the networks, and prints and draws the results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn.cli.console import FAILED, USAGE_ERROR, show, tell, write_file
from fastbn.cli.demo.picture import draw
from fastbn.cli.demo.training import load, train_all

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from fastbn.cli.demo.training import Recipe, Run


def demonstrate(recipe: Recipe, out: Path) -> int:
    """Train, print the results, and draw them.

    Parameters
    ----------
    recipe : Recipe
    out : Path
        The picture to write.

    Returns
    -------
    int
        The exit code: 0 on success; 1 if a prediction for a single image differs from that in a batch; 2 if the batch
        size does not fit the training set.
    """
    train, test = load(recipe.seed)
    if not 2 <= recipe.batch <= len(train.labels):
        tell(f"fastbn demo: error: --batch must be between 2 and the {len(train.labels)} training digits, "
             f"got {recipe.batch}")
        return USAGE_ERROR
    runs = train_all(train, test, recipe)
    try:
        show("", f"Test accuracy in %: trained on {len(train.labels)} digits, tested on {len(test.labels)} others", "",
             *table(runs))
        equal = compare_single(runs[-1], test.images)
    finally:    # also if the reader of standard output closed it after some lines
        write_file(out, draw(runs, len(test.labels), out.suffix[1:].lower()))
    show("", f"picture: {out}")
    return 0 if equal else FAILED


def table(runs: list[Run]) -> list[str]:
    """Return the test accuracy as lines of text: a row for each epoch, a column for each run."""
    rates = "".join(f"{f'rate {rate:g}':>26}" for rate in dict.fromkeys(run.rate for run in runs))
    lines = [f"     {rates}", "epoch" + "".join(f"{run.name:>13}" for run in runs)]
    for epoch, accuracies in enumerate(zip(*(run.accuracy for run in runs), strict=True), 1):
        lines.append(f"{epoch:>5}" + "".join(f"{'diverged' if a != a else f'{a:.1f}':>13}" for a in accuracies))
    return lines


def compare_single(run: Run, images: NDArray[Any]) -> bool:
    """Print how predictions for single images compare with those for all images together; return whether all agree."""
    if run.diverged:
        show("", f"At rate {run.rate:g} the network with batch normalization diverged too; inference is not compared.")
        return True
    network = run.network.train(False)
    frozen = network.frozen()
    together = network.logits(images)
    show("", f"Inference on single images: {len(images)} test digits, compared with one batch of all of them")
    methods: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
        "bn.eval()": network.logits,
        "bn.frozen()": lambda image: network.logits(image, frozen),
    }
    agree = True
    for name, logits in methods.items():
        single = np.concatenate([logits(images[i:i + 1]) for i in range(len(images))])
        equal = int((single.argmax(axis=1) == together.argmax(axis=1)).sum())
        difference = "logits are bit-identical" if np.array_equal(single, together) else (
            f"largest difference of a logit {abs(single - together).max():.2g}")
        show(f"  {name:<12} {equal} of {len(images)} predictions equal; {difference}")
        agree = agree and equal == len(images)
    return agree

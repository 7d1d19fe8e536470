"""What the applications have in common: a command with a picture and a number."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray


SUFFIXES = (".png", ".pdf", ".svg")


class Result(NamedTuple):
    """The result of an application.

    Attributes
    ----------
    numbers : dict of str to float
        By what they are, with the unit.
    figure : Figure
    """

    numbers: dict[str, float]
    figure: Figure


def main(module: str, doc: str, application: Callable[[int, bool], Result]) -> int:
    """Run an application as a script.

    Parameters
    ----------
    module : str
        The path of the script.
    doc : str
    application : callable
        Gets a seed, and whether to take a tenth of the steps.
    """
    name = Path(module).stem
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--seed", type=natural, default=0, metavar="S", help="of weights, data and order (default: 0)")
    parser.add_argument("--short", action="store_true", help="a tenth of the steps")
    parser.add_argument("--out", type=picture, default=Path(f"{name}.png"), metavar="PATH",
                        help=f"the picture to write (default: {name}.png)")
    arguments = parser.parse_args()
    with threadpool_limits(1, user_api="blas"):     # the matrices are small
        result = application(arguments.seed, arguments.short)
    result.figure.savefig(arguments.out, dpi=110)
    for text, number in result.numbers.items():
        sys.stdout.write(f"{text}: {number:.4g}\n")
    sys.stdout.write(f"picture: {arguments.out}\n")
    return 0


def natural(text: str) -> int:
    """Return an integer of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected an integer of at least 0, got {text!r}")
    return int(text)


def picture(text: str) -> Path:
    """Return the path of a picture that can be written."""
    path = Path(text)
    if path.suffix not in SUFFIXES:
        raise argparse.ArgumentTypeError(f"expected a path that ends in {' or '.join(SUFFIXES)}, got {text!r}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {str(path.parent)!r}")
    if not os.access(path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"nothing can be written to the folder {str(path.parent)!r}")
    return path


def pictures(rows: Iterable[tuple[str, NDArray[Any]]], columns: int) -> Figure:
    """Return rows of images, each with a title: (N, H, W) or (N, H, W, 3), from 0 to 1."""
    named = list(rows)
    figure = Figure(figsize=(0.75 * columns, 1.05 * len(named)))
    panels = figure.subplots(len(named), columns, squeeze=False, gridspec_kw={
        "hspace": 0.45, "wspace": 0.15, "left": 0.01, "right": 0.99, "bottom": 0.3 / (1 + len(named)),
        "top": 1 - 0.4 / (1 + len(named))})
    for line, (title, images) in zip(panels, named, strict=True):
        for panel, image in zip(line, images, strict=False):
            panel.imshow(image.clip(0, 1), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
        for panel in line:
            panel.axis("off")
        line[0].text(0, 1.08, title, transform=line[0].transAxes, fontsize=8)
    return figure

"""The arguments of the demonstration."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from fastbn._core import extras
from fastbn.cli.arguments import natural, picture_path, positive_float, positive_int
from fastbn.cli.command import Command
from fastbn.cli.console import FAILED, tell

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = {"matplotlib": "matplotlib", "sklearn": "scikit-learn", "tqdm": "tqdm"}      # module: name for pip


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parser.description = (
        "Train a small convolutional network on the 1,797 handwritten digits of scikit-learn, with and without batch "
        "normalization, at two learning rates. The command prints the test accuracy after each epoch, compares the "
        "predictions for single digits with those for the whole test set, and plots the four accuracy curves. It "
        "takes 10 to 20 seconds.")
    parser.epilog = f"Requires an extra: {extras.hint('demo')}"
    parser.add_argument("--epochs", type=positive_int, default=15, metavar="N", help="passes over the training digits")
    parser.add_argument("--batch", type=positive_int, default=64, metavar="N", help="digits in a training step")
    parser.add_argument(
        "--rate", type=positive_float, default=0.1, metavar="R",
        help="the lower learning rate; the higher one is ten times as large")
    parser.add_argument(
        "--seed", type=natural, default=0, metavar="S",
        help="seed of the initial weights, the split of the digits, and their order")
    parser.add_argument(
        "--out", type=picture_path, default="fastbn-demo.png", metavar="PATH",
        help="the picture to write: .png, .pdf or .svg")


def run(arguments: argparse.Namespace) -> int:
    """Run the demonstration, or report the package that is missing."""
    try:
        from fastbn.cli.demo.demonstration import demonstrate
        from fastbn.cli.demo.training import Recipe
    except ModuleNotFoundError as error:
        missing = PACKAGES.get((error.name or "").partition(".")[0])
        if missing is None:
            raise
        tell(extras.missing("The demo", missing, "demo"))
        return FAILED
    recipe = Recipe(arguments.epochs, arguments.batch, arguments.rate, arguments.seed)
    out: Path = arguments.out
    return demonstrate(recipe, out)


COMMAND = Command("demo", "train a small network on handwritten digits, with and without batch normalization",
                  "--out demo.png", configure, run)

"""``python -m fastbn fold``: folds the batch normalizations of an ONNX model."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastbn._core import extras
from fastbn._core.checks import counted
from fastbn.cli.arguments import positive_float
from fastbn.cli.command import Command
from fastbn.cli.console import FAILED, OutputError, check_writable, show, tell

if TYPE_CHECKING:
    from fastbn.folding.onnx_graph.convert import Conversion

PACKAGES = ("onnx", "onnxruntime")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.description = (
        "Fold the BatchNormalization nodes of an ONNX model, and constant factors and terms, into neighbouring layers. "
        "The command reports what it did with each node, and compares both models on random inputs in ONNX Runtime. "
        "It writes the folded model only if their outputs agree.")
    parser.epilog = f"Requires an extra: {extras.hint('onnx')}"
    parser.add_argument("model", metavar="MODEL", type=Path, help="the ONNX model to read")
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="the file for the folded model")
    parser.add_argument("--force", action="store_true", help="replace OUTPUT if it exists; it may be MODEL itself")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--tolerance", type=positive_float, metavar="T",
        help="the largest accepted difference of an output, relative to its largest value (default: 1e-4; 1e-2 for "
        "float16)")
    parser.add_argument(
        "--input-shape", type=named_shape, action="append", default=[], metavar="NAME=N,C,...", dest="shapes",
        help="the shape of an input with dynamic axes, for the comparison; may be repeated for other inputs")


def run(arguments: argparse.Namespace) -> int:
    """Fold a model, or report in one line why not."""
    try:
        from fastbn.folding.onnx_graph.check import CheckError
        from fastbn.folding.onnx_graph.convert import ConvertError, convert
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in PACKAGES:
            raise
        tell(extras.missing("Folding ONNX models", str(error.name), "onnx"))
        return FAILED
    shapes = dict(arguments.shapes)
    if len(shapes) < len(arguments.shapes):
        return refuse("--input-shape gives an input two shapes")
    try:
        if os.path.isdir(arguments.output.parent):      # otherwise `convert` reports the missing folder
            check_writable(arguments.output)
        done = convert(arguments.model, arguments.output, force=arguments.force, tolerance=arguments.tolerance,
                       shapes=shapes)
    except (CheckError, ConvertError, OutputError) as error:
        return refuse(str(error))
    except UnicodeDecodeError as error:     # protobuf, onnx and ONNX Runtime decode names in many places
        return refuse(f"{arguments.model} has a name that is not UTF-8: {error.reason}")
    except MemoryError:
        return refuse("there is not enough memory for the model")
    show(*(json.dumps(report(done, arguments.output), indent=2).split("\n") if arguments.json
           else describe(done, arguments.output)))
    return 0


def refuse(reason: str) -> int:
    """Print in one line why no file was written, and return the exit code."""
    tell(" ".join(["nothing was written:", *reason.splitlines()]))
    return FAILED


def report(done: Conversion, output: Path) -> dict[str, Any]:
    """Return the result as values for JSON."""
    return {
        "output": str(output),
        "batch_norms": [asdict(outcome) for outcome in done.outcomes if outcome.is_batch_norm],
        "constants": [asdict(outcome) for outcome in done.outcomes if not outcome.is_batch_norm],
        "nodes": {"before": done.nodes_before, "after": done.nodes_after},
        "agreement": asdict(done.agreement),
    }


def describe(done: Conversion, output: Path) -> list[str]:
    """Return the result as lines of text."""
    lines = []
    for outcome in done.outcomes:
        if outcome.certificate is None:
            lines.append(f"{outcome.node}: left, because {outcome.reason}")
        else:
            lines.append(f"{outcome.node}: folded into {outcome.target}, certificate "
                         f"{outcome.certificate.relative:.2g}")
    norms = [outcome for outcome in done.outcomes if outcome.is_batch_norm]
    folded = sum(outcome.target is not None for outcome in norms)
    constants = len(done.outcomes) - len(norms)
    more = f" and {counted(constants, 'operation')} with constants" if constants else ""
    nothing = "" if folded or constants else "nothing to fold: "
    agreement = done.agreement
    lines += [
        f"{nothing}{folded} of {len(norms)} batch normalizations{more} folded; {done.nodes_before} nodes before, "
        f"{done.nodes_after} after",
        f"largest difference of the outputs on {agreement.inputs} random inputs: {agreement.absolute:.3g}, "
        f"{agreement.relative:.2g} of the largest value",
        *(["(outputs do not depend on the inputs, so this says little)"] if agreement.constant else []),
        f"written: {output}",
    ]
    return lines


def named_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Return a name and a shape, or raise the error that ``argparse`` reports."""
    name, equals, sizes = text.rpartition("=")
    if not name or not equals or not all(size.isdecimal() and int(size) for size in sizes.split(",")):
        raise argparse.ArgumentTypeError(f"expected NAME=N,C,... with integers of at least 1, got {text!r}")
    return name, tuple(map(int, sizes.split(",")))


COMMAND = Command("fold", "fold the batch normalizations of an ONNX model into neighbouring layers",
                  "model.onnx folded.onnx", configure, run)

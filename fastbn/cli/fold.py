"""``python -m fastbn fold``: its arguments, and what it prints."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastbn._core.checks import counted
from fastbn.cli.console import FAILED, OutputError, check_writable, show, tell

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastbn.folding.onnx_graph.convert import Conversion

HELP = "fold the batch normalizations of an ONNX model into the layers beside them"
EXTRA = ("onnx", "onnxruntime")


def configure(command: argparse.ArgumentParser, positive_float: Callable[[str], float]) -> None:
    """Give a parser the arguments of the command."""
    command.description = (
        "Fold every BatchNormalization of an ONNX model that can be folded into the layer before or the layers behind "
        "it, and constant factors and terms into the layer before them, say what became of each, and write the result "
        "if both models do the same in ONNX Runtime on random inputs.")
    command.epilog = "Needs the extra: pip install 'fastbn[onnx]'"
    command.add_argument("model", type=Path, help="the ONNX model to read")
    command.add_argument("output", type=Path, help="where the folded model goes")
    command.add_argument("--force", action="store_true", help="replace OUTPUT if it exists; it may be MODEL itself")
    command.add_argument("--json", action="store_true", help="print JSON, for programs")
    command.add_argument(
        "--tolerance", type=positive_float, metavar="T",
        help="how far an output may be off, as a fraction of its largest value (default: 1e-4; 1e-2 in float16)")
    command.add_argument(
        "--input-shape", type=named_shape, action="append", default=[], metavar="NAME=N,C,...", dest="shapes",
        help="the shape of an input whose shape is open, for the check; may be given for several inputs")
    command.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Fold a model, or say in one line why not."""
    try:
        from fastbn.folding.onnx_graph.check import CheckError
        from fastbn.folding.onnx_graph.convert import ConvertError, convert
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        tell(f"Folding ONNX models needs {error.name}, which is not installed: pip install 'fastbn[onnx]'")
        return FAILED
    shapes = dict(arguments.shapes)
    if len(shapes) < len(arguments.shapes):
        return refuse("--input-shape gives an input two shapes")
    try:
        if os.path.isdir(arguments.output.parent):      # else `convert` says that there is none
            check_writable(arguments.output)
        done = convert(arguments.model, arguments.output, force=arguments.force, tolerance=arguments.tolerance,
                       shapes=shapes)
    except (CheckError, ConvertError, OutputError) as error:
        return refuse(str(error))
    except UnicodeDecodeError as error:     # protobuf, onnx and ONNX Runtime decode names each where they need them
        return refuse(f"{arguments.model} has a name that is not UTF-8: {error.reason}")
    except MemoryError:
        return refuse("there is not enough memory for the model")
    show(*(json.dumps(report(done, arguments.output), indent=2).split("\n") if arguments.json
           else describe(done, arguments.output)))
    return 0


def refuse(reason: str) -> int:
    """Say in one line why nothing was written, and return the exit code."""
    tell(" ".join(["nothing was written:", *reason.splitlines()]))
    return FAILED


def report(done: Conversion, output: Path) -> dict[str, Any]:
    """Return what was done, ready for JSON."""
    return {
        "output": str(output),
        "batch_norms": [asdict(outcome) for outcome in done.outcomes if outcome.is_batch_norm],
        "constants": [asdict(outcome) for outcome in done.outcomes if not outcome.is_batch_norm],
        "nodes": {"before": done.nodes_before, "after": done.nodes_after},
        "agreement": asdict(done.agreement),
    }


def describe(done: Conversion, output: Path) -> list[str]:
    """Return what was done, line by line."""
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
    """Return a name and a shape, or raise the error that argparse shows."""
    name, equals, sizes = text.rpartition("=")
    if not name or not equals or not all(size.isdecimal() and int(size) for size in sizes.split(",")):
        raise argparse.ArgumentTypeError(f"expected NAME=N,C,... with integers of at least 1, got {text!r}")
    return name, tuple(map(int, sizes.split(",")))

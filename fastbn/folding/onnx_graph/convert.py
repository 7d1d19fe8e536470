"""Fold the model in a file, compare the results, and write the folded model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from fastbn._core.files import NotRegularError, open_regular, replace
from fastbn.folding.onnx_graph.check import Agreement, Reference, Shapes, in_one_line
from fastbn.folding.onnx_graph.fold import Outcome, fold_batch_norms

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto

# The limit of Protocol Buffers for one file.
MOST_BYTES = (1 << 31) - 1


class ConvertError(RuntimeError):
    """A model cannot be read, folded or written. Nothing was written."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """The result of a conversion.

    Attributes
    ----------
    outcomes : list of Outcome
        As returned by `fold_batch_norms`.
    nodes_before, nodes_after : int
        The number of nodes in the main graph.
    agreement : Agreement
        The difference of the two models on random inputs.
    """

    outcomes: list[Outcome]
    nodes_before: int
    nodes_after: int
    agreement: Agreement


def convert(
    source: Path, target: Path, *, force: bool = False, tolerance: float | None = None,
    shapes: Shapes | None = None,
) -> Conversion:
    """Fold the batch norms of a model in a file, compare the two models, and write the folded one.

    Parameters
    ----------
    source : Path
        A model with or without external data.
    target : Path
        Written atomically, as one file. A symbolic link is followed.
    force : bool
        Whether to replace an existing `target`, which may be `source`.
    tolerance : float, optional
        As in `Reference.compare`.
    shapes : mapping of str to tuple of int, optional
        As in `Reference`.

    Returns
    -------
    Conversion

    Raises
    ------
    ConvertError, CheckError
        If a file cannot be read or written, the model is not supported, or the outputs of the two models differ.
    """
    # os.path reports an invalid name as missing, where Path raises an error.
    if os.path.exists(target) and not os.path.isfile(target):   # a folder or a device
        raise ConvertError(f"{target} is not a file that could be replaced")
    if os.path.exists(target) and not force:
        raise ConvertError(f"{target} exists already; --force replaces it")
    if not os.path.isdir(target.parent):
        raise ConvertError(f"there is no directory {target.parent}")
    model = read(source)
    reference = Reference(source, shapes or {})
    before = len(model.graph.node)
    outcomes = fold_batch_norms(model)
    folded = serialized(model)
    agreement = reference.compare(folded, tolerance)
    try:
        replace(target, folded)
    except OSError as error:
        raise ConvertError(f"{target} cannot be written: {reason(error)}") from error
    return Conversion(outcomes, before, len(model.graph.node), agreement)


def read(path: Path) -> ModelProto:
    """Return the model in a file, with its external data."""
    try:
        with open_regular(path) as file:
            model = onnx.load(file, format="protobuf", load_external_data=False)
        if not model.HasField("graph"):
            raise ConvertError(f"{path} is not an ONNX model: it has no graph")
        onnx.checker.check_model(path)
    except OSError as error:
        raise ConvertError(f"{path} cannot be read: {reason(error)}") from error
    except NotRegularError as error:
        raise ConvertError(str(error)) from error
    except DecodeError as error:
        raise ConvertError(f"{path} is not an ONNX model: {in_one_line(error)}") from error
    except onnx.checker.ValidationError as error:
        raise ConvertError(f"{path} is not a valid ONNX model: {in_one_line(error)}") from error
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError) as error:
        raise ConvertError(f"the external data of {path} cannot be read: {in_one_line(error)}") from error
    if model.training_info:
        raise ConvertError(f"{path} describes training, which uses parameters that a fold changes")
    if model.ByteSize() > MOST_BYTES:
        raise ConvertError(f"{path} with its external data is larger than 2 GiB, which does not fit in one file")
    return model


def serialized(model: ModelProto) -> bytes:
    """Return the bytes of a valid model."""
    data: bytes = model.SerializeToString()
    try:
        onnx.checker.check_model(data)
    except onnx.checker.ValidationError as error:
        raise ConvertError(f"the folded model is not valid, so it was not written: {in_one_line(error)}") from error
    return data


def reason(error: OSError) -> str:
    """Return the reason of an error, without the name of the file."""
    return error.strerror or in_one_line(error)

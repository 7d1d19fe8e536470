"""What a state does not tell of a layer, kept as metadata of a file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

from fastbn._core.checks import check_eps, check_momentum
from fastbn.checkpoints.header import shortened

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import DTypeLike

Averaging: TypeAlias = Literal["ema", "cumulative", "exact"]
NanPolicy: TypeAlias = Literal["propagate", "raise", "skip_update"]


class Settings(TypedDict, total=False):
    """Those arguments of `BatchNorm` that do not follow from a state."""

    axis: int
    eps: float
    momentum: float | None
    unbiased: bool
    dtype: DTypeLike | None
    num_threads: int | None
    averaging: Averaging
    debias: bool
    nan_policy: NanPolicy


_ORIGIN = "fastbn."
_NUMBER = r"[0-9]{1,20}(?:\.[0-9]{1,20})?(?:e[+-][0-9]{1,3})?"
_PATTERNS = {
    "axis": re.compile(r"-?[0-9]{1,9}"),
    "eps": re.compile(_NUMBER),
    "momentum": re.compile(f"None|{_NUMBER}"),
    "unbiased": re.compile("True|False"),
    # Of momentum None, "ema" is "cumulative".
    "averaging": re.compile("ema|exact"),
    "debias": re.compile("True|False"),
    "nan_policy": re.compile("propagate|raise|skip_update"),
}


def encode(layer: Any, unbiased: bool, prefix: str) -> dict[str, str]:
    """Return the metadata of a layer whose file has a running variance of that kind."""
    settings = {"axis": layer.axis, "eps": layer.eps, "momentum": layer.momentum, "unbiased": unbiased}
    texts = {name: repr(value) for name, value in settings.items()}
    texts |= {name: text for name, text, default in (
        ("averaging", "exact" if layer.averaging == "exact" else "ema", "ema"),
        ("debias", repr(layer.debias), "False"), ("nan_policy", layer.nan_policy, "propagate")) if text != default}
    return {_key(prefix, name): text for name, text in texts.items()}


def decode(metadata: Mapping[str, str], prefix: str) -> Settings:
    """Return the settings that a file has of a layer; those of another origin have none.

    Raises
    ------
    ValueError
        If a value is none that `encode` writes.
    """
    texts = {name: metadata[_key(prefix, name)] for name in _PATTERNS if _key(prefix, name) in metadata}
    for name, text in texts.items():
        if not _PATTERNS[name].fullmatch(text):
            raise ValueError(f"metadata has {shortened(text)} as {_key(prefix, name)}")
    settings: Settings = {}
    if "axis" in texts:
        settings["axis"] = int(texts["axis"])
    if "eps" in texts:
        settings["eps"] = check_eps(float(texts["eps"]))
    if "momentum" in texts:
        settings["momentum"] = check_momentum(None if texts["momentum"] == "None" else float(texts["momentum"]))
    if "unbiased" in texts:
        settings["unbiased"] = texts["unbiased"] == "True"
    if "averaging" in texts:
        settings["averaging"] = texts["averaging"]  # type: ignore[typeddict-item]
    if "debias" in texts:
        settings["debias"] = texts["debias"] == "True"
    if "nan_policy" in texts:
        settings["nan_policy"] = texts["nan_policy"]  # type: ignore[typeddict-item]
    return settings


def prefix_of(key: str) -> str | None:
    """Return the prefix of the layer that a key of metadata belongs to, or None for one of another origin."""
    name = next((name for name in _PATTERNS if key.startswith(_ORIGIN) and key.endswith(name)), None)
    return None if name is None else key.removeprefix(_ORIGIN).removesuffix(name)


def prefixes_of(metadata: Iterable[str]) -> set[str]:
    """Return the prefixes of all layers that `encode` has written settings of."""
    return {prefix for key in metadata if (prefix := prefix_of(key)) is not None}


def _key(prefix: str, name: str) -> str:
    return f"{_ORIGIN}{prefix}{name}"

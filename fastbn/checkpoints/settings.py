"""The settings of a layer, which its state does not include, as metadata of a file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, TypedDict, get_args

from fastbn._core.checks import check_eps, check_momentum, shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import DTypeLike


Averaging: TypeAlias = Literal["ema", "cumulative", "exact"]
UpdatePolicy: TypeAlias = Literal["propagate", "raise", "skip_update"]
OnSingle: TypeAlias = Literal["raise", "zero", "running"]
Keep: TypeAlias = Literal["input", "output"]
AVERAGINGS: tuple[Averaging, ...] = get_args(Averaging)
UPDATE_POLICIES: tuple[UpdatePolicy, ...] = get_args(UpdatePolicy)
ON_SINGLE: tuple[OnSingle, ...] = get_args(OnSingle)
KEEP: tuple[Keep, ...] = get_args(Keep)


class Settings(TypedDict, total=False):
    """The arguments of a layer that do not follow from its state."""

    axis: int | tuple[int, ...]
    eps: float
    momentum: float | None
    unbiased: bool
    dtype: DTypeLike | None
    num_threads: int | None
    averaging: Averaging
    debias: bool
    nan_policy: UpdatePolicy
    on_single: OnSingle
    virtual_batch_size: int | None
    keep: Keep


class Setting(NamedTuple):
    """How a setting is written in a file.

    Attributes
    ----------
    pattern : str
        A regular expression for the text.
    parse : callable
        From the text to the value.
    default : str or None
        A text that is not written.
    """

    pattern: str
    parse: Callable[[str], Any]
    default: str | None = None


_ORIGIN = "fastbn."
_NUMBER = r"[0-9]{1,20}(?:\.[0-9]{1,20})?(?:e[+-][0-9]{1,3})?"
_FLAG = "True|False"
_AXIS = "-?[0-9]{1,9}"
_AXES = rf"{_AXIS}|\({_AXIS}(?:, {_AXIS}){{1,31}}\)"


def _axes(text: str) -> int | tuple[int, ...]:
    if text[0] != "(":
        return int(text)
    return tuple(int(axis) for axis in text[1:-1].split(","))


SETTINGS = {
    "axis": Setting(_AXES, _axes),
    "eps": Setting(_NUMBER, lambda text: check_eps(float(text))),
    "momentum": Setting(f"None|{_NUMBER}", lambda text: check_momentum(None if text == "None" else float(text))),
    "unbiased": Setting(_FLAG, "True".__eq__),
    # "cumulative" is "ema" with the momentum None.
    "averaging": Setting("|".join(name for name in AVERAGINGS if name != "cumulative"), str, "ema"),
    "debias": Setting(_FLAG, "True".__eq__, "False"),
    "nan_policy": Setting("|".join(UPDATE_POLICIES), str, "propagate"),
    "on_single": Setting("|".join(ON_SINGLE), str, "raise"),
    "virtual_batch_size": Setting("None|[1-9][0-9]{0,17}", lambda text: None if text == "None" else int(text), "None"),
    "keep": Setting("|".join(KEEP), str, "input"),
}
KIND = "kind"               # the name of the layer's class
ARGUMENTS = "arguments"     # of a layer that is stored as a whole
_PATTERNS = {name: re.compile(setting.pattern) for name, setting in SETTINGS.items()} | {
    KIND: re.compile("[A-Za-z][A-Za-z0-9_]{0,63}"), ARGUMENTS: re.compile(r"\{.{0,65536}\}", re.DOTALL)}


def encode(layer: object, prefix: str, unbiased: bool, kind: str | None) -> dict[str, str]:
    """Return the settings of a layer as metadata.

    Parameters
    ----------
    layer : Checkpointable
    prefix : str
    unbiased : bool
        Whether the running variance in the file is unbiased.
    kind : str or None
        The name of the layer's class; None is the default class.
    """
    values = {name: getattr(layer, name) for name in SETTINGS if hasattr(layer, name)} | {"unbiased": unbiased}
    if values.get("averaging") == "cumulative":
        values["averaging"] = "ema"
    texts = {name: value if isinstance(value, str) else repr(value) for name, value in values.items()}
    texts = {name: text for name, text in texts.items() if text != SETTINGS[name].default}
    if kind is not None:
        texts[KIND] = kind
    return {key_of(prefix, name): text for name, text in texts.items()}


def decode(metadata: Mapping[str, str], prefix: str) -> tuple[Settings, str | None]:
    """Return the settings of a layer from metadata, and the name of its class or None.

    Raises
    ------
    ValueError
        If `encode` does not write such a value.
    """
    texts = {name: metadata[key_of(prefix, name)] for name in _PATTERNS if key_of(prefix, name) in metadata}
    for name, text in texts.items():
        if not _PATTERNS[name].fullmatch(text):
            raise ValueError(f"metadata has {shortened(text)} as {key_of(prefix, name)}")
    kind = texts.pop(KIND, None)
    texts.pop(ARGUMENTS, None)
    values: Any = {name: SETTINGS[name].parse(text) for name, text in texts.items()}
    settings: Settings = values
    return settings, kind


def prefix_of(key: str) -> str | None:
    """Return the prefix of the layer that a key of metadata belongs to, or None for a key of other origin."""
    name = next((name for name in _PATTERNS if key.startswith(_ORIGIN) and key.endswith(name)), None)
    return None if name is None else key.removeprefix(_ORIGIN).removesuffix(name)


def prefixes_of(metadata: Iterable[str]) -> set[str]:
    """Return the prefixes of all layers with settings in the metadata."""
    return {prefix for key in metadata if (prefix := prefix_of(key)) is not None}


def key_of(prefix: str, name: str) -> str:
    """Return the key of a setting of a layer in the metadata of a file."""
    return f"{_ORIGIN}{prefix}{name}"

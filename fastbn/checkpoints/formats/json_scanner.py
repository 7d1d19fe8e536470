"""A scanner for the JSON in checkpoints: objects of strings and of lists of integers, and nothing else."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from fastbn._core.checks import shortened

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_DIMENSIONS = 32

SPACE = r"[ \t\n\r]*"
_INTEGER = f"(?:0|[1-9][0-9]{{0,18}}){SPACE}"
INTEGERS = rf"\[{SPACE}((?:{_INTEGER}(?:,{SPACE}{_INTEGER}){{0,{MOST_DIMENSIONS - 1}}})?)\]"
"""A pattern for a list of integers; its group is the text between the brackets."""

_SPACE = re.compile(SPACE)
_STRING = re.compile(rf'{SPACE}"([^"\\\x00-\x1f]*)"')      # without escapes, the common case
_LIST = re.compile(SPACE + INTEGERS)
_LIST_OF_ANY = re.compile(r"\[([0-9, \t\n\r]{0,2000})\]")
_NEXT = re.compile(rf"{SPACE}([,}}])")
_decode = json.JSONDecoder().raw_decode


def integers_of(text: str) -> tuple[int, ...]:
    """Return the integers of a list from the text between its brackets, as matched by `INTEGERS`."""
    return tuple(map(int, text.split(","))) if text else ()


class Scanner:
    """Read JSON text from front to back; the caller names the type of each value.

    A general parser builds all nested objects of a malicious header, at many times its size, before the header can be
    checked. This scanner stops at the first unexpected character.

    Parameters
    ----------
    text : str
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def members(self) -> Iterator[str]:
        """Yield the keys of an object. Read the value of each key before the next iteration."""
        self._take("{")
        if self._accept("}"):
            return
        seen: set[str] = set()
        while True:
            key = self.string()
            if key in seen:
                raise ValueError(f"header has the name {shortened(key)} twice")
            seen.add(key)
            self._take(":")
            yield key
            found = _NEXT.match(self._text, self._at)
            if found is None:
                self._skip()
                raise self._unexpected(repr(","))
            self._at = found.end()
            if found[1] == "}":
                return

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Read the text at the current position that matches a pattern, or nothing."""
        found = pattern.match(self._text, self._at)
        if found is not None:
            self._at = found.end()
        return found

    def string(self) -> str:
        """Read a string."""
        found = self.match(_STRING)
        if found is not None:
            return found[1]
        self._skip()
        if not self._text.startswith('"', self._at):
            raise self._unexpected("a string")
        try:
            value, self._at = _decode(self._text, self._at)
        except json.JSONDecodeError as error:
            what = error.msg.removesuffix(" at").removesuffix(": ")     # the usual message continues with the line
            raise ValueError(f"header is not JSON: {what} at character {error.pos}") from None
        assert isinstance(value, str)
        return value

    def integers(self) -> tuple[int, ...]:
        """Read a list of integers from 0 to 10**19 - 1."""
        found = self.match(_LIST)
        if found is not None:
            return integers_of(found[1])
        self._skip()
        a_list = _LIST_OF_ANY.match(self._text, self._at) is not None
        raise self._unexpected(f"a list of up to {MOST_DIMENSIONS} integers" if a_list else "a list of integers")

    def end(self) -> None:
        """Raise an error unless only white space is left."""
        self._skip()
        if self._at < len(self._text):
            raise self._unexpected("the end")

    def _skip(self) -> None:
        found = _SPACE.match(self._text, self._at)
        assert found is not None
        self._at = found.end()

    def _accept(self, char: str) -> bool:
        self._skip()
        if self._text.startswith(char, self._at):
            self._at += 1
            return True
        return False

    def _take(self, char: str) -> None:
        if not self._accept(char):
            raise self._unexpected(repr(char))

    def _unexpected(self, expected: str) -> ValueError:
        found = repr(self._text[self._at:self._at + 20]) if self._at < len(self._text) else "the end"
        return ValueError(f"header has {found} at character {self._at}; expected {expected}")

"""Signals that interrupt the command: SIGINT from Ctrl-C, and SIGTERM from schedulers and containers."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The process received one of the signals."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code: int = 128 + number       # as in a shell


def _do_nothing(number: int, frame: Any) -> None:
    # Not SIG_IGN, with which Python reports an error for a signal that arrived together with the first.
    pass


@contextmanager
def interrupting_once() -> Iterator[None]:
    """Raise `Interrupted` for the first signal, and ignore later ones.

    A second Ctrl-C must not prevent the resume file of the first. Signals that the process ignores, for example under
    ``nohup``, stay ignored.
    """
    if threading.current_thread() is not threading.main_thread():   # other threads receive no signals
        yield
        return

    def interrupt(number: int, frame: Any) -> NoReturn:
        for each in before:
            signal.signal(each, _do_nothing)
        raise Interrupted(number)

    before = {each: signal.getsignal(each) for each in SIGNALS if signal.getsignal(each) is not signal.SIG_IGN}
    for each in before:
        signal.signal(each, interrupt)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)

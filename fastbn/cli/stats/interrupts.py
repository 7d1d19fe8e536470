"""Ctrl-C, and the SIGTERM of schedulers and containers: the first one ends the command, with what it knows."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """One of the signals has come."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number       # as a shell has it


def _do_nothing(number: int, frame: Any) -> None:
    # Not SIG_IGN: Python complains of one that came together with the first.
    pass


@contextmanager
def interrupting_once() -> Iterator[None]:
    """Raise Interrupted for the first signal, and ignore those after it.

    Whoever presses Ctrl-C twice still wants the file that the first one leaves. What was ignored before, as under
    nohup, is ignored here.
    """
    if threading.current_thread() is not threading.main_thread():   # where signals never arrive
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

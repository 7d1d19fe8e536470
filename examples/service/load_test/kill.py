"""Kills workers under load, and waits for their replacement."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from examples.service.load_test import wrk

if TYPE_CHECKING:
    from pathlib import Path

    from examples.service.client import Service

CONNECTIONS = 8


@dataclass(frozen=True)
class Recovery:
    """The result of killing workers.

    Attributes
    ----------
    interface : {"wsgi", "asgi"}
    kills : int
    replaced : int
        Workers started since then, from the metrics.
    figures : wrk.Figures
        Results of the clients.
    """

    interface: str
    kills: int
    replaced: int
    figures: wrk.Figures


def kill_workers(interface: str, service: Service, kills: int, digits: Path) -> Recovery:
    """Kill a worker every second with SIGKILL while wrk posts digits.

    Raises
    ------
    TimeoutError
        If a worker is not replaced.
    """
    name = "digits_workers_started_total"
    before = service.metric(name)
    load = wrk.start(service.port, "/predict", CONNECTIONS, kills + 1, digits)
    try:
        for _ in range(kills):
            time.sleep(1)
            victim = min(service.worker_pids())     # usually the oldest
            os.kill(victim, signal.SIGKILL)
            service.wait_for_workers(gone=victim)
    finally:
        figures = wrk.finish(load)
    return Recovery(interface, kills, int(service.metric(name) - before), figures)

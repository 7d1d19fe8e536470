"""Starts the service in a separate process, and sends requests to it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import psutil

from examples.service.images import MOST_IMAGES, RAW

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from examples.service.model import Classifier

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 600.0    # seconds; Gunicorn gives its workers 30 seconds to stop


class Answer(NamedTuple):
    """A response of the service."""

    status: int
    headers: dict[str, str]     # names in lower case
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Service:
    """A running service.

    Attributes
    ----------
    process : psutil.Process
        The Gunicorn master.
    port : int
    workers : int
        The number of workers.
    """

    process: psutil.Process
    port: int
    workers: int

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None,
        connection: HTTPConnection | None = None,
    ) -> Answer:
        """Send one request, over a new connection unless one is given."""
        with contextlib.closing(self.connect()) if connection is None else contextlib.nullcontext(connection) as link:
            link.request(method, path, body, headers or {})
            response = link.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, response.read())

    def connect(self) -> HTTPConnection:
        """Return a connection."""
        return HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def worker_pids(self) -> set[int]:
        """Return the process ids of the workers."""
        return {child.pid for child in self.process.children()}

    def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels, or 0 if it is not set."""
        lines = self.ask("GET", "/metrics").body.decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{name}[ {{]", line))

    def wait_for_workers(self, gone: int | None = None) -> set[int]:
        """Wait until all workers are ready and the worker `gone` has ended, and return their process ids."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            pids = self.worker_pids()
            # A worker that is not ready yet could miss a signal.
            if len(pids) == self.workers and gone not in pids and self.metric("digits_workers") == self.workers:
                return pids
            time.sleep(0.01)
        raise TimeoutError(f"expected {self.workers} workers to be ready within {PATIENCE:g} s; there are {len(pids)}")


@contextlib.contextmanager
def running(
    interface: str, model: Path, log: Path, *, workers: int = 2, threads: int | None = None
) -> Iterator[Service]:
    """Run the service on a free port for the length of a ``with`` block.

    Parameters
    ----------
    interface : {"wsgi", "asgi"}
    model : Path
        Parameters of the network; trained if the file does not exist.
    log : Path
        The file for the output of the service.
    workers : int
    threads : int, optional
        Threads of each worker.

    Yields
    ------
    Service

    Raises
    ------
    RuntimeError
        If the service does not start; the message contains its log.
    """
    options = ["--interface", interface, "--port", "0", "--workers", str(workers), "--model", str(model)]
    if threads is not None:
        options += ["--threads", str(threads)]
    with log.open("w") as stream:
        process = subprocess.Popen([sys.executable, "-m", "examples.service", *options], cwd=ROOT,
                                   env={**os.environ, "PYTHONUNBUFFERED": "1"}, stdout=stream, stderr=stream)
    try:
        service = Service(psutil.Process(process.pid), port_of(process, log), workers)
        service.wait_for_workers()
        yield service
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()      # the workers notice the end of their parent
            process.wait()
            raise


def port_of(process: subprocess.Popen[bytes], log: Path) -> int:
    """Wait for the port in the log of a service, and return it."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r"Listening at: http://[^ ]*:(\d+)", log.read_text()):
            return int(found[1])
        time.sleep(0.01)
    raise RuntimeError(f"the service does not start:\n{log.read_text()}")


def wrong_answers(service: Service, path: str, images: NDArray[np.uint8], classifier: Classifier, folded: bool) -> int:
    """Send the images one at a time and in large batches, and count answers that differ from the local classifier.

    Parameters
    ----------
    service : Service
    path : str
    images : ndarray of uint8, shape (N, 8, 8, 1)
    classifier : Classifier
    folded : bool
        Whether the answers must be those of folded batch normalization.

    Returns
    -------
    int
        The number of answers, two per image, with a wrong digit or a wrong bit of a logit.
    """
    expected = classifier.logits(images, folded=folded)
    wrong = 0
    with contextlib.closing(service.connect()) as connection:
        for step in (1, MOST_IMAGES):
            for start in range(0, len(images), step):
                chosen = slice(start, start + step)
                answer = service.ask("POST", path, images[chosen].tobytes(), {"Content-Type": RAW}, connection)
                wrong += count_wrong(answer, expected[chosen])
    return wrong


def count_wrong(answer: Answer, expected: NDArray[np.float32]) -> int:
    """Count the images whose digit or logits differ from the expected ones in any bit."""
    if answer.status != 200:
        return len(expected)
    logits, digits = (np.array(answer.json[name], kind) for name, kind in (("logits", np.float32), ("digits", np.intp)))
    if logits.shape != expected.shape or len(digits) != len(expected):
        return len(expected)
    alike = (logits.view(np.uint32) == expected.view(np.uint32)).all(axis=1) & (digits == expected.argmax(axis=1))
    return int((~alike).sum())

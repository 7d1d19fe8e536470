"""What the service counts, summed over its workers, dead ones included.

Each worker keeps its numbers in files of its own, in a folder that PROMETHEUS_MULTIPROC_DIR names: it must be set
before this module is imported. Whichever worker is asked adds them up.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

if TYPE_CHECKING:
    import falcon

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)

# In no registry: `render` reads the files, in which those of the other workers are too.
REQUESTS = Counter("digits_requests", "Requests answered, by route and status.", ["route", "status"], registry=None)
LATENCY = Histogram("digits_request_seconds", "From the header of a request to its answer.", ["route"],
                    buckets=SECONDS, registry=None)
IMAGES = Counter("digits_images", "Images told apart.", registry=None)
STARTED = Counter("digits_workers_started", "Workers started, replacements included.", registry=None)
WORKERS = Gauge("digits_workers", "Workers that are ready.", multiprocess_mode="livesum", registry=None)


def render() -> bytes:
    """Return all of it in Prometheus' text format."""
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def worker_started() -> None:
    """Count this process as a worker that is ready."""
    STARTED.inc()
    WORKERS.set(1)


def worker_died(pid: int) -> None:
    """Take a worker out of those that live; what it counted stays."""
    multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]


class Middleware:
    """Counts and times every request of a Falcon application, WSGI or ASGI."""

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Look at the clock."""
        req.context.started = time.perf_counter()

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, resource: object, req_succeeded: bool
    ) -> None:
        """Count the answer."""
        # Not the path: whoever asks for what is not there must not make new series.
        route = req.uri_template or "none"
        REQUESTS.labels(route, resp.status_code).inc()
        LATENCY.labels(route).observe(time.perf_counter() - req.context.started)

    async def process_request_async(self, req: falcon.Request, resp: falcon.Response) -> None:
        """As `process_request`."""
        self.process_request(req, resp)

    async def process_response_async(
        self, req: falcon.Request, resp: falcon.Response, resource: object, req_succeeded: bool
    ) -> None:
        """As `process_response`."""
        self.process_response(req, resp, resource, req_succeeded)

"""Metrics of the service, summed over all workers, including those that ended.

Each worker writes its own files to the folder PROMETHEUS_MULTIPROC_DIR, which must be set before this module is
imported. The worker that gets the request adds them up.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

if TYPE_CHECKING:
    import falcon

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)

# Without a registry, because `render` reads the files of all workers.
REQUESTS = Counter("digits_requests", "Requests answered, by route and status.", ["route", "status"], registry=None)
LATENCY = Histogram("digits_request_seconds", "From the header of a request to its answer.", ["route"],
                    buckets=SECONDS, registry=None)
IMAGES = Counter("digits_images", "Images classified.", registry=None)
STARTED = Counter("digits_workers_started", "Workers started, replacements included.", registry=None)
WORKERS = Gauge("digits_workers", "Workers that are ready.", multiprocess_mode="livesum", registry=None)


def render() -> bytes:
    """Return the metrics in the text format of Prometheus."""
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def worker_started() -> None:
    """Count this process as a ready worker."""
    STARTED.inc()
    WORKERS.set(1)


def worker_died(pid: int) -> None:
    """Remove a worker from the ready ones; its counts stay."""
    multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]


class Middleware:
    """Counts and times every request of a Falcon application, WSGI or ASGI."""

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Store the start time."""
        req.context.started = time.perf_counter()

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, resource: object, req_succeeded: bool
    ) -> None:
        """Count the response."""
        # The template instead of the path, so that unknown paths do not create new series.
        route = req.uri_template or "none"
        REQUESTS.labels(route, resp.status_code).inc()
        LATENCY.labels(route).observe(time.perf_counter() - req.context.started)

    async def process_request_async(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Store the start time."""
        self.process_request(req, resp)

    async def process_response_async(
        self, req: falcon.Request, resp: falcon.Response, resource: object, req_succeeded: bool
    ) -> None:
        """Count the response."""
        self.process_response(req, resp, resource, req_succeeded)

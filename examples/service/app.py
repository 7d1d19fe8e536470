"""The routes, as a WSGI and as an ASGI application."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import falcon
import falcon.asgi

import fastbn
from examples.service import metrics
from examples.service.images import MOST_BYTES, PNG, RAW, decode

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from examples.service.model import Classifier

LONGEST_ID = 64
PAGE = Path(__file__).with_name("page.html")
PROMETHEUS_TEXT = "text/plain; version=0.0.4; charset=utf-8"


def wsgi_app(classifier: Classifier) -> Any:
    """Return the WSGI application."""
    return with_routes(falcon.App(middleware=metrics.Middleware()), classifier, Page, Prediction)


def asgi_app(classifier: Classifier) -> Any:
    """Return the ASGI application."""
    return with_routes(falcon.asgi.App(middleware=metrics.Middleware()), classifier, AsyncPage, AsyncPrediction)


def with_routes(app: Any, classifier: Classifier, page: type[Page], prediction: type[Prediction]) -> Any:
    """Add the routes to an application of either kind."""
    page_of_digits = PAGE.read_bytes()
    app.add_route("/", page(lambda: page_of_digits, falcon.MEDIA_HTML))
    app.add_route("/predict", prediction(classifier, folded=False))
    app.add_route("/predict/folded", prediction(classifier, folded=True))
    app.add_route("/health", page(health, falcon.MEDIA_JSON))
    app.add_route("/metrics", page(metrics.render, PROMETHEUS_TEXT))
    app.set_error_serializer(error_as_json)
    return app


class Page:
    """A page that GET returns.

    Parameters
    ----------
    render : callable
        Returns the content.
    content_type : str
    """

    def __init__(self, render: Callable[[], bytes], content_type: str) -> None:
        self._render = render
        self._content_type = content_type

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Send the response."""
        resp.content_type = self._content_type
        resp.data = self._render()


class AsyncPage(Page):
    """The same resource for ASGI."""

    async def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:  # type: ignore[override]
        """Send the response."""
        super().on_get(req, resp)


class Prediction:
    """The resource that classifies the images in a POST request.

    Parameters
    ----------
    classifier : Classifier
    folded : bool
        Whether to use the convolutions with folded batch normalization.
    """

    def __init__(self, classifier: Classifier, *, folded: bool) -> None:
        self._classifier = classifier
        self._folded = folded

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Send the response."""
        content_type = check_headers(req, resp)
        images = decoded(req.bounded_stream.read(), content_type)
        started = time.perf_counter()
        self._answer(resp, self._logits(images), started)

    def _logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._classifier.logits(images, folded=self._folded)

    def _answer(self, resp: falcon.Response, logits: NDArray[np.float32], started: float) -> None:
        resp.set_header("Server-Timing", f"predict;dur={1e3 * (time.perf_counter() - started):.3f}")
        metrics.IMAGES.inc(len(logits))
        resp.content_type = falcon.MEDIA_JSON
        resp.data = as_json(logits)


class AsyncPrediction(Prediction):
    """The same resource for ASGI."""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:  # type: ignore[override]
        """Send the response."""
        content_type = check_headers(req, resp)
        images = decoded(await req.stream.read(), content_type)
        # A single image is faster than the switch to a thread; many images would block other requests.
        started = time.perf_counter()
        logits = self._logits(images) if len(images) == 1 else await asyncio.to_thread(self._logits, images)
        self._answer(resp, logits, started)


def check_headers(req: falcon.Request, resp: falcon.Response) -> str:
    """Check the headers of a prediction, and return the content type."""
    if (request_id := req.get_header("X-Request-ID")) is not None:
        if len(request_id) > LONGEST_ID or not (request_id.isascii() and request_id.isprintable()):
            raise falcon.HTTPInvalidHeader(f"expected at most {LONGEST_ID} printable ASCII characters", "X-Request-ID")
        resp.set_header("X-Request-ID", request_id)
    content_type = (req.content_type or "").partition(";")[0].strip().lower()
    if content_type not in (PNG, RAW):
        raise falcon.HTTPUnsupportedMediaType(
            description=f"Content-Type must be {PNG} or {RAW}, got {content_type or 'none'}")
    if req.content_length is None:
        raise falcon.HTTPLengthRequired(description="Content-Length is required")
    if req.content_length > MOST_BYTES:
        raise falcon.HTTPContentTooLarge(
            description=f"the body must have at most {MOST_BYTES} bytes, got {req.content_length}")
    return content_type


def decoded(body: bytes, content_type: str) -> NDArray[np.uint8]:
    """Return the images in a body, or raise the error of the response."""
    try:
        return decode(body, content_type)
    except ValueError as error:
        raise falcon.HTTPBadRequest(description=str(error)) from error


def as_json(logits: NDArray[np.float32]) -> bytes:
    """Return the response to a prediction.

    Parameters
    ----------
    logits : ndarray of float32, shape (N, 10)

    Returns
    -------
    bytes
        {"digits": [...], "logits": [[...], ...]}, with enough digits to restore the bits of float32.

    Examples
    --------
    >>> import numpy as np
    >>> as_json(np.array([[0.1, 0.5]], np.float32))
    b'{"digits": [1], "logits": [[0.10000000149011612, 0.5]]}'
    """
    return json.dumps({"digits": logits.argmax(axis=1).tolist(), "logits": logits.tolist()}).encode()


def health() -> bytes:
    """Return the state of this worker."""
    return json.dumps({"status": "ok", "pid": os.getpid(), "fastbn": fastbn.__version__,
                       "threads": fastbn.get_num_threads()}).encode()


def error_as_json(req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError) -> None:
    """Send an error as JSON, independent of the Accept header."""
    resp.content_type = falcon.MEDIA_JSON
    resp.data = error.to_json()

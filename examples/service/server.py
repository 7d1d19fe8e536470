"""Gunicorn around the service: it loads the network once, forks the workers, and replaces those that die."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from gunicorn.app.base import BaseApplication
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

import fastbn
from examples.service.images import MOST_IMAGES
from examples.service.model import SIDE, Classifier
from examples.service.parameters import restore, save

if TYPE_CHECKING:
    from pathlib import Path

    from gunicorn.arbiter import Arbiter
    from gunicorn.workers.base import Worker

# Of a WSGI worker, so that a slow client does not keep others waiting.
CONNECTIONS_AT_ONCE = 4
WORKER_CLASSES = {"wsgi": "gthread", "asgi": "uvicorn_worker.UvicornWorker"}


@dataclass(frozen=True)
class Settings:
    """How to run the service.

    Attributes
    ----------
    interface : {"wsgi", "asgi"}
        Gunicorn's own workers, or Uvicorn's.
    host : str
    port : int
        0 for any that is free; the log says which.
    workers : int
        Processes.
    threads : int
        In each, for fastbn and for the matrix products.
    model : Path
        The parameters; trained and written if the file is not there.
    """

    interface: str
    host: str
    port: int
    workers: int
    threads: int
    model: Path


class Server(BaseApplication):
    """The service as Gunicorn runs it: ``Server(settings, application(settings)).run()``."""

    def __init__(self, settings: Settings, application: Any) -> None:
        self._settings = settings
        self._application = application
        super().__init__()

    def load_config(self) -> None:
        """Tell Gunicorn what the settings mean."""
        options = {
            "bind": f"{self._settings.host}:{self._settings.port}",
            "workers": self._settings.workers,
            "worker_class": WORKER_CLASSES[self._settings.interface],
            "threads": CONNECTIONS_AT_ONCE,
            "control_socket_disable": True,
            "post_worker_init": post_worker_init,
            "child_exit": child_exit,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """Return the application, which was made before any worker was forked."""
        return self._application


def application(settings: Settings) -> Any:
    """Return the WSGI or ASGI application, ready to answer.

    Raises
    ------
    OSError, ValueError
        If the file of parameters cannot be read or written, or it or the number of threads is not what it must be.
    """
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = scratch_folder()
    from examples.service import app

    fastbn.set_num_threads(settings.threads)
    threadpool_limits(settings.threads, user_api="blas")
    if not settings.model.exists():
        train_into(settings.model)
    classifier = Classifier(restore(settings.model))
    warm_up(classifier)
    return app.wsgi_app(classifier) if settings.interface == "wsgi" else app.asgi_app(classifier)


def train_into(path: Path) -> None:
    """Make the file of parameters."""
    # Only now: a worker has no use for scikit-learn.
    from examples.service.training import train

    print(f"{path} is not there yet: training the network", flush=True)
    save(path, train()[0])


def warm_up(classifier: Classifier) -> None:
    """Compute both ways once, with threads if there are to be any.

    What is made when first needed is made here, and the workers share its memory.
    """
    images = np.zeros((MOST_IMAGES, SIDE, SIDE, 1), np.uint8)
    for folded in (False, True):
        classifier.logits(images, folded=folded)


def scratch_folder() -> str:
    """Return a new folder that goes when this process does; not when a worker does, which inherits the duty."""
    folder, owner = tempfile.mkdtemp(prefix="fastbn-service-"), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(folder)

    atexit.register(remove)
    return folder


def post_worker_init(worker: Worker) -> None:
    """Count a worker that is ready."""
    from examples.service import metrics

    metrics.worker_started()


def child_exit(arbiter: Arbiter, worker: Worker) -> None:
    """Discount a worker that is gone."""
    from examples.service import metrics

    metrics.worker_died(int(worker.pid))

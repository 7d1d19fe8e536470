"""The Gunicorn server, which loads the network once, forks the workers, and replaces those that end."""

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

# Threads of a WSGI worker, so that a slow client does not block others.
CONNECTIONS_AT_ONCE = 4
WORKER_CLASSES = {"wsgi": "gthread", "asgi": "uvicorn_worker.UvicornWorker"}


@dataclass(frozen=True)
class Settings:
    """Settings of the service.

    Attributes
    ----------
    interface : {"wsgi", "asgi"}
        Workers of Gunicorn or of Uvicorn.
    host : str
    port : int
        0 selects a free port, which the log names.
    workers : int
        Number of worker processes.
    threads : int
        Threads of each worker, for fastbn and for matrix products.
    model : Path
        Parameters of the network; trained and written if the file does not exist.
    """

    interface: str
    host: str
    port: int
    workers: int
    threads: int
    model: Path


class Server(BaseApplication):
    """The Gunicorn application: ``Server(settings, application(settings)).run()`` runs the service."""

    def __init__(self, settings: Settings, application: Any) -> None:
        self._settings = settings
        self._application = application
        super().__init__()

    def load_config(self) -> None:
        """Pass the settings to Gunicorn."""
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
        """Return the application, which was created before the workers were forked."""
        return self._application


def application(settings: Settings) -> Any:
    """Return the WSGI or ASGI application.

    Raises
    ------
    OSError, ValueError
        If the file of parameters cannot be read or written, or a setting or parameter is invalid.
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
    """Train the network, and write the file of parameters."""
    # Imported here, because workers do not need scikit-learn.
    from examples.service.training import train

    print(f"{path} does not exist: training the network", flush=True)
    save(path, train()[0])


def warm_up(classifier: Classifier) -> None:
    """Run both variants once, so that the workers share the memory of buffers that the first call allocates."""
    images = np.zeros((MOST_IMAGES, SIDE, SIDE, 1), np.uint8)
    for folded in (False, True):
        classifier.logits(images, folded=folded)


def scratch_folder() -> str:
    """Create a folder that is removed at the exit of this process, but not of its workers."""
    folder, owner = tempfile.mkdtemp(prefix="fastbn-service-"), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(folder)

    atexit.register(remove)
    return folder


def post_worker_init(worker: Worker) -> None:
    """Count a ready worker."""
    from examples.service import metrics

    metrics.worker_started()


def child_exit(arbiter: Arbiter, worker: Worker) -> None:
    """Remove an ended worker from the count."""
    from examples.service import metrics

    metrics.worker_died(int(worker.pid))

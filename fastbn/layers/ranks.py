"""Exchanges between the ranks of an MPI communicator: pieces of equal length, and errors, within a time limit.

a) Exchanges use a private duplicate of the caller's communicator, which the first exchange makes and stores as an
   attribute of it, so they never meet a message of the caller.
b) An exchange is one non-blocking all-gather, because only non-blocking ones can be abandoned. MPI may still write to
   the buffers of an abandoned exchange, so they are never freed, and its communicator is not used again.
c) A piece begins with a header that tells what its rank is doing. All ranks see the same headers, so either all
   continue or all raise an error.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core.checks import check_number
from fastbn._core.extras import hint

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Self

FORWARD, BACKWARD = 0, 1
OPERATIONS = ("forward", "backward")
FAILED, OPERATION, TURN, WIDTH, HEADER = range(5)       # the places of a header, and its length
TEXT_BYTES = 400        # of an error that is sent to the other ranks
EAGER_SECONDS = 2e-3    # of polling without sleep
REST_SECONDS = 5e-5     # of sleep between two polls after that

_yield = getattr(os, "sched_yield", lambda: time.sleep(0))     # there may be more ranks than cores
_keyval: int | None = None
_abandoned: list[tuple[Any, ...]] = []


def load_mpi() -> Any:
    """Return mpi4py's MPI, whose import starts MPI.

    Raises
    ------
    ImportError
        If mpi4py or an MPI library is missing.
    """
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:    # the latter if mpi4py finds no MPI library
        raise ImportError(f"SyncBatchNorm needs mpi4py and an MPI library: {hint('mpi')} ({error})") from None
    return MPI


def check_timeout(timeout: object) -> float:
    """Return seconds, which may be infinite."""
    value = check_number(timeout, "timeout", "a number of seconds")
    if not value > 0.0:
        raise ValueError(f"timeout must be a positive number of seconds, got {timeout!r}")
    return value


class Channel:
    """The private duplicate of a communicator."""

    def __init__(self, comm: Any) -> None:
        self.comm = comm
        self.broken: str | None = None

    def wait(self, request: Any, buffers: tuple[Any, ...], timeout: float, purpose: str) -> None:
        """Wait for a request, or abandon the channel.

        Raises
        ------
        TimeoutError
            If the other ranks did not take part in time.
        """
        start = time.monotonic()
        try:
            while not request.Test():
                waited = time.monotonic() - start
                if waited > timeout:
                    raise TimeoutError(
                        f"{purpose}: not all ranks came within {timeout:g} s; one has failed, or does something else")
                if waited > EAGER_SECONDS:
                    time.sleep(REST_SECONDS)
                else:
                    _yield()
        except BaseException as error:      # a KeyboardInterrupt leaves the request pending too
            self.broken = f"{type(error).__name__} in {purpose}"
            _abandoned.append((request, *buffers))
            raise

    def all_gather(self, piece: NDArray[Any], timeout: float, purpose: str) -> NDArray[Any]:
        """Return the pieces of all ranks, in their order: shape (ranks, *piece.shape).

        Raises
        ------
        RuntimeError
            If an earlier exchange was abandoned, or MPI fails.
        TimeoutError
            As `wait`.
        """
        if self.broken:
            raise RuntimeError(f"{purpose}: the ranks lost contact earlier ({self.broken}); start them again")
        out = np.empty((self.comm.size, *piece.shape), piece.dtype)
        try:
            self.wait(self.comm.Iallgather(piece, out), (piece, out), timeout, purpose)
        except load_mpi().Exception as error:
            raise RuntimeError(
                f"{purpose}: {error}; expected layers of as many channels on every rank, and a network") from error
        return out


def channel_of(comm: Any, timeout: float, purpose: str) -> Channel:
    """Return the channel of a communicator; the first call is collective.

    Raises
    ------
    TimeoutError
        As `Channel.wait`.
    """
    global _keyval
    if _keyval is None:
        _keyval = load_mpi().Comm.Create_keyval()
    channel: Channel | None = comm.Get_attr(_keyval)
    if channel is None:
        private, request = comm.Idup()
        channel = Channel(private)
        comm.Set_attr(_keyval, channel)
        channel.wait(request, (private,), timeout, purpose)
    return channel


class Peers:
    """The ranks that share a layer.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm or None
        None for COMM_WORLD.
    timeout : float
        Seconds to wait for the others.
    width : int
        The most numbers that a rank contributes to an exchange.

    Attributes
    ----------
    turn : int
        Exchanges so far: ranks that differ in it are not doing the same.
    """

    def __init__(self, comm: Any, timeout: float, width: int) -> None:
        MPI = load_mpi()  # noqa: N806
        self.comm: Any = MPI.COMM_WORLD if comm is None else comm
        if not isinstance(self.comm, MPI.Intracomm) or self.comm == MPI.COMM_NULL:
            raise TypeError(f"comm must be an mpi4py.MPI.Intracomm, got {comm!r}")
        self.timeout: float = check_timeout(timeout)
        self.width: int = width
        self.turn: int = 0

    def __deepcopy__(self, memo: object) -> Self:
        return copy.copy(self)      # the communicator is shared: a layer and its copy are on the same ranks

    @property
    def alone(self) -> bool:
        """Whether there is one rank only."""
        return bool(self.comm.size == 1)

    @contextmanager
    def telling(self, operation: int) -> Iterator[None]:
        """Report an error to the other ranks if it is raised before this rank's part of an exchange."""
        turn = self.turn
        try:
            yield
        except Exception as error:
            if self.alone or self.turn != turn:
                raise
            try:
                self._exchange(operation, np.zeros(0), error)
            except (RuntimeError, TimeoutError) as late:
                raise error from late       # the other ranks run into the time limit
            raise

    def exchange(self, operation: int, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the values of all ranks, in their order, or raise on all of them.

        Parameters
        ----------
        operation : {FORWARD, BACKWARD}
        values : ndarray of float64, shape (n,)

        Returns
        -------
        ndarray of float64, shape (ranks, n)

        Raises
        ------
        RuntimeError
            If a rank has failed, or does something else.
        TimeoutError
            If a rank does not take part in time.
        """
        return self._exchange(operation, values, None)

    def _exchange(
        self, operation: int, values: NDArray[np.float64], error: Exception | None,
    ) -> NDArray[np.float64]:
        purpose = f"{OPERATIONS[operation]} of a SyncBatchNorm on rank {self.comm.rank} of {self.comm.size}"
        piece = np.zeros(HEADER + self.width)       # all of one length, so that every header arrives
        piece[:HEADER] = error is not None, operation, self.turn, self.width
        piece[HEADER : HEADER + len(values)] = values
        turn = self.turn
        self.turn += 1
        channel = channel_of(self.comm, self.timeout, purpose)
        pieces = channel.all_gather(piece, self.timeout, purpose)
        headers = pieces[:, :HEADER]
        if (headers[:, WIDTH] != self.width).any():     # pieces of another length, with headers at unknown places
            channel.broken = f"layers of different widths in {purpose}"
            raise RuntimeError(f"{purpose}: expected layers of as many channels on every rank, and no other calls")
        self.turn = int(headers[:, TURN].max()) + 1     # in step again, if the caller continues after an error
        if headers[:, FAILED].any():
            texts = self._texts(channel, error, purpose)
            if error is None:
                raise RuntimeError(f"{purpose}: {'; '.join(texts)}")
        if (headers != headers[0]).any() and error is None:
            other = int(np.argmax((headers != piece[:HEADER]).any(axis=1)))
            raise RuntimeError(
                f"{purpose}, exchange {turn}: rank {other} is in the {OPERATIONS[int(headers[other, OPERATION])]}, "
                f"exchange {headers[other, TURN]:.0f}; expected the same calls of the same layers on every rank; "
                "layers that are out of step have to be made again")
        return pieces[:, HEADER : HEADER + len(values)]

    def _texts(self, channel: Channel, error: Exception | None, purpose: str) -> list[str]:
        # The errors of all ranks.
        text = "" if error is None else f"{type(error).__name__}: {error}"
        piece = np.zeros(TEXT_BYTES, np.uint8)
        encoded = text.encode()[:TEXT_BYTES]
        piece[: len(encoded)] = np.frombuffer(encoded, np.uint8)
        texts = channel.all_gather(piece, self.timeout, purpose)
        decoded = [row.tobytes().rstrip(b"\0").decode(errors="replace") for row in texts]
        return [f"rank {rank} failed with {text}" for rank, text in enumerate(decoded) if text]

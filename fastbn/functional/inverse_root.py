"""Inverse square roots of covariance matrices, and their gradients.

Each class takes covariances (G, D, D), gives ``matrix``, the symmetric (cov + eps I)^(-1/2) of each, and maps the
gradient of these to that of the covariances. All in float64; a covariance that is not finite gives NaN in its group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastbn._core.checks import listed

if TYPE_CHECKING:
    from collections.abc import Iterator

Matrices: TypeAlias = NDArray[np.float64]       # (G, D, D)


def symmetric(a: Matrices) -> Matrices:
    """Return the symmetric part."""
    half: Matrices = (a + a.swapaxes(1, 2)) / 2
    return half


def finite_or_identity(cov: Matrices) -> tuple[Matrices, NDArray[np.bool_]]:
    """Return covariances that LAPACK accepts, and which groups were not finite."""
    wrong = np.array([not np.isfinite(group).all() for group in cov])
    if wrong.any():
        cov = cov.copy()
        cov[wrong] = np.eye(cov.shape[1])
    return cov, wrong


def refuse_singular(wrong: NDArray[np.bool_]) -> None:
    """Raise an error if a covariance has no inverse."""
    groups = np.flatnonzero(wrong).tolist()
    if groups:
        raise ValueError(f"eps is 0 and the covariance is singular in group{'s' if len(groups) > 1 else ''} "
                         f"{listed(groups)}; expected a positive eps, or more values per channel than channels in a "
                         "group, with no channel that depends on others")


class EigenRoot:
    """The exact root, by eigenvalues: ZCA.

    With cov = U diag(v) U^T and f(v) = (v + eps)^(-1/2), matrix = U diag(f(v)) U^T. The gradient is
    U (K * (U^T d U)) U^T with the divided differences K_ij = (f(v_i) - f(v_j)) / (v_i - v_j), f'(v_i) for equal
    eigenvalues (theorem of Daleckii and Krein). They are computed as -f_i f_j / (1 / f_i + 1 / f_j), which divides by
    no difference, so that equal eigenvalues need no other case.

    Parameters
    ----------
    cov : ndarray of float64, shape (G, D, D)
    eps : float

    Raises
    ------
    ValueError
        If eps is 0 and a covariance is singular in float64.
    """

    __slots__ = ("_roots", "_vectors", "matrix")

    def __init__(self, cov: Matrices, eps: float) -> None:
        cov, wrong = finite_or_identity(cov)
        values, vectors = np.linalg.eigh(cov)       # ascending
        if eps == 0:
            refuse_singular(values[:, 0] <= cov.shape[1] * np.finfo(np.float64).eps * values[:, -1])
        roots = 1 / np.sqrt(np.maximum(values, 0) + eps)        # rounding may leave an eigenvalue below 0
        roots[wrong] = np.nan
        self._roots: NDArray[np.float64] = roots
        self._vectors: Matrices = vectors
        self.matrix: Matrices = (vectors * roots[:, None, :]) @ vectors.swapaxes(1, 2)

    def gradient(self, d: Matrices) -> Matrices:
        """Return the symmetric gradient of the covariances, given that of `matrix`."""
        vectors, transposed = self._vectors, self._vectors.swapaxes(1, 2)
        left, right = self._roots[:, :, None], self._roots[:, None, :]
        k = -left * right / (1 / left + 1 / right)
        gradient: Matrices = vectors @ (k * (transposed @ symmetric(d) @ vectors)) @ transposed
        return gradient


class NewtonRoot:
    """An approximate root, by Newton's iteration: IterNorm.

    With A = (cov + eps I) / tr, tr the trace of cov + eps I, and Z_0 = I, Z_{k+1} = (3 Z_k - Z_k^3 A) / 2 and
    matrix = Z_T / sqrt(tr), after Huang et al. (2019). It is computed with Y_k = A Z_k beside Z_k, as
    Y_{k+1} = Y_k (3 I - Z_k Y_k) / 2 and Z_{k+1} = (3 I - Z_k Y_k) Z_k / 2: the same in exact arithmetic and as much
    work, but rounding errors do not grow with k (Higham, 2008, "Functions of Matrices", chapter 6). `gradient` computes
    the iterates again and goes through them backwards.

    Parameters
    ----------
    cov : ndarray of float64, shape (G, D, D)
    eps : float
    iterations : int

    Raises
    ------
    ValueError
        If eps is 0 and a covariance is 0.
    """

    __slots__ = ("_iterations", "_normal", "_trace", "matrix")

    def __init__(self, cov: Matrices, eps: float, iterations: int) -> None:
        cov, wrong = finite_or_identity(cov)
        identity = np.eye(cov.shape[1])
        trace = np.trace(cov, axis1=1, axis2=2)[:, None, None] + eps * len(identity)
        if eps == 0:
            refuse_singular(trace[:, 0, 0] == 0)
        trace[wrong] = np.nan
        self._trace: Matrices = trace       # (G, 1, 1)
        self._iterations = iterations
        self._normal: Matrices = (cov + eps * identity) / trace
        for _, z, half in self._steps():
            last = half, z
        self.matrix: Matrices = symmetric(last[0] @ last[1]) / np.sqrt(trace)

    def _steps(self) -> Iterator[tuple[Matrices, Matrices, Matrices]]:
        # Y_k, Z_k and (3 I - Z_k Y_k) / 2 of each iteration.
        three = 3 * np.eye(self._normal.shape[1])
        y, z = self._normal, np.broadcast_to(three / 3, self._normal.shape)
        half = (three - y) / 2
        yield y, z, half
        for _ in range(self._iterations - 1):
            y, z = y @ half, half @ z
            half = (three - z @ y) / 2
            yield y, z, half

    def gradient(self, d: Matrices) -> Matrices:
        """Return the symmetric gradient of the covariances, given that of `matrix`."""
        d = symmetric(d)
        dz: Matrices = d / np.sqrt(self._trace)
        dy: Matrices = np.zeros_like(dz)
        for y, z, half in reversed(list(self._steps())):
            # All iterates are symmetric: none of them is transposed.
            dm = -(y @ dy + dz @ z) / 2
            dy, dz = dy @ half + z @ dm, half @ dz + dm @ y
        # The trace is in A, and in the root of the last step.
        inside = (dy * self._normal).sum(axis=(1, 2), keepdims=True)
        last = (d * self.matrix).sum(axis=(1, 2), keepdims=True)
        gradient: Matrices = symmetric(dy) / self._trace - np.eye(d.shape[1]) * (inside + last / 2) / self._trace
        return gradient


Root: TypeAlias = EigenRoot | NewtonRoot

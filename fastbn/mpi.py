"""Layers for several processes of an MPI program; they need mpi4py, ``pip install ".[mpi]"``."""

from fastbn.layers.sync import SyncBatchNorm

__all__ = ["SyncBatchNorm"]

"""Training steps of libraries with automatic differentiation: PyTorch, torch.compile and JAX.

A step is the forward and the backward pass of batch norm + ReLU in training. It returns y, dx, dgamma and dbeta.
"""
# ruff: noqa: D102  the methods are kinds of operations

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.engines import Torch
from benchmarks.peers import EPS, Peer

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.cases import Case, Operation
    from benchmarks.peers import Calls


class TorchStep(Peer):
    """PyTorch with autograd, eager."""

    def __init__(self, case: Case, threads: int) -> None:
        import torch

        super().__init__(case, threads)
        torch.set_num_threads(threads)
        Torch.leave_inference_mode()    # autograd records nothing there
        self.torch = torch

    @classmethod
    def supports(cls, op: Operation, case: Case) -> bool:
        return op.kind == "step"

    def forwards(self) -> list[Callable[[Any, Any, Any], Any]]:
        """Return the ways to the forward pass."""
        f = self.torch.nn.functional

        def forward(x: Any, w: Any, b: Any, inplace: bool = False) -> Any:
            return f.relu(f.batch_norm(x, None, None, w, b, True, 0.1, EPS), inplace=inplace)

        return [forward, lambda x, w, b: forward(x, w, b, inplace=True)]

    def step(self, op: Operation) -> Calls:
        torch = self.torch
        x, dy = (torch.from_numpy(array).movedim(self.case.axis, 1) for array in (self.x, self.dy))
        inputs = x, *map(torch.from_numpy, (self.gamma, self.beta))
        for tensor in inputs:
            tensor.requires_grad_()

        def step(forward: Callable[[Any, Any, Any], Any]) -> object:
            y = forward(*inputs)
            return y.detach(), *torch.autograd.grad(y, inputs, dy)

        return [lambda forward=forward: step(forward) for forward in self.forwards()]


class TorchCompiledStep(TorchStep):
    """PyTorch with autograd and torch.compile."""

    def forwards(self) -> list[Callable[[Any, Any, Any], Any]]:
        torch = self.torch
        torch.compiler.reset()

        def by_maximum(x: Any, w: Any, b: Any) -> Any:
            # Compiled by PyTorch 2.13, relu takes long to save its bits for the backward pass.
            y = torch.nn.functional.batch_norm(x, None, None, w, b, True, 0.1, EPS)
            return torch.maximum(y, y.new_zeros(()))

        return [torch.compile(forward, dynamic=False) for forward in (super().forwards()[0], by_maximum)]


class Jax(Peer):
    """JAX, the whole step in one compiled function."""

    @classmethod
    def supports(cls, op: Operation, case: Case) -> bool:
        return op.kind == "step"

    def step(self, op: Operation) -> Calls:
        import jax
        from jax import numpy as jnp

        across = [k for k in range(len(self.case.shape)) if k != self.case.axis % len(self.case.shape)]

        def forward(x: Any, gamma: Any, beta: Any) -> Any:
            deviation = x - x.mean(across, keepdims=True)
            rstd = jax.lax.rsqrt(jnp.square(deviation).mean(across, keepdims=True) + EPS)
            scale, shift = (jnp.expand_dims(vector, across) for vector in (gamma, beta))
            return jax.nn.relu(deviation * rstd * scale + shift)

        @jax.jit
        def step(dy: Any, *inputs: Any) -> Any:
            y, backward = jax.vjp(forward, *inputs)
            return y, *backward(dy)

        arrays = [jax.device_put(array) for array in (self.dy, self.x, self.gamma, self.beta)]
        return [lambda: jax.block_until_ready(step(*arrays))]

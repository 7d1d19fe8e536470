"""Domain-specific batch normalization: one layer with a batch normalization for each domain."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from fastbn import checkpoints
from fastbn._core.checks import check_flag, listed
from fastbn.checkpoints.kinds import register_whole
from fastbn.layers.attributes import Check, Checked, check_vector, refusal, set_unchecked, unknown
from fastbn.layers.base import FREEZING, STATE_NAMES
from fastbn.layers.batchnorm import BatchNorm
from fastbn.layers.labels import Domain, check_domains, joined, parts_of, same_settings

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator

    from numpy.typing import ArrayLike, NDArray
    from typing_extensions import Self, Unpack

    from fastbn._core.checks import Activation
    from fastbn.checkpoints.settings import Settings
    from fastbn.layers.masked import Padding

PARAMETERS = ("gamma", "beta")
# What each domain's layer has, and the bank has not.
OF_A_LAYER = {name for name in (*BatchNorm._names, *dir(BatchNorm), *FREEZING) if not name.startswith(("_", "from_"))}


def check_shared(owner: DomainSpecificBatchNorm, value: Any, name: str) -> NDArray[Any] | None:
    """Return the array of a parameter that domains share, after all of them have received it."""
    if not owner.share_affine:
        raise AttributeError(f"each domain has its own {name}; assign that of layer[domain]")
    array = check_vector(owner._layers[owner.domains[0]], value, name)
    for layer in owner._layers.values():
        setattr(layer, name, array)
    return array


@register_whole
class DomainSpecificBatchNorm(Checked):
    """A bank of batch normalizations, one for each domain, of which each call names one.

    Data of several domains, such as photographs and drawings, differ in their statistics. Each domain is normalized by
    its own, in training and in evaluation mode, and has its own gamma and beta unless they are shared. After Chang et
    al. (2019), "Domain-Specific Batch Normalization for Unsupervised Domain Adaptation",
    https://arxiv.org/abs/1906.03950.

    Parameters
    ----------
    num_features : int or tuple of int
        As in `BatchNorm`.
    domains : int or iterable of str or int
        The labels, or their number D for the labels 0 to D - 1.
    share_affine : bool
        Whether all domains share one gamma and one beta, as in the adaptive batch normalization of Li et al. (2016),
        https://arxiv.org/abs/1603.04779.
    affine, scale, center, track_running_stats
        As in `BatchNorm`.
    **settings
        axis, eps, momentum, unbiased, dtype, num_threads, averaging, debias, nan_policy, on_single, virtual_batch_size
        and keep, as in `BatchNorm`. They become those of each domain's layer. The text, and files, have those of the
        first domain.

    Attributes
    ----------
    num_features : int
    domains : tuple of str or int
    share_affine : bool
    training : bool
        The mode; see `train` and `eval`.
    gamma, beta : ndarray, shape (C,), or None
        The shared ones, which take the place of those that ``layer[domain]`` is assigned; None if each domain has its
        own.
    grad_gamma, grad_beta : ndarray, shape (C,), or None
        Gradients of the last `backward`. With `share_affine`, add those of all domains of a step.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid.

    Notes
    -----
    ``layer[domain]`` is the `BatchNorm` of a domain: with its running averages, ``frozen()``, ``report()``,
    ``accumulate()`` and settings, and as an argument of `population_statistics` and `adapt`. To begin a domain with
    what another one has learnt, ``layer[new].load_state_dict(layer[old].state_dict())``. Copies and pickles are
    independent layers.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> bn = fastbn.DomainSpecificBatchNorm(1, ["photo", "drawing"], momentum=1.0, unbiased=False)
    >>> y = bn(np.array([[1.0], [3.0]]), domain="photo")
    >>> y = bn(np.array([[10.0], [30.0]]), domain="drawing")
    >>> dx = bn.backward(np.ones((2, 1)))                 # of the last call
    >>> bn["photo"].running_mean, bn["drawing"].running_mean
    (array([2.], dtype=float32), array([20.], dtype=float32))
    >>> bn.eval()(np.array([[20.0]]), domain="drawing")
    array([[0.]])
    """

    _checks: ClassVar[Mapping[str, Check]] = {
        "gamma": check_shared,
        "beta": check_shared,
        "num_features": refusal("make a new layer"),
        "domains": refusal("make a new layer"),
        "share_affine": refusal("make a new layer"),
    }

    _instead: ClassVar[Mapping[str, str]] = {
        **Checked._instead, **{name: f"each domain has its own: layer[domain].{name}" for name in OF_A_LAYER}}

    num_features: int
    domains: tuple[Domain, ...]
    share_affine: bool
    gamma: NDArray[Any] | Any
    beta: NDArray[Any] | Any
    grad_gamma: NDArray[Any] | Any
    grad_beta: NDArray[Any] | Any
    _layers: dict[Domain, BatchNorm]
    _last: Domain | None        # that of the last call

    def __init__(
        self,
        num_features: int | tuple[int, ...],
        domains: int | Iterable[Domain],
        *,
        share_affine: bool = False,
        affine: bool = True,
        scale: bool | None = None,
        center: bool | None = None,
        track_running_stats: bool = True,
        **settings: Unpack[Settings],
    ) -> None:
        labels = check_domains(domains)
        self._layers = {domain: BatchNorm(
            num_features, affine=affine, scale=scale, center=center, track_running_stats=track_running_stats,
            **settings) for domain in labels}
        first = self._layers[labels[0]]
        shared = check_flag(share_affine, "share_affine")
        fields = {"num_features": first.num_features, "domains": labels, "share_affine": shared}
        for name, value in fields.items():
            set_unchecked(self, name, value)
        for name in PARAMETERS:
            set_unchecked(self, name, None)
            set_unchecked(self, f"grad_{name}", None)
            if shared:
                setattr(self, name, getattr(first, name))
        self._last = None

    @property
    def training(self) -> bool:
        """The mode; see `train` and `eval`."""
        return self[self.domains[0]].training

    @training.setter
    def training(self, mode: bool) -> None:
        self.train(mode)

    def __getitem__(self, domain: Domain) -> BatchNorm:
        """Return the layer of a domain."""
        try:
            layer = self._layers[domain]
        except (KeyError, TypeError):
            raise ValueError(
                f"domain must be one of {listed(list(map(repr, self.domains)))}, got {domain!r:.80}") from None
        if self.share_affine:
            self._share()
        return layer

    def __len__(self) -> int:
        """Return the number of domains."""
        return len(self.domains)

    def __iter__(self) -> Iterator[Domain]:
        """Iterate over the domains."""
        return iter(self.domains)

    def __contains__(self, domain: object) -> bool:
        """Return whether there is a domain of this label."""
        return isinstance(domain, (str, int)) and domain in self._layers

    if not TYPE_CHECKING:       # a checker reports that these do not exist

        def __getattr__(self, name: str) -> NoReturn:
            """Raise the error of a property, or one that tells where an attribute of `BatchNorm` is."""
            if name in self._names or name.startswith("_") or hasattr(type(self), name):
                object.__getattribute__(self, name)
            raise AttributeError(unknown(type(self), name))

    def _share(self) -> None:
        # A parameter that was assigned to the layer of one domain becomes that of all.
        for name in PARAMETERS:
            for layer in self._layers.values():
                if getattr(layer, name) is not getattr(self, name):
                    setattr(self, name, getattr(layer, name))

    def __call__(
        self,
        x: Any,
        residual: ArrayLike | None = None,
        activation: Activation = None,
        out: NDArray[Any] | None = None,
        *,
        domain: Domain,
        mask: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        padding: Padding = "zero",
    ) -> Any:
        """Normalize `x`, all of which belongs to one domain.

        Parameters
        ----------
        x, residual, activation, out, mask, lengths, padding
            As in `BatchNorm`.
        domain : str or int
            One of `domains`.

        Returns
        -------
        ndarray or tuple
            As `BatchNorm`.

        Raises
        ------
        TypeError, ValueError
            As `BatchNorm`; also for an unknown domain.
        """
        y = self[domain](x, residual, activation, out, mask=mask, lengths=lengths, padding=padding)
        self._last = domain
        return y

    def backward(self, dy: ArrayLike, out: NDArray[Any] | None = None, *, domain: Domain | None = None) -> Any:
        """Compute the gradients of the last call, or of the last call of a domain.

        Parameters
        ----------
        dy, out
            As in `BatchNorm.backward`.
        domain : str or int, optional
            So that the calls of several domains in one step can be followed by their backward passes.

        Returns
        -------
        dx : ndarray
            Or the tuple ``(dx, dresidual)``, as `BatchNorm.backward`. `grad_gamma` and `grad_beta` are set.

        Raises
        ------
        RuntimeError, TypeError, ValueError
            As `BatchNorm.backward`; also for an unknown domain.
        """
        named = self._last if domain is None else domain
        if named is None:
            raise RuntimeError("backward needs a forward pass first")
        layer = self[named]
        dx = layer.backward(dy, out)
        self.grad_gamma, self.grad_beta = layer.grad_gamma, layer.grad_beta
        return dx

    def train(self, mode: bool = True) -> Self:
        """Switch all domains to training mode; with ``mode=False``, to evaluation mode.

        Parameters
        ----------
        mode : bool

        Returns
        -------
        DomainSpecificBatchNorm
            The layer itself.
        """
        for layer in self._layers.values():
            layer.train(mode)
        return self

    def eval(self) -> Self:
        """Switch all domains to evaluation mode.

        Returns
        -------
        DomainSpecificBatchNorm
            The layer itself.
        """
        return self.train(False)

    def __repr__(self) -> str:
        layer = self[self.domains[0]]
        labels = list(self.domains)
        count = repr(len(labels)) if labels == list(range(len(labels))) else repr(labels)
        shown = [*layer._positional(), count, *(["share_affine=True"] if self.share_affine else []), *layer._shown()]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __copy__(self) -> Self:
        return copy.deepcopy(self)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return copies of parameters and running averages of all domains.

        The names are those of a PyTorch module that has the layers in a ModuleList or ModuleDict ``bns``.

        Returns
        -------
        dict
            The state of each `BatchNorm`, under names that begin with bns.DOMAIN, such as bns.photo.running_mean.
            Shared parameters are there once, as weight and bias.

        Examples
        --------
        >>> import fastbn
        >>> bn = fastbn.DomainSpecificBatchNorm(2, 2, share_affine=True, center=False)
        >>> for name in bn.state_dict():
        ...     print(name)
        weight
        bns.0.running_mean
        bns.0.running_var
        bns.0.num_batches_tracked
        bns.1.running_mean
        bns.1.running_var
        bns.1.num_batches_tracked
        """
        return joined({domain: self[domain].state_dict() for domain in self.domains}, self._shared())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load parameters and running averages of all domains: all of them or, after an error, none.

        Parameters
        ----------
        state : mapping of str to array_like
            As `state_dict` returns it.

        Raises
        ------
        TypeError, ValueError
            As `BatchNorm.load_state_dict`; messages name the domain.
        """
        parts = parts_of(state, self.domains, self._shared())
        for domain, part in parts.items():      # a copy shows whether a part can be loaded
            try:
                copy.copy(self[domain]).load_state_dict(part)
            except (TypeError, ValueError) as error:
                raise type(error)(f"domain {domain!r}: {error}") from error
        for domain, part in parts.items():
            self[domain].load_state_dict(part)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, prefix: str = "", **arguments: Any) -> Self:
        """Return a new layer, in training mode, from a file of `save` or a state of PyTorch.

        Parameters
        ----------
        path, prefix
            As in `BatchRenorm.load`.
        **arguments
            Those of the constructor, which a file of other origin does not have.

        Returns
        -------
        DomainSpecificBatchNorm

        Raises
        ------
        OSError, TypeError, ValueError
            As `BatchRenorm.load`.
        """
        settings: Any = arguments
        return checkpoints.load_layer(cls, path, prefix, "fastbn", settings)

    def save(self, path: str | os.PathLike[str], *, prefix: str = "", append: bool = False) -> None:
        """Write the layer to a file, with its arguments as metadata.

        Parameters
        ----------
        path, prefix, append
            As in `BatchRenorm.save`.

        Raises
        ------
        OSError, TypeError, ValueError
            As `BatchRenorm.save`; also if the domains have different settings, of which a file holds one set.
        """
        checkpoints.save_layer(self, path, prefix, "fastbn", append)

    def _arguments(self) -> dict[str, Any]:
        # Of the constructor, as `Norm` has them.
        settings = same_settings({domain: self[domain]._arguments() for domain in self.domains})
        return settings | {"domains": self.domains, "share_affine": self.share_affine}

    @property
    def unbiased(self) -> bool:
        """Whether the running variances average unbiased variances, in the first domain."""
        return self[self.domains[0]].unbiased

    def reset_running_stats(self) -> None:
        """Restart the running averages of all domains: mean 0, variance 1, no batches."""
        for layer in self._layers.values():
            layer.reset_running_stats()

    def _shared(self) -> list[str]:
        # The names of shared parameters in a state.
        return [STATE_NAMES[name] for name in PARAMETERS if getattr(self, name) is not None]

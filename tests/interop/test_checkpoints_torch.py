"""Layers from and to torch modules."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the interop extra is not installed: no torch")

from fastbn import BatchNorm  # noqa: E402
from fastbn.checkpoints import convert  # noqa: E402
from tests import oracle  # noqa: E402
from tests.compare import UNITS, close, same_bits  # noqa: E402

KINDS = {
    "1d": (torch.nn.BatchNorm1d, (16, 5)),
    "1d length": (torch.nn.BatchNorm1d, (8, 5, 33)),
    "2d": (torch.nn.BatchNorm2d, (6, 5, 9, 7)),
    "3d": (torch.nn.BatchNorm3d, (4, 5, 3, 4, 5)),
    "sync": (torch.nn.SyncBatchNorm, (6, 5, 9, 7)),
}
OPTIONS = {
    "default": {},
    "settings": {"eps": 1e-3, "momentum": 0.3},
    "cumulative": {"momentum": None},
    "not affine": {"affine": False},
    "no bias": {"bias": False},
    "not tracking": {"track_running_stats": False},
    "neither": {"affine": False, "track_running_stats": False},
}
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def module(kind, dtype="float32", **options):
    """Return a module after three batches."""
    layer = KINDS[kind][0](5, dtype=DTYPES[dtype], **options)
    with torch.no_grad():
        if layer.weight is not None:
            layer.weight.copy_(torch.linspace(0.5, 2, 5))
        if layer.bias is not None:
            layer.bias.copy_(torch.linspace(-1, 1, 5))
        # SyncBatchNorm trains on accelerators only, so its averages come from a BatchNorm2d.
        seen = layer if kind != "sync" else torch.nn.BatchNorm2d(5, dtype=DTYPES[dtype], **options)
        for step in range(3):
            seen(torch.from_numpy(batch(kind, dtype, step)))
    if kind == "sync" and layer.track_running_stats:
        layer.load_state_dict(seen.state_dict() | {k: v for k, v in layer.state_dict().items() if "running" not in k})
    return layer


def batch(kind, dtype, step):
    return np.random.default_rng(step).normal(step % 3, 2, KINDS[kind][1]).astype(dtype)


def same_evaluation(ours, theirs, x):
    """Assert that y is accurate for the module's state, and close to the module's y."""
    with torch.no_grad():
        y = theirs.eval()(torch.from_numpy(x)).numpy()
    vectors = ("weight", "bias", "running_mean", "running_var")
    gamma, beta, mean, var = (None if v is None else v.detach().numpy() for v in (getattr(theirs, n) for n in vectors))
    exact = oracle.forward(x, gamma, beta, mean=mean, var=var, eps=theirs.eps).y
    got = ours.eval()(x)
    close(got, exact, x.dtype)
    close(got, y, x.dtype, 2 * UNITS)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_from_torch(kind, options, dtype):
    theirs = module(kind, dtype, **OPTIONS[options])
    ours = BatchNorm.from_torch(theirs)
    stateless = options == "neither"
    assert ours.dtype == (np.float32 if stateless else dtype)
    assert (ours.num_features, ours.axis, ours.eps, ours.momentum) == (5, 1, theirs.eps, theirs.momentum)
    assert (ours.affine, ours.track_running_stats) == (theirs.affine, theirs.track_running_stats)
    assert (ours.scale, ours.center) == (theirs.weight is not None, theirs.bias is not None)
    assert (ours.unbiased, ours.training) == (True, True)
    for name, value in theirs.state_dict().items():
        np.testing.assert_array_equal(ours.state_dict()[name], value.numpy())
    assert BatchNorm.from_torch(theirs.eval()).training is False
    x = batch(kind, dtype, 9)
    if theirs.track_running_stats or kind != "sync":
        same_evaluation(ours, theirs, x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS)
def test_there_and_back(options, dtype):
    ours = BatchNorm(5, dtype=dtype, **{{"bias": "center"}.get(name, name): o for name, o in OPTIONS[options].items()})
    for step in range(3):
        ours(batch("2d", dtype, step))
    theirs = torch.nn.BatchNorm2d(5, dtype=DTYPES[dtype], **OPTIONS[options])
    if options != "neither":
        state = convert(ours.state_dict(), "fastbn", "torch")
        theirs.load_state_dict({name: torch.as_tensor(value) for name, value in state.items()}, strict=True)
    x = batch("2d", dtype, 9)
    same_evaluation(ours, theirs, x)
    back = BatchNorm.from_torch(theirs).state_dict()
    for name, value in ours.state_dict().items():
        same_bits(back[name], value)


def test_eps_zero():
    theirs = torch.nn.BatchNorm2d(5, eps=0.0).eval()
    theirs.running_var.copy_(torch.linspace(0.5, 2, 5))
    ours = BatchNorm.from_torch(theirs)
    assert ours.eps == 0
    same_evaluation(ours, theirs, batch("2d", "float32", 1))


@pytest.mark.parametrize("options", ["default", "settings", "cumulative"])
def test_training_goes_on(options):
    theirs = module("2d", **OPTIONS[options])
    ours = BatchNorm.from_torch(theirs)
    for step in range(3, 6):
        x = batch("2d", "float32", step)
        theirs(torch.from_numpy(x))
        ours(x)
    np.testing.assert_allclose(ours.running_var, theirs.running_var.numpy(), rtol=2e-6)
    assert ours.num_batches_tracked == int(theirs.num_batches_tracked) == 6


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_halves_become_float32(half):
    theirs = module("2d").to(half)
    ours = BatchNorm.from_torch(theirs)
    assert ours.dtype == np.float32
    same_bits(ours.running_var, theirs.running_var.float().numpy())
    same_bits(ours.gamma, theirs.weight.detach().float().numpy())


def test_the_layer_shares_nothing():
    theirs = module("2d")
    ours = BatchNorm.from_torch(theirs)
    ours.gamma[...] = 7
    ours.running_var[...] = 7
    assert not (theirs.weight == 7).any()
    assert not (theirs.running_var == 7).any()


def test_a_model_of_many_layers():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.BatchNorm2d(4))
    got = convert(model.state_dict(), "torch", "keras", prefix="2.", keep_variance=True)
    assert list(got) == ["2.gamma", "2.beta", "2.moving_mean", "2.moving_variance"]
    with pytest.raises(ValueError, match=r"weight has shape \(4, 3, 3, 3\); expected \(C,\)"):
        convert(model.state_dict(), "torch", "fastbn", prefix="0.")


def test_a_module_without_values():
    with pytest.raises(ValueError, match="module has tensors on the device meta"):
        BatchNorm.from_torch(torch.nn.BatchNorm2d(3, device="meta"))


def test_lazy_modules():
    lazy = torch.nn.LazyBatchNorm2d()
    with pytest.raises(ValueError, match="module is a LazyBatchNorm2d without parameters"):
        BatchNorm.from_torch(lazy)
    lazy(torch.ones(2, 3, 4, 4))
    assert BatchNorm.from_torch(lazy).num_features == 3


class Act(torch.nn.BatchNorm2d):
    """Includes the activation, like timm's BatchNormAct2d."""

    def forward(self, x):
        return torch.relu(super().forward(x))


class Called(torch.nn.BatchNorm1d):
    def __call__(self, x):
        return 2 * super().__call__(x)


class Synchronized(torch.nn.SyncBatchNorm):
    def forward(self, x):
        return x


class Named(torch.nn.BatchNorm2d):
    """A subclass that does not change the result."""

    def _check_input_dim(self, x):
        pass


@pytest.mark.parametrize(("kind", "method", "base"), [
    (Act, "forward", "BatchNorm2d"), (Called, "__call__", "BatchNorm1d"), (Synchronized, "forward", "SyncBatchNorm"),
    (type("Deeper", (Act,), {}), "forward", "BatchNorm2d")])
def test_an_overridden_forward_is_refused(kind, method, base):
    with pytest.raises(TypeError, match=f"module of class {kind.__name__} overrides {method}, so its result may differ "
                                        f"from that of {base}; expected a plain {base}"):
        BatchNorm.from_torch(kind(3))


def test_a_forward_assigned_to_the_module_is_refused():
    theirs = module("2d")
    theirs.forward = torch.relu
    with pytest.raises(TypeError, match="module of class BatchNorm2d overrides forward"):
        BatchNorm.from_torch(theirs)


def test_a_subclass_that_computes_the_same():
    theirs = Named(5)
    theirs.load_state_dict(module("2d").state_dict())
    same_evaluation(BatchNorm.from_torch(theirs), theirs, batch("2d", "float32", 9))
    theirs.extra = torch.nn.Parameter(torch.ones(5))
    with pytest.raises(ValueError, match="state also has 'extra'"):
        BatchNorm.from_torch(theirs)


def test_hooks_are_refused():
    theirs = module("2d")
    expected = BatchNorm.from_torch(theirs)
    handles = [theirs.register_forward_hook(lambda *_: None)]
    with pytest.raises(ValueError, match="module has 1 forward hook, which may change its result; remove them first"):
        BatchNorm.from_torch(theirs)
    handles.append(theirs.register_forward_pre_hook(lambda *_: None))
    with pytest.raises(ValueError, match="module has 2 forward hooks"):
        BatchNorm.from_torch(theirs)
    for handle in handles:
        handle.remove()
    same_bits(BatchNorm.from_torch(theirs).gamma, expected.gamma)


def test_parametrizations_are_refused():
    theirs = module("2d")
    torch.nn.utils.parametrize.register_parametrization(theirs, "weight", torch.nn.Softplus())
    with pytest.raises(ValueError, match="module has parametrizations of weight; remove them first"):
        BatchNorm.from_torch(theirs)
    torch.nn.utils.parametrize.remove_parametrizations(theirs, "weight")
    same_bits(BatchNorm.from_torch(theirs).gamma, theirs.weight.detach().numpy())


@pytest.mark.parametrize("value", [
    torch.nn.Linear(3, 3), torch.nn.InstanceNorm2d(3), torch.nn.GroupNorm(1, 3), torch.nn.BatchNorm2d,
    torch.nn.BatchNorm2d(3).state_dict(), torch.ones(3), None], ids=lambda value: type(value).__name__)
def test_other_types(value):
    with pytest.raises(TypeError, match=f"BatchNorm1d, .*SyncBatchNorm, got {type(value).__name__}"):
        BatchNorm.from_torch(value)


def test_values_that_no_layer_takes():
    theirs = module("2d")
    theirs.running_var[2] = float("nan")
    with pytest.raises(ValueError, match="running_var has values that are not finite"):
        BatchNorm.from_torch(theirs)

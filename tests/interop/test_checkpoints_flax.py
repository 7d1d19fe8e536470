"""States from and to flax.linen.BatchNorm."""

import numpy as np
import pytest

linen = pytest.importorskip("flax.linen", reason="the interop extra is not installed: no flax")

from fastbn import BatchNorm  # noqa: E402
from fastbn.checkpoints import CONVENTIONS, convert, convert_momentum  # noqa: E402
from tests.compare import close  # noqa: E402

OPTIONS = {"default": {}, "no bias": {"use_bias": False}, "no scale": {"use_scale": False},
           "neither": {"use_bias": False, "use_scale": False}}


def batch(seed):
    return np.random.default_rng(seed).normal(seed % 3, 2, (6, 7, 3, 5)).astype("float32")


def trained(**options):
    """Return a module and its variables after three batches."""
    import jax

    module = linen.BatchNorm(use_running_average=False, **options)
    variables = module.init(jax.random.key(0), batch(0))
    for seed in range(3):
        _, update = module.apply(variables, batch(seed), mutable=["batch_stats"])
        variables = variables | update
    return module, variables


def flat(variables):
    return dict(variables.get("params", {})) | dict(variables["batch_stats"])


@pytest.mark.parametrize("options", OPTIONS)
def test_there_and_back(options, tmp_path):
    module, variables = trained(**OPTIONS[options])
    state = {name: np.asarray(value) for name, value in flat(variables).items()}
    np.savez(tmp_path / "variables.npz", **state)
    ours = BatchNorm.load(tmp_path / "variables.npz", convention="flax")
    assert ours.momentum == convert_momentum(module.momentum, "flax", "fastbn")
    assert (ours.eps, ours.axis, ours.unbiased) == (module.epsilon, module.axis, False)
    assert (ours.scale, ours.center) == (module.use_scale, module.use_bias)
    x = batch(9)
    theirs = module.clone(use_running_average=True)
    close(ours.eval()(x), np.asarray(theirs.apply(variables, x)), np.float32)
    for seed in range(3, 6):
        _, update = module.apply(variables, batch(seed), mutable=["batch_stats"])
        variables = variables | update
        ours.train()(batch(seed))
    np.testing.assert_allclose(ours.running_mean, variables["batch_stats"]["mean"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours.running_var, variables["batch_stats"]["var"], rtol=1e-5)
    back = convert(ours.state_dict(), "fastbn", "flax", keep_variance=True)
    params = {name: back[name] for name in ("scale", "bias") if name in back}
    assert params.keys() == variables.get("params", {}).keys()
    stats = {name: back[name] for name in ("mean", "var")}
    close(ours.eval()(x), np.asarray(theirs.apply({"params": params, "batch_stats": stats}, x)), np.float32)


def test_the_table():
    module, variables = trained()
    convention = CONVENTIONS["flax"]
    assert set(flat(variables)) == set(convention.names.values())
    assert (module.epsilon, module.momentum, module.axis) == (convention.eps, convention.momentum, convention.axis)

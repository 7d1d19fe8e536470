"""Population statistics, micro-batches and states beside PyTorch's."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the interop extra is not installed: no torch")

from fastbn import BatchNorm, population_statistics  # noqa: E402
from tests.statistics import rational as exact  # noqa: E402

SIZES = (64, 2, 7, 33, 5)
BATCHES = [5 * k + np.random.default_rng(k).standard_normal((n, 3)) for k, n in enumerate(SIZES)]


def test_update_bn_averages_variances_and_we_do_not():
    theirs = torch.nn.BatchNorm1d(3, dtype=torch.float64)
    torch.optim.swa_utils.update_bn([torch.from_numpy(x) for x in BATCHES], theirs)
    ours, cumulative = (BatchNorm(3, dtype=np.float64, averaging=a) for a in ("ema", "cumulative"))
    population_statistics(ours, BATCHES, ours)
    for x in BATCHES:
        cumulative(x)
    true = exact.population(BATCHES, ddof=1)[1]
    assert exact.relative(ours.running_var, true) <= 1e-12
    assert exact.relative(theirs.running_var, true) > 0.9
    np.testing.assert_allclose(cumulative.running_var, theirs.running_var, rtol=1e-12)
    assert ours.num_batches_tracked == int(theirs.num_batches_tracked) == len(SIZES)


def test_a_network_of_tensors():
    ours = BatchNorm(3, dtype=np.float64)
    tensors = [torch.from_numpy(x) for x in BATCHES]
    population_statistics(ours, tensors, lambda x: ours(x, out=x.clone()))
    assert exact.relative(ours.running_var, exact.population(BATCHES, ddof=1)[1]) <= 1e-12
    assert np.isfinite(ours.report(tensors[0]).drift).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_micro_batches_of_tensors(dtype):
    torch.manual_seed(0)
    x, dy = torch.randn(12, 3, 5, 7, dtype=dtype), torch.randn(12, 3, 5, 7, dtype=dtype)
    theirs = torch.nn.BatchNorm2d(3, dtype=dtype)
    whole_x = x.clone().requires_grad_()
    y = theirs(whole_x)
    y.backward(dy)
    ours = BatchNorm(3, dtype=str(dtype).removeprefix("torch."))
    parts, gradients = x.split((5, 1, 6)), dy.split((5, 1, 6))
    whole = ours.accumulate(parts)
    ys = [whole(part) for part in parts]
    dxs = whole.backward(gradients)
    tolerance = {"rtol": 0, "atol": 1e-6 if dtype == torch.float32 else 1e-12}
    torch.testing.assert_close(torch.cat(ys), y.detach(), **tolerance)
    torch.testing.assert_close(torch.cat(dxs), whole_x.grad, **tolerance)
    tolerance["atol"] *= 100        # sums of 420 products
    torch.testing.assert_close(torch.from_numpy(ours.grad_gamma), theirs.weight.grad, **tolerance)
    torch.testing.assert_close(torch.from_numpy(ours.grad_beta), theirs.bias.grad, **tolerance)
    torch.testing.assert_close(torch.from_numpy(ours.running_var), theirs.running_var, **tolerance)


def test_states_go_both_ways():
    for options, extra in (({"averaging": "exact"}, 4), ({"debias": True}, 1), ({}, 0)):
        ours = BatchNorm(3, dtype=np.float64, **options)
        for x in BATCHES:
            ours(x)
        theirs = torch.nn.BatchNorm1d(3, dtype=torch.float64)
        state = {name: torch.from_numpy(np.asarray(value)) for name, value in ours.state_dict().items()}
        keys = theirs.load_state_dict(state, strict=not extra)
        assert not keys.missing_keys
        assert len(keys.unexpected_keys) == extra
        np.testing.assert_array_equal(theirs.running_var, ours.running_var)
        back = BatchNorm(3, dtype=np.float64, **options)
        back.load_state_dict(theirs.state_dict())
        np.testing.assert_array_equal(back.running_var, ours.running_var)


def test_a_debiased_layer_takes_a_young_module_over():
    theirs = torch.nn.BatchNorm1d(3, dtype=torch.float64)
    theirs(torch.from_numpy(BATCHES[0]))
    ours = BatchNorm(3, dtype=np.float64, debias=True).eval()
    ours.load_state_dict(theirs.state_dict())
    x = BATCHES[0]
    right = (x - x.mean(0)) / np.sqrt(x.var(0, ddof=1) + 1e-5)
    np.testing.assert_allclose(ours(x), right, rtol=1e-10, atol=1e-12)

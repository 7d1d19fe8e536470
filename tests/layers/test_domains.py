"""DomainSpecificBatchNorm: each domain as a BatchNorm of its own, shared parameters, one state, copies and errors."""

import copy
import pickle

import numpy as np
import pytest

import fastbn
from fastbn import BatchNorm, DomainSpecificBatchNorm
from tests.cases import array, axis_of, case
from tests.compare import same_bits

C = 5
SHAPE = case(6, C, 4, 3)
LABELS = ("photo", "drawing", 7)
shared = pytest.mark.parametrize("share_affine", [False, True])


def batch(k, layout="planes", dtype=np.float32):
    return array(SHAPE, layout, dtype, mean=10 * k, std=k + 1, seed=k)


def trained(share_affine, layout="planes", **options):
    """A layer that has seen two batches of each domain, and the layers that have seen the same."""
    bn = DomainSpecificBatchNorm(C, LABELS, share_affine=share_affine, axis=axis_of(layout), **options)
    others = {label: BatchNorm(C, axis=axis_of(layout), **options) for label in LABELS}
    for k, label in enumerate(LABELS):
        values = np.arange(C) + (0 if share_affine else k)
        if share_affine:
            bn.gamma[:] = values
        else:
            bn[label].gamma[:] = values
        others[label].gamma[:] = values
    for k in range(6):
        x = batch(k, layout)
        same_bits(bn(x, domain=LABELS[k % 3]), others[LABELS[k % 3]](x))
    return bn, others


@shared
def test_each_domain_is_a_batch_norm(share_affine, layout, activation, with_residual):
    bn, others = trained(share_affine, layout)
    x, dy, residual = batch(1, layout), batch(2, layout), batch(3, layout) if with_residual else None
    for training in (True, False):
        bn.train(training)
        for label in reversed(LABELS):
            other = others[label].train(training)
            same_bits(bn(x, residual, activation, domain=label), other(x, residual, activation))
            for got, want in zip(bn.backward(dy), other.backward(dy), strict=True):
                same_bits(got, want)
            same_bits(bn.grad_gamma, other.grad_gamma)
            same_bits(bn.grad_beta, other.grad_beta)
            for name, value in other.state_dict().items():
                same_bits(bn[label].state_dict()[name], value)
    assert bn["photo"].running_mean[0] != bn[7].running_mean[0]


@shared
def test_masks_out_and_jagged(share_affine):
    bn, others = trained(share_affine)
    x, mask = batch(1), np.random.default_rng(0).random((6, 4, 3)) < 0.5
    out = np.empty_like(x)
    assert bn(x, domain="photo", mask=mask, padding="keep", out=out) is out
    same_bits(bn.backward(x), (others["photo"](x, mask=mask, padding="keep", out=x.copy()),
                               others["photo"].backward(x))[1])
    values, _ = bn((x[:, :, 0, 0], np.array([0, 2, 6])), domain=7)
    same_bits(values, others[7](x[:, :, 0, 0]))


@shared
def test_backward_passes_of_one_step(share_affine):
    bn, others = trained(share_affine)
    xs = {label: batch(k) for k, label in enumerate(LABELS)}
    for label, x in xs.items():
        bn(x, domain=label)
        others[label](x)
    total = np.zeros(C)
    for label, x in xs.items():
        same_bits(bn.backward(x, domain=label), others[label].backward(x))
        total += bn.grad_gamma
    np.testing.assert_allclose(total, sum(other.grad_gamma for other in others.values()), rtol=1e-6)


def test_shared_parameters_are_one():
    bn, _ = trained(True)
    x = batch(1)
    before = bn.eval()(x, domain="photo")
    bn.gamma[:] += 1
    assert (bn(x, domain="photo") != before).any()
    for new in (np.full(C, 2.0, np.float32), [3.0] * C):
        bn.gamma = new
        assert all(bn[label].gamma is bn.gamma for label in LABELS)
    bn.gamma = None
    assert bn[7].gamma is None
    other = copy.copy(bn)
    assert other["photo"].beta is other[7].beta is other.beta is not bn.beta


def test_own_parameters():
    bn, _ = trained(False)
    assert bn.gamma is bn.beta is None
    assert bn["photo"].gamma is not bn[7].gamma
    with pytest.raises(AttributeError, match=r"each domain has its own gamma; assign that of layer\[domain\]"):
        bn.gamma = np.ones(C)


@shared
@pytest.mark.parametrize("options", [
    {}, {"center": False}, {"affine": False}, {"averaging": "exact"}, {"debias": True}, {"track_running_stats": False},
    {"dtype": np.float64, "momentum": None, "eps": 1e-3}, {"virtual_batch_size": 2048}, {"keep": "output"},
    {"on_single": "running"}], ids=str)
@pytest.mark.parametrize("how", ["state", "copy", "deepcopy", "pickle", ".npz", ".safetensors"])
def test_state_copies_and_files(how, options, share_affine, tmp_path):
    bn = DomainSpecificBatchNorm(C, LABELS, share_affine=share_affine, **options)
    for k, label in enumerate(LABELS):
        bn(batch(k), domain=label)
    state = bn.state_dict()
    if how == "state":
        other = DomainSpecificBatchNorm(C, LABELS, share_affine=share_affine, **options)
        other.load_state_dict(state)
    elif how.startswith("."):
        if not state:
            with pytest.raises(ValueError, match="neither parameters nor statistics"):
                bn.save(tmp_path / f"layer{how}")
            return
        bn.save(tmp_path / f"layer{how}", prefix="bn.")
        other = DomainSpecificBatchNorm.load(tmp_path / f"layer{how}", prefix="bn.")
    else:
        other = pickle.loads(pickle.dumps(bn)) if how == "pickle" else getattr(copy, how)(bn)
    assert repr(other) == repr(bn)
    assert other.domains == LABELS
    again = other.state_dict()
    assert list(again) == list(state)
    for name, value in state.items():
        same_bits(again[name], value)
        assert not np.shares_memory(value, again[name])
    x = batch(4)
    for label in LABELS:
        same_bits(other(x, domain=label), bn(x, domain=label))


def test_names_are_those_of_a_torch_module():
    torch = pytest.importorskip("torch")
    bns = torch.nn.ModuleList([torch.nn.BatchNorm2d(C), torch.nn.BatchNorm2d(C)])
    module = torch.nn.Module()
    module.bns = bns
    bns[1].running_mean += 3
    bn = DomainSpecificBatchNorm(C, 2)
    assert list(bn.state_dict()) == list(module.state_dict())
    bn.load_state_dict({name: value.numpy() for name, value in module.state_dict().items()})
    assert bn[1].running_mean.tolist() == [3] * C
    assert list(DomainSpecificBatchNorm(C, 2, share_affine=True).state_dict()) == ["weight", "bias", *(
        f"bns.{k}.{name}" for k in (0, 1) for name in ("running_mean", "running_var", "num_batches_tracked"))]


def spoilt(**changes):
    return {**trained(False)[0].state_dict(), **changes}


@pytest.mark.parametrize(("state", "error", "message"), [
    (lambda: [1], TypeError, "state must be a mapping of names to arrays, got list"),
    (lambda: spoilt(weight=np.ones(C)), ValueError, "state also has weight; expected .* bns.photo., bns.draw"),
    (lambda: spoilt(**{"bns.7.weight": np.ones(3)}), ValueError, r"domain 7: weight has shape \(3,\); expected \(5,\)"),
    (lambda: spoilt(**{"bns.7.running_var": -np.ones(C)}), ValueError, "domain 7: running_var has negative values"),
    (lambda: {k: v for k, v in spoilt().items() if k != "bns.drawing.bias"}, ValueError, "domain 'drawing': .*bias"),
])
def test_a_bad_state_changes_nothing(state, error, message):
    bn, _ = trained(False)
    before = bn.state_dict()
    bn["photo"].beta[:] = 9
    with pytest.raises(error, match=message):
        bn.load_state_dict(state())
    assert (bn["photo"].beta == 9).all()
    for name, value in bn.state_dict().items():
        if name != "bns.photo.bias":
            same_bits(value, before[name])


def test_modes_and_text():
    bn = DomainSpecificBatchNorm(C, 2)
    assert repr(bn) == "DomainSpecificBatchNorm(5, 2)"
    assert bn.training
    assert bn.eval() is bn
    assert [bn.training, bn[0].training, bn[1].training] == [False] * 3
    bn.training = True
    assert bn[1].training
    text = "DomainSpecificBatchNorm(3, ['a', 'b'], share_affine=True, axis=-1, eps=0.001, center=False)"
    made = DomainSpecificBatchNorm(3, "ab".partition("b")[:2], share_affine=True, axis=-1, eps=1e-3, center=False)
    assert repr(made) == text == repr(eval(text))
    several = DomainSpecificBatchNorm((4, 5), 2, axis=(1, 2))
    assert repr(several) == "DomainSpecificBatchNorm((4, 5), 2, axis=(1, 2))"
    assert repr(several) == repr(eval(repr(several)))
    bn(batch(1), domain=np.int64(1))
    bn.reset_running_stats()
    assert bn[1].num_batches_tracked == 0


def test_domains_with_other_functions():
    bn, _ = trained(True)
    x = batch(5)
    with fastbn.adapt([bn[label] for label in LABELS], n0=0):
        y = bn.eval()(x, domain=7)
    assert abs(y.mean(axis=(0, 2, 3)) - bn.beta).max() < 1e-5
    [stats] = fastbn.population_statistics(bn["photo"], [x], lambda x: bn(x, domain="photo"))
    np.testing.assert_allclose(bn["photo"].running_mean, stats.mean, rtol=1e-6)
    same_bits(bn["photo"].frozen()(x), bn(x, domain="photo"))


BAD = {
    "unknown": (lambda bn: bn(batch(0), domain="sketch"), ValueError,
                "domain must be one of 'photo', 'drawing', 7, got 'sketch'"),
    "list": (lambda bn: bn[[7]], ValueError, r"got \[7\]"),
    "backward": (lambda bn: bn.backward(batch(0)), RuntimeError, "backward needs a forward pass first"),
    "other backward": (lambda bn: (bn(batch(0), domain=7), bn.backward(batch(0), domain="photo")), RuntimeError,
                       "backward needs a forward pass first"),
    "missing": (lambda bn: bn(batch(0)), TypeError, "domain"),
    "channels": (lambda bn: bn(batch(0)[:, :3], domain=7), ValueError, "expected 5"),
    "misspelt": (lambda bn: setattr(bn, "gama", 1), AttributeError, "did you mean gamma"),
    "fixed": (lambda bn: setattr(bn, "domains", (1,)), AttributeError, "cannot be assigned; make a new layer"),
    "no domain": (lambda _: DomainSpecificBatchNorm(C, []), ValueError, "domains must be one label or more"),
    "zero": (lambda _: DomainSpecificBatchNorm(C, 0), ValueError, "domains must be at least 1, got 0"),
    "text": (lambda _: DomainSpecificBatchNorm(C, "ab"), TypeError, "domains must be a number or an iterable"),
    "twice": (lambda _: DomainSpecificBatchNorm(C, [1, "1"]), ValueError, "each once, got 1, '1'"),
    "none": (lambda _: DomainSpecificBatchNorm(C, []), ValueError, "one label or more, each once, got none"),
    "dot": (lambda _: DomainSpecificBatchNorm(C, ["a.b"]), ValueError, "names without a dot, got 'a.b'"),
    "kind": (lambda _: DomainSpecificBatchNorm(C, [1.5]), TypeError, "domains must be strings or integers, got 1.5"),
    "number": (lambda _: DomainSpecificBatchNorm(C, 1.5), TypeError, "domains must be an integer, got 1.5"),
    "its average": (lambda bn: bn.running_mean, AttributeError,
                    r"no attribute running_mean; each domain has its own: layer\[domain\]\.running_mean"),
    "freeze": (lambda bn: bn.freeze(), AttributeError, r"no attribute freeze; .* layer\[domain\]\.freeze"),
    "its eps": (lambda bn: bn.eps, AttributeError, r"no attribute eps; each domain .* layer\[domain\]\.eps"),
    "assigned eps": (lambda bn: setattr(bn, "eps", 1), AttributeError, r"each domain .* layer\[domain\]\.eps"),
    "from_torch": (lambda bn: bn.from_torch, AttributeError, "has no attribute from_torch$"),
    "adapt a list": (lambda bn: fastbn.adapt([bn], n0=1), TypeError, r"got DomainSp.*; expected .*, layer\[domain\]"),
    "unknown attribute": (lambda bn: bn.domain, AttributeError, "has no attribute domain; did you mean domains"),
    "adapt": (lambda bn: fastbn.adapt(bn, n0=1), TypeError,
              r"bn_layers is a DomainSpecificBatchNorm; expected the layers of its domains, layer\[domain\]"),
    "population": (lambda bn: fastbn.population_statistics(bn, [], bn), TypeError, "the layers of its domains"),
    "flag": (lambda _: DomainSpecificBatchNorm(C, 2, share_affine=1), TypeError, "share_affine must be True or False"),
}


@pytest.mark.parametrize("name", BAD)
def test_errors(name):
    call, error, message = BAD[name]
    with pytest.raises(error, match=message):
        call(DomainSpecificBatchNorm(C, LABELS))


def test_a_bank_has_the_domains_as_a_mapping_has_its_keys():
    bn = DomainSpecificBatchNorm(C, LABELS)
    assert (list(bn), len(bn), LABELS[0] in bn, "sketch" in bn) == ([*LABELS], 3, True, False)
    assert np.ones(2) not in bn


def test_an_error_in_a_property_is_not_hidden():
    class Derived(DomainSpecificBatchNorm):
        @property
        def first(self):
            return self._nothing

    with pytest.raises(AttributeError, match="'Derived' object has no attribute '_nothing'"):
        _ = Derived(C, LABELS).first


def test_a_parameter_of_one_domain_is_that_of_all_if_they_share():
    bn = DomainSpecificBatchNorm(C, LABELS, share_affine=True)
    first, second = (bn[label] for label in LABELS[:2])
    first.gamma = first.gamma - 0.25
    assert (bn[LABELS[1]].gamma == 0.75).all()
    assert bn.gamma is first.gamma
    assert second.gamma is first.gamma
    bn.beta = np.full(C, 2, np.float32)
    assert second.beta is bn.beta      # at once, in layers that are at hand as well


def test_states_of_domains_that_share_must_agree():
    separate = DomainSpecificBatchNorm(C, LABELS)
    shared = DomainSpecificBatchNorm(C, LABELS, share_affine=True)
    separate[LABELS[0]].gamma[:] = 3
    with pytest.raises(ValueError, match="weight differs between the domains, which share one"):
        shared.load_state_dict(separate.state_dict())
    assert (shared.gamma == 1).all()
    for label in LABELS:
        separate[label].gamma[:] = 3
    shared.load_state_dict(separate.state_dict())
    assert (shared.gamma == 3).all()


def test_a_file_does_not_lose_the_settings_of_a_domain(tmp_path):
    bn = DomainSpecificBatchNorm(C, LABELS)
    bn[LABELS[1]].eps = 1e-2
    with pytest.raises(ValueError, match="domains 'photo' and 'drawing' differ in eps, and a file holds one set"):
        bn.save(tmp_path / "bank.npz")
    assert not list(tmp_path.iterdir())

"""Siblings of batch norm from PyTorch modules, and PyTorch modules from their files."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the interop extra is not installed: no torch")

from fastbn import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm  # noqa: E402

MODULES = {
    "layer": (LayerNorm, lambda: torch.nn.LayerNorm((4, 5), eps=1e-3), (3, 4, 5)),
    "layer, no bias": (LayerNorm, lambda: torch.nn.LayerNorm(5, bias=False), (3, 4, 5)),
    "layer, plain": (LayerNorm, lambda: torch.nn.LayerNorm(5, elementwise_affine=False), (3, 4, 5)),
    "layer, double": (LayerNorm, lambda: torch.nn.LayerNorm(5, dtype=torch.float64), (3, 4, 5)),
    "layer, half": (LayerNorm, lambda: torch.nn.LayerNorm(5, dtype=torch.bfloat16), (3, 4, 5)),
    "rms": (RMSNorm, lambda: torch.nn.RMSNorm(5), (3, 4, 5)),
    "rms, plain": (RMSNorm, lambda: torch.nn.RMSNorm(5, eps=1e-3, elementwise_affine=False), (3, 4, 5)),
    "group": (GroupNorm, lambda: torch.nn.GroupNorm(2, 4, eps=1e-3), (3, 4, 5)),
    "group, plain": (GroupNorm, lambda: torch.nn.GroupNorm(2, 4, affine=False), (3, 4, 5)),
    "instance": (InstanceNorm, lambda: torch.nn.InstanceNorm1d(4, affine=True), (3, 4, 5)),
    "instance, plain": (InstanceNorm, lambda: torch.nn.InstanceNorm2d(4), (3, 4, 5, 2)),
    "instance, averages": (
        InstanceNorm, lambda: torch.nn.InstanceNorm3d(4, momentum=None, affine=True, track_running_stats=True).eval(),
        (3, 4, 5, 2, 2)),
}


def randomized(module):
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(1, 2)
    return module


@pytest.mark.parametrize("name", MODULES)
def test_a_module_becomes_a_layer(name):
    cls, make, shape = MODULES[name]
    module = randomized(make())
    layer = cls.from_torch(module)
    assert layer.eps == module.eps
    assert layer.training is module.training
    if hasattr(module, "momentum"):     # a layer of PyTorch takes None as 0
        assert layer.momentum == (module.momentum or 0)
    state = {key: value.double() for key, value in module.state_dict().items()}
    assert layer.state_dict().keys() == state.keys()
    for key, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, state[key].numpy())
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    expected = module.double()(x.double()).detach().numpy()
    np.testing.assert_allclose(layer(x.numpy()), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in MODULES if "plain" not in name and "half" not in name])
def test_a_file_loads_into_a_module(name, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    cls, make, _ = MODULES[name]
    module, path = randomized(make()), tmp_path / "layer.safetensors"
    cls.from_torch(module).save(path)
    other = make()
    other.load_state_dict(safetensors.load_file(path))
    for key, value in module.state_dict().items():
        assert torch.equal(other.state_dict()[key], value)


def test_what_is_refused():
    class Own(torch.nn.LayerNorm):
        def forward(self, x):
            return x

    with pytest.raises(TypeError, match=r"class Own overrides forward, .* load its state into a layer of fastbn"):
        LayerNorm.from_torch(Own(4))
    with pytest.raises(TypeError, match=r"module must be a torch.nn.LayerNorm, got GroupNorm"):
        LayerNorm.from_torch(torch.nn.GroupNorm(2, 4))
    with pytest.raises(TypeError, match=r"one of torch.nn.InstanceNorm1d, InstanceNorm2d, InstanceNorm3d, got Linear"):
        InstanceNorm.from_torch(torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r"one of torch.nn.BatchNorm1d"):
        BatchNorm.from_torch(torch.nn.LayerNorm(4))
    with pytest.raises(ValueError, match="LazyInstanceNorm1d without parameters"):
        InstanceNorm.from_torch(torch.nn.LazyInstanceNorm1d())


@pytest.mark.parametrize(("layer", "module"), [
    (LayerNorm(4), torch.nn.LayerNorm(4)), (GroupNorm(2, 4), torch.nn.GroupNorm(2, 4)),
    (BatchNorm(4, track_running_stats=False), torch.nn.BatchNorm1d(4, track_running_stats=False)),
], ids=["layer", "group", "batch"])
def test_parameters_that_require_a_gradient_and_halves_are_a_state(layer, module):
    values = torch.tensor([1.5, 2.0, -0.25, 3.0])
    with torch.no_grad():
        module.weight.copy_(values)
    layer.load_state_dict(dict(module.named_parameters()))
    np.testing.assert_array_equal(layer.gamma, values.numpy())
    layer.gamma[...] = 7
    layer.load_state_dict(module.bfloat16().state_dict())      # exact in bfloat16
    np.testing.assert_array_equal(layer.gamma, values.numpy())
    assert layer.gamma.dtype == np.float32
    with pytest.raises(TypeError, match="weight is a tensor on the device meta"):
        layer.load_state_dict(module.to("meta").state_dict())
    np.testing.assert_array_equal(layer.gamma, values.numpy())

"""Files from and to the safetensors package, and its verdict on files that fastbn refuses."""

import numpy as np
import pytest

safetensors = pytest.importorskip("safetensors", reason="the interop extra is not installed: no safetensors")

from safetensors.numpy import load_file, save_file  # noqa: E402

from fastbn import BatchNorm  # noqa: E402
from tests.checkpoints.files import state  # noqa: E402
from tests.checkpoints.malformed.safetensors import cases  # noqa: E402
from tests.compare import same_bits  # noqa: E402
from tests.layers.trained import STATE, trained  # noqa: E402

# Files that the package accepts and fastbn refuses: unknown keys, duplicate names (which the format forbids), white
# space before the header (which must begin with a brace), null as metadata, more than 32 dimensions, and a counter of
# complex dtype, which is valid for the package.
STRICTER = {
    *(f"{name} extra key" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
    "header space first", "header name twice", "header name twice, once escaped", "header metadata key twice",
    "header metadata null", "num_batches_tracked shape 33 dimensions",
    "num_batches_tracked shape thousands of dimensions", "num_batches_tracked dtype wider",
}


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"track_running_stats": False}], ids=str)
def test_the_package_reads_what_is_written(options, dtype, tmp_path):
    bn = trained(dtype=dtype, **options)
    bn.save(tmp_path / "model.safetensors", prefix="bn.")
    arrays = load_file(tmp_path / "model.safetensors")
    assert arrays.keys() == {f"bn.{name}" for name in bn.state_dict()}
    for name, value in bn.state_dict().items():
        same_bits(arrays[f"bn.{name}"], value)
    with safetensors.safe_open(tmp_path / "model.safetensors", "np") as file:
        assert file.metadata()["fastbn.bn.eps"] == "1e-05"


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"track_running_stats": False}], ids=str)
def test_what_the_package_writes_is_read(options, dtype, tmp_path):
    bn = trained(dtype=dtype, **options)
    arrays = {f"bn.{name}": value for name, value in bn.state_dict().items()}
    save_file(arrays | {"fc.weight": np.ones((3, 7), np.int8)}, tmp_path / "model.safetensors", {"format": "np"})
    other = BatchNorm.load(tmp_path / "model.safetensors", prefix="bn.")
    assert other.dtype == dtype
    for name in STATE:
        np.testing.assert_array_equal(getattr(other, name), getattr(bn, name))


def test_torch_files(tmp_path):
    torch = pytest.importorskip("torch", reason="the interop extra is not installed: no torch")
    from safetensors.torch import save_file

    theirs = torch.nn.BatchNorm2d(5).to(torch.bfloat16)
    with torch.no_grad():
        theirs.weight.copy_(torch.linspace(0.1, 3, 5))
        theirs.running_var.copy_(torch.linspace(1e-3, 1e30, 5))
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    ours = BatchNorm.load(tmp_path / "model.safetensors", convention="torch")
    for name, value in theirs.state_dict().items():
        np.testing.assert_array_equal(ours.state_dict()[name], value.float().numpy())


def test_what_the_package_refuses_is_refused():
    # Malformed as files, not as batch norms.
    accepted = set()
    for name, data, _ in cases():
        try:
            safetensors.deserialize(data)
        except safetensors.SafetensorError:
            continue
        accepted.add(name)
    assert accepted == STRICTER


def test_the_package_takes_the_right_file_of_the_corpus():
    from tests.checkpoints.files import safetensors as made

    names = [name for name, _ in safetensors.deserialize(made())]
    assert sorted(names) == sorted(state())

"""What may be assigned to the attributes of a layer: what the constructor takes, or an error that names them."""

import pickle
import re

import numpy as np
import pytest

import fastbn
from fastbn import BatchNorm
from tests.awkward import misaligned, swapped
from tests.layers.trained import batches, trained

V = np.ones(3, np.float32)

BAD = {
    "axis": [(True, TypeError, "axis must be an integer, got True"), ("1", TypeError, "axis must be an integer")],
    "eps": [(-1, ValueError, "eps must be .*, got -1"), (np.nan, ValueError, "eps must be .*, got nan"),
            ("small", TypeError, "eps must be a number, got 'small'")],
    "momentum": [(2, ValueError, "momentum must be between 0 and 1, got 2"),
                 ("0.1", TypeError, "momentum must be a number or None, got '0.1'")],
    "unbiased": [("no", TypeError, "unbiased must be True or False, got 'no'"),
                 (0, TypeError, "unbiased must be True or False, got 0")],
    "training": [("yes", TypeError, "training must be True or False, got 'yes'"),
                 (None, TypeError, "training must be True or False, got None")],
    "debias": [(1, TypeError, "debias must be True or False, got 1")],
    "nan_policy": [("Raise", ValueError, "nan_policy must be one of 'propagate', .*, got 'Raise'"),
                   (None, TypeError, "nan_policy must be one of .*, got None")],
    "num_threads": [(0, ValueError, "num_threads must be between 1 and [0-9]+, got 0"),
                    (2.0, TypeError, "num_threads must be an integer, got 2.0")],
    "num_batches_tracked": [("a", TypeError, "num_batches_tracked must be one integer, got 'a'"),
                            (True, TypeError, "num_batches_tracked must be one integer, got True"),
                            (1.0, TypeError, "num_batches_tracked must be one integer, got 1.0"),
                            (-1, ValueError, "num_batches_tracked must be between 0 and .*, got -1"),
                            (2**63, ValueError, "num_batches_tracked must be between 0 and .*, got 92233")],
    "num_features": [(3, AttributeError, "num_features of a BatchNorm cannot be assigned; make a new layer")],
    "dtype": [(np.float64, AttributeError, "dtype of a BatchNorm cannot be assigned; make a new layer")],
    "affine": [(False, AttributeError, "affine of a BatchNorm cannot be assigned; assign gamma and beta, or None")],
    "track_running_stats": [(False, AttributeError, "track_running_stats .* cannot be assigned; assign running_mean")],
    "averaging": [("exact", AttributeError, "averaging .* cannot be assigned; make a new layer, or assign momentum")],
}
BAD_VECTORS = [
    (np.ones(4, np.float32), ValueError, r" has shape \(4,\); expected \(3,\)"),
    (np.ones((3, 1)), ValueError, r" has shape \(3, 1\); expected \(3,\)"),
    (1.0, ValueError, r" has shape \(\); expected \(3,\)"),
    (np.ones(3, int), TypeError, " has dtype int64; expected float32 or float64"),
    (np.ones(3, np.float16), TypeError, " has dtype float16; expected float32 or float64"),
    ("abc", ValueError, r" has shape \(\); expected \(3,\)"),
    (swapped(V), ValueError, r" is byte-swapped; expected .* native byte order; use np.array\(.*, np.float32\)"),
    (misaligned(np.ones(3)), ValueError, r" is misaligned; expected an aligned .*; use np.array\(.*, np.float64\)"),
    (np.ma.array(V), TypeError, " is a masked array"),
]
BAD["running_var"] = [(-V, ValueError, "running_var has negative values, down to -1.0, in channels 0, 1, 2")]
CASES = [(name, *case) for name, cases in BAD.items() for case in cases]
CASES += [(name, value, error, name + text) for name in ("gamma", "beta", "running_mean", "running_var")
          for value, error, text in BAD_VECTORS]


@pytest.mark.parametrize(("name", "value", "error", "message"), CASES, ids=[f"{c[0]}={c[1]!r}" for c in CASES])
def test_a_bad_assignment_changes_nothing(name, value, error, message):
    bn = BatchNorm(3, averaging="ema")
    before = getattr(bn, name)
    with pytest.raises(error, match=message):
        setattr(bn, name, value)
    assert getattr(bn, name) is before


@pytest.mark.parametrize(("name", "value", "stored"), [
    ("axis", np.int64(-1), -1), ("eps", 1, 1.0), ("momentum", None, None), ("momentum", np.float32(0.5), 0.5),
    ("unbiased", np.False_, False), ("training", False, False), ("debias", True, True),
    ("nan_policy", "raise", "raise"),
    ("num_threads", None, None), ("num_threads", np.int32(2), 2), ("num_batches_tracked", np.array(7), 7),
], ids=str)
def test_a_good_assignment_is_stored_in_its_type(name, value, stored):
    bn = BatchNorm(3)
    setattr(bn, name, value)
    assert getattr(bn, name) == stored
    assert type(getattr(bn, name)) is type(stored)


def test_arrays_are_kept_and_lists_become_arrays():
    bn = BatchNorm(3)
    for name in ("gamma", "beta", "running_mean", "running_var"):
        for array in (V, np.ones(3), np.ones(6, np.float32)[::2], np.ones(6)[::-2]):
            setattr(bn, name, array)
            assert getattr(bn, name) is array
        setattr(bn, name, [1, 2, 3])
        assert getattr(bn, name).dtype == np.float32
        np.testing.assert_array_equal(getattr(bn, name), [1, 2, 3])
    bn.gamma += 1
    np.testing.assert_array_equal(bn.gamma, [2, 3, 4])


@pytest.mark.parametrize(("options", "name", "value", "message"), [
    ({"averaging": "exact"}, "debias", True, "debias must be False with averaging='exact'"),
    ({"momentum": None}, "debias", True, "debias must be False with averaging='cumulative'"),
    ({"track_running_stats": False}, "debias", True, "track_running_stats must be True with debias=True"),
    ({"debias": True}, "running_mean", None, "running_mean must be an array with debias=True, got None"),
    ({"averaging": "exact"}, "running_var", None, "running_var must be an array with averaging='exact', got None"),
    ({"debias": True}, "momentum", None, "momentum must be a number with debias=True, got None"),
])
def test_attributes_that_exclude_each_other(options, name, value, message):
    bn = BatchNorm(3, **options)
    with pytest.raises(ValueError, match=message):
        setattr(bn, name, value)


@pytest.mark.parametrize("momentum", [0.3, 0.0, 1])
def test_cumulative_averages_take_no_momentum(momentum):
    with pytest.raises(ValueError, match=f"momentum must be None, .* with averaging='cumulative', got {momentum}"):
        BatchNorm(3, averaging="cumulative", momentum=momentum)
    assert BatchNorm(3, averaging="cumulative", momentum=None).momentum is None


def test_cumulative_averages_of_a_file_with_a_momentum(tmp_path):
    trained(momentum=0.3).save(tmp_path / "layer.npz")
    assert BatchNorm.load(tmp_path / "layer.npz", averaging="cumulative").momentum is None
    with pytest.raises(ValueError, match="momentum must be None, or not given"):
        BatchNorm.load(tmp_path / "layer.npz", averaging="cumulative", momentum=0.3)


def test_no_dtype_is_the_default(tmp_path):
    assert BatchNorm(3, dtype=None).gamma.dtype == np.float32
    trained(dtype=np.float64).save(tmp_path / "layer.npz")
    assert BatchNorm.load(tmp_path / "layer.npz", dtype=None).gamma.dtype == np.float64      # that of the file


def test_what_a_layer_keeps_follows_its_arrays():
    bn = trained()
    bn.running_mean = bn.running_var = None
    assert bn.track_running_stats is False
    assert set(bn.state_dict()) == {"weight", "bias"}
    bn.gamma = bn.beta = None
    assert bn.affine is False
    assert bn.state_dict() == {}
    bn.eval()(batches()[0])
    bn.running_mean = np.zeros(5)
    with pytest.raises(ValueError, match="running_var is None; expected both running averages, or neither"):
        bn.state_dict()


@pytest.mark.parametrize(("name", "hint"), [
    ("momentun", "; did you mean momentum?"), ("weight", "; it is called gamma"), ("bias", "; it is called beta"),
    ("moving_mean", "; it is called running_mean"), ("epsilon", "; it is called eps"), ("xyz", ""),
    ("activation", "; pass it to each call"), ("num_feature", "; did you mean num_features?"),
])
def test_a_name_that_a_layer_does_not_have(name, hint):
    bn = BatchNorm(3)
    before = dict(vars(bn))
    with pytest.raises(AttributeError, match=rf"^a BatchNorm has no attribute {name}{re.escape(hint)}$"):
        setattr(bn, name, V)
    assert vars(bn) == before
    assert not hasattr(bn, name)


@pytest.mark.parametrize(("name", "here"), [("weight", "gamma"), ("bias", "beta")])
def test_a_name_of_pytorch_is_read_as_an_error_with_a_hint(name, here):
    for owner in (BatchNorm(3), BatchNorm):
        assert not hasattr(owner, name)
        with pytest.raises(AttributeError, match=f"^a BatchNorm has no attribute {name}; it is called {here}$"):
            getattr(owner, name)


@pytest.mark.parametrize("kind", ["LayerNorm", "InstanceNorm", "BatchRenorm", "ConditionalBatchNorm", "Whitening"])
def test_freeze_is_a_method_of_batch_norm_alone(kind):
    layer = getattr(fastbn, kind)(3)
    with pytest.raises(AttributeError, match=f"^an? {kind} has no attribute freeze; assign learn_affine = False to"):
        layer.freeze()
    with pytest.raises(AttributeError, match=f"^an? {kind} has no attribute use_running_stats; assign learn_affine"):
        layer.use_running_stats = True
    assert not hasattr(layer, "freeze")
    with pytest.raises(AttributeError, match=f"^an? {kind} has no attribute freez$"):
        layer.freez = 1


def test_an_rms_norm_has_no_bias():
    with pytest.raises(AttributeError, match=r"^an RMSNorm has no attribute bias; an RMS norm has none$"):
        _ = fastbn.RMSNorm(3).bias


class Named(BatchNorm):
    """As a user of the package may derive it."""

    def __init__(self, channels, label):
        super().__init__(channels)
        self.label = label


def test_a_derived_class_has_attributes_of_its_own():
    bn = Named(3, "first")
    bn.weight = 5
    assert (bn.label, bn.weight) == ("first", 5)
    other = pickle.loads(pickle.dumps(bn))
    assert (other.label, other.weight) == ("first", 5)
    with pytest.raises(ValueError, match="momentum must be between 0 and 1, got 2"):
        bn.momentum = 2


def test_attributes_without_a_check_can_be_assigned():
    bn = BatchNorm(3)
    bn.grad_gamma = bn.grad_beta = V
    bn.backward = None
    assert bn.grad_gamma is bn.grad_beta is V


@pytest.mark.parametrize("stored", [{"running_var": 1e39}, {"running_mean": -1e39}, {"gamma": 1e39}, {"beta": 1e300}])
def test_a_state_does_not_overflow(stored):
    # An assigned array may be of float64 in a layer of float32.
    bn = BatchNorm(3)
    [(name, value)] = stored.items()
    setattr(bn, name, np.array([1.0, value, 1.0]))
    with pytest.raises(ValueError, match=f"{name} has values beyond the range of float32, in channel 1$"):
        bn.state_dict()
    setattr(bn, name, np.array([1.0, np.inf, np.nan]))      # as training leaves them
    state = list(bn.state_dict().values())
    assert sum(np.isinf(vector).any() for vector in state) == 1


def test_a_batch_that_overflows_an_assigned_array_is_not_finite():
    bn = BatchNorm(2, dtype=np.float64, nan_policy="raise")
    x = np.array([[1e25, 1.0], [-1e25, 2.0]])
    bn(x)
    bn.running_var = np.ones(2, np.float32)
    with pytest.raises(ValueError, match="x has a mean or variance that is not finite in float32 in channel 0"):
        bn(x)
    np.testing.assert_array_equal(bn.running_var, 1)


@pytest.mark.parametrize("dtype", ["foo", [], 5])
def test_a_dtype_that_is_none(dtype):
    with pytest.raises(TypeError, match=f"^dtype must be float32 or float64, got {re.escape(repr(dtype))}$"):
        BatchNorm(3, dtype=dtype)


@pytest.mark.parametrize("name", ["frozen", "freeze", "eval", "backward"])
def test_a_flag_cannot_replace_a_method(name):
    bn = BatchNorm(2)
    with pytest.raises(AttributeError, match=f"^a BatchNorm has a method {name}; call it$"):
        setattr(bn, name, True)
    assert callable(getattr(bn, name))

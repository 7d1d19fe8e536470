"""Messages stay short where there are many channels or names, and count in English."""

import numpy as np
import pytest

import fastbn
from fastbn import BatchNorm, ChannelStats

MANY = 2000


def spoilt(channels=MANY):
    return np.full((4, channels), np.nan, np.float32)


def state(**more):
    return {**BatchNorm(3, averaging="exact").state_dict(), **more}


LONG = {
    "NaN in a batch": lambda: BatchNorm(MANY, nan_policy="raise")(spoilt()),
    "NaN in a data set": lambda: fastbn.population_statistics(bn := BatchNorm(MANY), [spoilt()], bn),
    "NaN in statistics": lambda: ChannelStats(MANY).update(spoilt(), nan_policy="raise"),
    "NaN in a sum": lambda: BatchNorm(MANY, nan_policy="raise").accumulate([spoilt()]),
    "names in a state": lambda: BatchNorm(3).load_state_dict(state(**{f"layer{k}.weight": 0 for k in range(60_000)})),
    "counts in a state": lambda: BatchNorm(MANY, averaging="exact").load_state_dict(
        {**BatchNorm(MANY, averaging="exact").state_dict(), "exact_count": np.full(MANY, 0.5)}),
    "names of arrays": lambda: ChannelStats.__new__(ChannelStats).__setstate__(
        {"axis": 1, **{f"vector{k}": 0 for k in range(5000)}}),
    "single values": lambda: BatchNorm(MANY)(np.ones((4, MANY)), mask=np.eye(4, MANY, dtype=bool) | (
        np.arange(4)[:, None] == 0)),
    "no values": lambda: BatchNorm(MANY, debias=True)(np.ones((4, MANY)), mask=np.arange(MANY) < np.full((4, 1), 5)),
    "no part": lambda: ChannelStats(MANY).update(np.ones((3, MANY))) - ChannelStats(MANY).update(np.ones((4, MANY))),
}


@pytest.mark.parametrize("name", LONG)
def test_short(name):
    with pytest.raises((TypeError, ValueError)) as caught:
        LONG[name]()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(("call", "message"), [
    (lambda: BatchNorm(1, nan_policy="raise")(spoilt(1)), "in channel 0; nan_policy=.raise. requires"),
    (lambda: BatchNorm(2, nan_policy="raise")(spoilt(2)), "in channels 0, 1; nan_policy"),
    (lambda: BatchNorm(9, nan_policy="raise")(spoilt(9)), "in channels 0, 1, 2, 3, 4, 5, 6, 7 and 1 more; nan_policy"),
    (lambda: BatchNorm(3)(np.ones((4, 1), np.float32)), r"which is 1 channel along axis 1; expected 3$"),
    (lambda: BatchNorm(3)(np.ones((4, 2), np.float32)), r"which is 2 channels along axis 1; expected 3$"),
    (lambda: BatchNorm(2**60), "num_features must be at most 1152921504606846975, .* got 1152921504606846976$"),
    (lambda: ChannelStats(10**30), "num_channels must be at most"),
    (lambda: fastbn.GroupNorm(1, 10**30), "num_channels must be at most"),
    (lambda: fastbn.InstanceNorm(10**30), "num_features must be at most"),
    (lambda: fastbn.LayerNorm((2**31, 2**31)), r"normalized_shape must have at most .* got \(2147483648, 21474836"),
    (lambda: fastbn.RMSNorm((0, 10**30)), "normalized_shape must have at most"),
    (lambda: BatchNorm(3).accumulate([np.ones((1, 3))]), "micro_batches have 1 value per channel in total"),
    (lambda: BatchNorm(3).report(np.ones((1, 3))), "x has 1 value per channel; expected two or more"),
])
def test_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()

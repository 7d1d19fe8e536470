"""``python -m fastbn demo``: the effect of batch normalization on a small network."""

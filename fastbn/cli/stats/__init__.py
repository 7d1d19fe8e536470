"""``python -m fastbn stats``: statistics of the channels of files, of whatever size."""

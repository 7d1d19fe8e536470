"""From blocks of values to statistics of channels."""

"""Statistics of channels that can be merged."""

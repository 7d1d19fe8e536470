"""The commands of ``python -m fastbn``."""

"""Benchmarks of fastbn: ``python -m benchmarks --help``, and ``pytest benchmarks`` for one operation at a time."""

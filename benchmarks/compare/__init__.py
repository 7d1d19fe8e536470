"""fastbn beside its peers; see ``python -m benchmarks.compare --help``."""

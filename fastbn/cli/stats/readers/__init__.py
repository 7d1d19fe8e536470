"""Readers, one per file format: each opens an input and yields its arrays as `Part`, read block by block."""

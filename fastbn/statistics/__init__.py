"""Mergeable statistics of channels."""

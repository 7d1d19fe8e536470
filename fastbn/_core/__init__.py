"""Compiled code and its surroundings: array views, vectors, checks, threads, dispatch and files."""

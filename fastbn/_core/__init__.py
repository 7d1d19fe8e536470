"""The compiled code and what surrounds it: array views, vectors, checks, threads and dispatch."""

"""Benchmarks of fastbn.

``pytest benchmarks`` times every operation on every case and sets it beside the speed of memory;
``python -m benchmarks.compare`` sets fastbn beside PyTorch, ONNX Runtime and NumPy, each in a process of its own.
"""

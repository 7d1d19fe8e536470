"""Batch norms folded in graphs of ONNX; needs the extra ``onnx``."""

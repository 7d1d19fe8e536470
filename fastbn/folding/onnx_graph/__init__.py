"""Fold the batch norms of ONNX models; requires the extra ``onnx``."""

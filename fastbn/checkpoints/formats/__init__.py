"""File formats of named arrays: safetensors and npz, one module each, behind one interface."""

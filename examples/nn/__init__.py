"""A small library of network layers in NumPy, for the examples: the layers of fastbn fit between them."""

# The kernels for one ISA level; its flags are in setup.py.
include "kernels.pxi"

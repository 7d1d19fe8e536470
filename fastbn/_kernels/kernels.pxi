# cython: language_level=3
# The kernels of fastbn, in the order in which they build on each other. Every ISA level compiles this one body.
#
# a) The result is a function of the input alone: the same bits for any number of threads and any ISA level. Work is
#    cut into units that follow from shape and type; units are merged in order; the compiler may neither contract nor
#    reassociate (setup.py), so a wider vector does the same additions in the same order, more of them at once.
# b) Loops run over local arrays of a literal length, which the compiler keeps in vector registers.
# c) What is per channel is double; what is per element is the arrays' type.

include "sizes.pxi"
include "lanes.pxi"
include "job.pxi"
include "stream.pxi"
include "halves.pxi"
include "signals.pxi"
include "planes_reduce.pxi"
include "rows_reduce.pxi"
include "huge.pxi"
include "transform.pxi"
include "activations.pxi"
include "staged.pxi"
include "planes.pxi"
include "rows.pxi"
include "lookup.pxi"
include "byte_sums.pxi"
include "team.pxi"
include "entry.pxi"
include "inference.pxi"
include "images.pxi"
include "bytes.pxi"

# cython: language_level=3
# The kernels of fastbn, in the order in which they build on each other. Every ISA level compiles this one body.
#
# a) The result is a function of the input alone: the same bits for any number of threads and any ISA level. Work is
#    cut into units that follow from shape and type; units are merged in order; the compiler may neither contract nor
#    reassociate (setup.py), so a wider vector does the same additions in the same order, more of them at once.
# b) Loops run over local arrays of a literal length, which the compiler keeps in vector registers.
# c) What is per channel is double; what is per element is the arrays' type.

include "common/sizes.pxi"
include "common/lanes.pxi"
include "common/job.pxi"
include "common/stream.pxi"
include "common/halves.pxi"
include "common/signals.pxi"
include "reduce/planes.pxi"
include "reduce/rows.pxi"
include "reduce/huge.pxi"
include "apply/transform.pxi"
include "apply/activations.pxi"
include "apply/staged.pxi"
include "schedule/planes.pxi"
include "schedule/rows.pxi"
include "apply/lookup.pxi"
include "reduce/bytes.pxi"
include "schedule/team.pxi"
include "api/training.pxi"
include "api/inference.pxi"
include "api/lookup.pxi"
include "api/bytes.pxi"
include "api/sizes.pxi"

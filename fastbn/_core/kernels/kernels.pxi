# cython: language_level=3
# The kernels of fastbn. Every ISA level compiles this body; each file builds on the ones above it.
#
# a) The result is a function of the input alone: the same bits for any number of threads and any ISA level. Work is cut
#    into units that depend only on shape and type, and units are merged in order. The compiler may neither contract nor
#    reassociate (setup.py), so a wider vector does the same additions in the same order, more of them at once.
# b) Loops run over local arrays of a literal length, which the compiler keeps in vector registers.
# c) Values per channel are double; values per element are of the arrays' type, or float for halves.
# d) Arguments travel in structs: arrays with their steps, Mode, Coefs. Inner bodies take them by value. The fields of a
#    Mode are literals there, and forced inlining removes the structs.

include "common/sizes.pxi"
include "common/lanes.pxi"
include "common/moments.pxi"
include "common/memory.pxi"
include "common/geometry.pxi"
include "common/job.pxi"
include "common/halves.pxi"
include "common/signals.pxi"
include "common/coefs.pxi"
include "common/row_coefs.pxi"
include "common/pool.pxi"
include "reduce/lanes.pxi"
include "reduce/planes.pxi"
include "reduce/rows.pxi"
include "reduce/huge.pxi"
include "apply/affine.pxi"
include "apply/gradient.pxi"
include "apply/exponentials.pxi"
include "apply/activations.pxi"
include "apply/derivatives.pxi"
include "apply/layer.pxi"
include "apply/staged.pxi"
include "apply/lookup.pxi"
include "schedule/planes.pxi"
include "schedule/rows.pxi"
include "schedule/derive.pxi"
include "reduce/layer.pxi"
include "apply/layer_gradient.pxi"
include "schedule/layer.pxi"
include "reduce/bytes.pxi"
include "schedule/workspace.pxi"
include "schedule/team.pxi"
include "schedule/groups.pxi"
include "api/plan.pxi"
include "api/training.pxi"
include "api/layer.pxi"
include "api/reduce.pxi"
include "api/constants.pxi"
include "api/inference.pxi"
include "api/bound.pxi"
include "api/lookup.pxi"
include "api/sizes.pxi"

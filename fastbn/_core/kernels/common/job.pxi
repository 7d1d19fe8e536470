# One call of the library as the kernels see it.
#
# a) A call reduces, applies, or does both: `reduces` and `applies`. With `gradient` it does so for a backward.
# b) An array that is absent has p == NULL and the steps of x.
# c) The API fills in arrays, settings and vectors; the schedule fills in `cut` and `phases` before any loop runs.

from cpython.ref cimport PyObject

cdef struct Array:          # element (n, c, s) is p[n * step_n + c * step_c + s]; steps in elements
    char* p
    Py_ssize_t step_n
    Py_ssize_t step_c

cdef struct Runs:           # part of an array: run i begins at p + i * step; steps in bytes
    char* p
    Py_ssize_t step

cdef struct Words:          # ReLU bits of some runs: those of run i begin at p + i * step
    uint16_t* p
    Py_ssize_t step

cdef struct Mode:           # what a pass does: literals when a body sees them, except for the last two
    int type                # of the elements in memory
    bint spread             # a constant per element of a run (rows), or one per run (planes)
    bint residual           # add a residual, or write its gradient
    bint relu
    bint keep               # write ReLU bits
    int gate                # in a gradient and in reductions
    bint frozen             # the statistics are constants
    bint stream             # store around the caches
    bint four               # four long rows at once
    bint weighted           # several channels per statistic: gamma weights dy

cdef struct Coefs:          # constants of the elementwise passes: rows of the type that elements are computed in
    char* p
    Py_ssize_t step         # numbers from row to row
    Py_ssize_t channels     # a row repeats its channels, once per row of C in a wide row (schedule/rows.pxi)
    Py_ssize_t repeats

cdef struct Partials:       # (units, c): results of the units
    double* mean            # of a forward
    double* low
    double* m2
    double* sum_dy          # of a backward
    double* products
    double* sum_x           # of uint8
    double* sum_xx

cdef enum What:             # what a unit does
    COEFS
    PLANES_GROUP
    PLANES_SPAN
    PLANES_MERGE
    PLANES_APPLY
    ROWS_SLAB
    ROWS_REDUCE
    ROWS_MERGE
    ROWS_APPLY
    SAMPLE_GROUP
    GROUP_SUMS
    LAYER_FORWARD
    LAYER_BACKWARD
    LAYER_MERGE
    LOOKUP_LINES
    BYTES_OF_PLANES
    BYTES_OF_ROWS

cdef struct Phase:
    What what
    Py_ssize_t count

cdef struct Cut:            # how the work is cut into units
    # schedule/planes.pxi
    Py_ssize_t joined       # channels that are reduced as one
    Py_ssize_t length       # of a plane of them
    Py_ssize_t pieces       # of such a plane
    Py_ssize_t spans        # of them
    Py_ssize_t span_images
    Py_ssize_t plane_pieces     # of a plane
    Py_ssize_t unit_planes  # that a unit applies
    # schedule/rows.pxi
    Py_ssize_t repeats
    Py_ssize_t wide_rows
    Py_ssize_t unit_rows
    Py_ssize_t units
    Py_ssize_t slab
    Py_ssize_t slabs
    Py_ssize_t merged       # columns that a unit merges
    # both
    Py_ssize_t group        # channels that are reduced and applied at once; 0: one phase for each step
    bint four
    bint stream
    bint fetch              # prefetch small planes before they are reduced; rows of layer norm from memory
    bint far                # the arrays exceed the last cache
    Phase[4] phases
    int count               # of phases

cdef struct Groups          # schedule/groups.pxi
cdef struct Lookup          # apply/lookup.pxi

cdef struct Job:
    # arrays (n, c, s); s is contiguous, and 1 in `rows`
    Py_ssize_t n
    Py_ssize_t c
    Py_ssize_t s
    Geometry geometry
    Array x
    Array residual              # IN
    Array y                     # OUT
    Array dy                    # IN; with `upstream` OUT of schedule/derive.pxi, and then IN
    Array upstream              # IN: the gradient behind an activation other than ReLU
    Array dx                    # OUT
    Array dresidual             # OUT
    uint16_t* bits              # OUT of a forward, IN of a backward
    const Py_ssize_t* index     # (n,) rising numbers of the rows that count; NULL for all
    Py_ssize_t rows             # rows of the arrays, if there is an index
    bint fill                   # zero the other rows of y and dx; those of dresidual always become zero
    # what to compute
    bint gradient
    bint reduces
    bint applies
    int type
    Py_ssize_t itemsize
    bint exact                  # double lanes
    bint whole                  # all elements are integers: sums about an integer pivot are exact
    int activation
    double slope                # of a leaky ReLU, or alpha of an ELU
    int gate
    bint frozen
    bint from_zero              # RMS norm: statistics about zero
    double values               # per statistic, in the whole batch
    double eps
    # vectors of double, (statistics,)
    double* mean                # OUT of reduce and forward, IN otherwise; as the next two
    double* low                 # second word of the mean
    double* rstd
    double* var                 # OUT of a forward
    # (c,); of all groups (groups, c), except for gamma, beta and shift
    double* gamma               # IN
    double* beta                # IN
    double* channel_mean        # of what is reduced, single or joined channels: mean and low, or scratch
    double* channel_low
    double* m2                  # OUT of reduce, scratch of a forward
    double* sum_dy              # OUT of reduce_gradient and backward, IN of apply_gradient
    double* products            # sum of dy * (x - m): OUT of reduce_gradient, IN of apply_gradient
    double* dgamma              # OUT of a backward
    const double* scale         # IN of a backward that computes y again: scale and shift of the forward
    const double* shift
    # workspace
    Coefs coefs
    Partials partials
    char* scratch               # of `rows`: a Scratch per thread (reduce/rows.pxi)
    Cut cut
    Groups* groups              # of SAMPLE_GROUP
    Lookup* lookup              # of LOOKUP_LINES
    # early end (signals.pxi)
    bint watch
    bint stop
    double look_at
    PyObject* error


cdef inline char* at(const Job* job, const Array* a, Py_ssize_t n, Py_ssize_t c, Py_ssize_t i) noexcept nogil:
    return a.p + (n * a.step_n + c * a.step_c + i) * job.itemsize


cdef inline const Array* present(const Array* a, const Array* other) noexcept nogil:
    # The passes move the pointers of absent arrays too, so those of another array stand in.
    return a if a.p != NULL else other


cdef inline int arrays_of(const Job* job) noexcept nogil:
    # What a reduction leaves in the cache for the elementwise pass.
    return (3 if job.upstream.p != NULL else 2) if job.gradient else 1


cdef inline Py_ssize_t size_of(int type) noexcept nogil:
    return 8 if type == FLOAT64 else (4 if type == FLOAT32 else 2)


cdef inline Mode mode_of(const Job* job) noexcept nogil:
    # The mode as values; the passes turn them into literals.
    cdef Mode out
    out.type = job.type
    out.spread = False          # set by the passes
    out.residual = job.dresidual.p != NULL if job.gradient else job.residual.p != NULL
    out.relu = job.activation == RELU
    out.keep = job.bits != NULL
    out.gate = job.gate
    out.frozen = job.frozen
    out.stream = job.cut.stream
    out.four = job.cut.four
    out.weighted = job.geometry.channels > 1
    return out

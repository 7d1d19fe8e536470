# Layer norm and RMS norm over rows of (R, C): the statistics of a row, and its elementwise pass.
#
# a) A group of rows is reduced and then applied while it is in the cache. Rows do not depend on each other, so the
#    size of a group, and of a unit of a forward, decide when a row is processed, not how.
# b) A backward also adds dgamma and dbeta by columns: in `real` over the rows of a group, then in double over those of
#    a unit. The sizes of both depend only on shape and type; the units are merged in order.

cdef enum:
    GROUP_FORWARD = 131072      # bytes of x in a group of a forward
    GROUP_BACKWARD = 524288     # of x and dy
    LEAST_GROUP = 4             # rows of a group of a backward
    UNIT_FORWARD = 32768        # elements of a unit, or fewer if a thread had none
    UNIT_BACKWARD = 131072
    MOST_UNITS = 64             # of a backward
    UNIT_SUMS = 2               # vectors of a unit of a backward: dgamma and dbeta


cdef void plan_layer(Job* job, Py_ssize_t last_cache, int threads) noexcept:
    cdef Py_ssize_t groups
    cdef Cut* cut = &job.cut
    cdef Py_ssize_t row = job.c * job.itemsize
    cut.group = least(ROWS_ABREAST, parts(GROUP_FORWARD, row))
    if job.gradient:
        cut.group = least(ROWS_ABREAST, parts(GROUP_BACKWARD, 2 * row))
        cut.group = cut.group if cut.group > LEAST_GROUP else LEAST_GROUP
    cut.fetch = elements_of(job) * job.itemsize >= last_cache
    groups = parts(job.n, cut.group)
    if job.gradient:
        cut.unit_rows = parts(UNIT_BACKWARD, job.c * cut.group)
        if cut.unit_rows < parts(groups, MOST_UNITS):
            cut.unit_rows = parts(groups, MOST_UNITS)
        cut.unit_rows = evenly(groups, cut.unit_rows, 2)
    else:
        cut.unit_rows = evenly(groups, parts(UNIT_FORWARD, job.c * cut.group), threads)
    cut.unit_rows *= cut.group
    cut.units = parts(job.n, cut.unit_rows)
    job.coefs = Coefs(NULL, parts(job.c, LANES) * LANES + PADDING, job.c, 1)


cdef inline LayerMode layer_mode(const Job* job) noexcept nogil:
    return LayerMode(job.type, job.from_zero, job.gamma != NULL, job.beta != NULL, job.cut.stream, job.cut.fetch)


cdef inline Runs runs_of(const Job* job, const Array* a, RowGroup rows) noexcept nogil:
    return Runs(at(job, a, rows.first, 0, 0), a.step_n * job.itemsize)


cdef inline Words bits_of(const Job* job, RowGroup rows) noexcept nogil:
    cdef Py_ssize_t step = parts(job.c, LANES)
    if job.bits == NULL:
        return Words(<uint16_t*> job.x.p, 0)
    return Words(job.bits + rows.first * step, step)


cdef void layer_forward_group(Job* job, RowGroup rows, const real* kind) noexcept nogil:
    cdef real coefs[ROW_COEFS * ROWS_ABREAST]
    cdef RowStatistics statistics
    cdef ForwardRuns a
    row_moments(job, rows, &statistics, kind)
    row_statistics(job, rows, &statistics, kind)
    forward_row_coefs(&statistics, rows.count, <real*> coefs)
    a.runs = rows.count
    a.length = job.c
    a.x = runs_of(job, &job.x, rows)
    a.y = runs_of(job, &job.y, rows)
    a.residual = runs_of(job, present(&job.residual, &job.x), rows)
    a.bits = bits_of(job, rows)
    forward_runs(ROW_CONSTANTS, job, a, job.coefs, <const real*> coefs)


cdef void layer_backward_group(Job* job, RowGroup rows, double* total, const real* kind) noexcept nogil:
    cdef double products[2 * ROWS_ABREAST]
    cdef real coefs[ROW_COEFS * ROWS_ABREAST]
    cdef RowStatistics statistics
    cdef GradientRuns a
    kept_statistics(job, rows, &statistics)
    forward_row_coefs(&statistics, rows.count, <real*> coefs)
    a.runs = rows.count
    a.length = job.c
    a.x = runs_of(job, &job.x, rows)
    a.bits = bits_of(job, rows)
    a.dy = runs_of(job, &job.upstream, rows)
    a.dx = runs_of(job, &job.dy, rows)
    a.dresidual = a.dx
    if job.upstream.p != NULL and job.activation != NO_ACTIVATION and job.bits == NULL:
        derive_runs(ROW_CONSTANTS, job, a, job.coefs, <const real*> coefs)
    elif job.upstream.p != NULL:
        open_runs(job, a, kind)
    if real is float and job.c > FEW:
        row_products(job, rows, &statistics, <const real*> coefs, products, total, <float> 0)
    else:
        row_products(job, rows, &statistics, <const real*> coefs, products, total, <double> 0)
    gradient_row_coefs(job, &statistics, rows.count, products, <real*> coefs)
    a.dy = runs_of(job, &job.dy, rows)
    a.dx = runs_of(job, &job.dx, rows)
    layer_gradient(layer_mode(job), a, job.coefs, <const real*> coefs)


# ---- units ---------------------------------------------------------------------------------------------------------

cdef inline Py_ssize_t end_of_unit(const Job* job, Py_ssize_t unit) noexcept nogil:
    return least(job.n, (unit + 1) * job.cut.unit_rows)


cdef void layer_forward_unit(Job* job, Py_ssize_t unit, const real* kind) noexcept nogil:
    cdef Py_ssize_t row = unit * job.cut.unit_rows, stop = end_of_unit(job, unit)
    while row < stop:
        layer_forward_group(job, RowGroup(row, <int> least(job.cut.group, stop - row)), kind)
        row += job.cut.group
    if job.cut.stream:
        fastbn_fence()


cdef void layer_backward_unit(Job* job, Py_ssize_t unit, const real* kind) noexcept nogil:
    cdef Py_ssize_t row = unit * job.cut.unit_rows, stop = end_of_unit(job, unit)
    cdef double* total = job.partials.sum_dy + unit * UNIT_SUMS * job.coefs.step
    if job.gamma != NULL:
        memset(total, 0, UNIT_SUMS * job.coefs.step * sizeof(double))
    while row < stop:
        layer_backward_group(job, RowGroup(row, <int> least(job.cut.group, stop - row)), total, kind)
        row += job.cut.group
    if job.cut.stream:
        fastbn_fence()


cdef void layer_merge(Job* job, Py_ssize_t tile) noexcept nogil:
    # dgamma and dbeta of a tile of columns.
    cdef Py_ssize_t c = tile * TILE, u, stop = least(job.c, c + TILE), i
    for i in range(c, stop):
        job.dgamma[i] = 0
        job.sum_dy[i] = 0
    for u in range(job.cut.units):
        for i in range(c, stop):
            job.dgamma[i] += job.partials.sum_dy[UNIT_SUMS * u * job.coefs.step + i]
            job.sum_dy[i] += job.partials.sum_dy[(UNIT_SUMS * u + 1) * job.coefs.step + i]

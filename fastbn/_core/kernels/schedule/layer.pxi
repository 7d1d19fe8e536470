# Layer norm and RMS norm over rows of (R, C): the statistics of a row, and its elementwise pass.
#
# a) A group of rows is reduced and then applied while it is in the first-level cache. Rows do not depend on each other,
#    so the size of a group, and of a unit of a forward, decide when a row is processed, not how.
# b) A backward also adds dgamma and dbeta by columns: in `real` over SUM_ROWS rows, then in double over the rows of a
#    unit, which depend only on the shape; the units are merged in order.

cdef enum:
    SUM_ROWS = 16               # rows whose terms of dgamma and dbeta are added in `real`
    GROUP_BYTES = 4096          # of a group
    UNIT_FORWARD = 32768        # least elements of a unit
    UNIT_BACKWARD = 131072
    MOST_UNITS = 64             # of a backward
    UNIT_SUMS = 4               # vectors of a unit of a backward: dgamma and dbeta in double, and in `real`


cdef void plan_layer(Job* job) noexcept nogil:
    cdef Cut* cut = &job.cut
    cdef Py_ssize_t row = job.c * job.itemsize * (2 if job.gradient else 1)
    cut.group = least(ROWS_ABREAST, parts(GROUP_BYTES, row))
    cut.unit_rows = parts(UNIT_BACKWARD if job.gradient else UNIT_FORWARD, job.c)
    if job.gradient and cut.unit_rows < parts(job.n, MOST_UNITS):
        cut.unit_rows = parts(job.n, MOST_UNITS)
    cut.unit_rows = parts(cut.unit_rows, SUM_ROWS) * SUM_ROWS
    cut.units = parts(job.n, cut.unit_rows)
    job.coefs = Coefs(NULL, job.c + PADDING, job.c, 1)


cdef inline LayerMode layer_mode(const Job* job) noexcept nogil:
    return LayerMode(job.type, job.from_zero, job.gamma != NULL, job.beta != NULL, job.cut.stream)


cdef inline Runs runs_of(const Job* job, const Array* a, RowGroup rows) noexcept nogil:
    return Runs(at(job, a, rows.first, 0, 0), a.step_n * job.itemsize)


cdef inline Words bits_of(const Job* job, RowGroup rows) noexcept nogil:
    cdef Py_ssize_t step = parts(job.c, LANES)
    if job.bits == NULL:
        return Words(<uint16_t*> job.x.p, 0)
    return Words(job.bits + rows.first * step, step)


cdef void layer_forward_group(Job* job, RowGroup rows, const real* kind) noexcept nogil:
    cdef Moments moments[ROWS_ABREAST]
    cdef real coefs[ROW_COEFS * ROWS_ABREAST]
    cdef RowStatistics statistics
    cdef ForwardRuns a
    row_moments(job, rows, moments, kind)
    row_statistics(job, rows, moments, &statistics, kind)
    forward_row_coefs(&statistics, rows.count, <real*> coefs)
    a.runs = rows.count
    a.length = job.c
    a.x = runs_of(job, &job.x, rows)
    a.y = runs_of(job, &job.y, rows)
    a.residual = runs_of(job, present(&job.residual, &job.x), rows)
    a.bits = bits_of(job, rows)
    forward_runs(ROW_CONSTANTS, job, a, job.coefs, <const real*> coefs)


cdef void layer_backward_group(Job* job, RowGroup rows, real* sums, const real* kind) noexcept nogil:
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
        row_products(job, rows, <const real*> coefs, products, <float> 0)
    else:
        row_products(job, rows, <const real*> coefs, products, <double> 0)
    gradient_row_coefs(job, &statistics, rows.count, products, <real*> coefs)
    a.dy = runs_of(job, &job.dy, rows)
    a.dx = runs_of(job, &job.dx, rows)
    layer_gradient(layer_mode(job), a, job.coefs, <const real*> coefs, sums)


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


cdef inline void add_row_sums(
    Py_ssize_t columns,
    real* sums,                                         # IN  (columns,), OUT zero
    double* total,                                      # OUT (columns,), added to
) noexcept nogil:
    cdef Py_ssize_t c
    for c in range(columns):
        total[c] += sums[c]
        sums[c] = 0


cdef void layer_backward_unit(Job* job, Py_ssize_t unit, const real* kind) noexcept nogil:
    cdef Py_ssize_t row = unit * job.cut.unit_rows, stop = end_of_unit(job, unit), part, columns
    cdef double* total = job.partials.sum_dy + unit * UNIT_SUMS * job.coefs.step
    cdef real* sums = <real*> (total + 2 * job.coefs.step)
    columns = 2 * job.coefs.step if job.gamma != NULL else 0
    memset(total, 0, columns * (sizeof(double) + sizeof(real)))
    while row < stop:
        part = least(stop, row + SUM_ROWS)
        while row < part:
            layer_backward_group(job, RowGroup(row, <int> least(job.cut.group, part - row)), sums, kind)
            row = least(part, row + job.cut.group)
        add_row_sums(columns, sums, total)
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

# Layer norm and RMS norm over rows of (R, C): the statistics of a row, and its elementwise pass.
#
# a) A group of rows is reduced and then applied while it is in the cache. Rows do not depend on each other, so the size
#    of a group and of a unit of a forward decide when a row is processed, not how.
# b) A backward adds dgamma and dbeta by columns: GROUP_ROWS rows at a time in `real`, then in double for each unit; the
#    units are merged in order. The rows of a unit depend only on the shape.

cdef enum:
    GROUP_ROWS = 8              # rows whose gradients of parameters are added in `real`
    GROUP_BYTES = 16384         # of a group in a forward
    ROW_ELEMENTS = 32768        # least of a unit in a forward
    ROW_ELEMENTS_BACKWARD = 131072
    MOST_UNITS = 64             # of a backward: each has two sums in double for every column


cdef void plan_layer(Job* job) noexcept nogil:
    cdef Cut* cut = &job.cut
    if job.gradient:
        cut.group = GROUP_ROWS
        cut.unit_rows = ROW_ELEMENTS_BACKWARD // job.c
        if cut.unit_rows < parts(job.n, MOST_UNITS):
            cut.unit_rows = parts(job.n, MOST_UNITS)
    else:
        cut.group = least(ABREAST, parts(GROUP_BYTES, job.c * job.itemsize))
        cut.unit_rows = parts(ROW_ELEMENTS, job.c)
    cut.unit_rows = (parts(cut.unit_rows, cut.group) if cut.unit_rows else 1) * cut.group
    cut.units = parts(job.n, cut.unit_rows)
    job.coefs = Coefs(NULL, job.c, job.c, 1)


cdef inline LayerMode layer_mode(const Job* job) noexcept nogil:
    return LayerMode(job.type, job.from_zero, job.gamma != NULL, job.beta != NULL, job.cut.stream)


cdef void layer_forward_group(Job* job, RowGroup rows, const real* kind) noexcept nogil:
    cdef Moments moments[ABREAST]
    cdef real coefs[ROW_COEFS * ABREAST]
    cdef RowStatistics statistics
    cdef ForwardRuns a
    row_moments(job, rows, moments, kind)
    row_statistics(job, rows, moments, &statistics, kind)
    forward_row_coefs(&statistics, rows.count, <real*> coefs)
    a.runs = rows.count
    a.length = job.c
    a.x = Runs(at(job, &job.x, rows.first, 0, 0), job.x.step_n * job.itemsize)
    a.y = Runs(at(job, &job.y, rows.first, 0, 0), job.y.step_n * job.itemsize)
    layer(layer_mode(job), a, job.coefs, <const real*> coefs)


cdef void layer_backward_group(Job* job, RowGroup rows, ColumnSums sums, const real* kind) noexcept nogil:
    cdef double products[2 * ABREAST]
    cdef real coefs[ROW_COEFS * ABREAST]
    cdef RowStatistics statistics
    cdef GradientRuns a
    kept_statistics(job, rows, &statistics)
    forward_row_coefs(&statistics, rows.count, <real*> coefs)
    if real is float and job.c > FEW:
        row_products(job, rows, <const real*> coefs, products, <float> 0)
    else:
        row_products(job, rows, <const real*> coefs, products, <double> 0)
    gradient_row_coefs(job, &statistics, rows.count, products, <real*> coefs)
    a.runs = rows.count
    a.length = job.c
    a.dy = Runs(at(job, &job.dy, rows.first, 0, 0), job.dy.step_n * job.itemsize)
    a.x = Runs(at(job, &job.x, rows.first, 0, 0), job.x.step_n * job.itemsize)
    a.dx = Runs(at(job, &job.dx, rows.first, 0, 0), job.dx.step_n * job.itemsize)
    a.dresidual = a.dx
    a.bits = Words(<uint16_t*> a.x.p, 0)
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


cdef void layer_backward_unit(Job* job, Py_ssize_t unit, const real* kind) noexcept nogil:
    cdef Py_ssize_t row = unit * job.cut.unit_rows, stop = end_of_unit(job, unit)
    cdef double none = 0
    cdef ColumnSums sums = ColumnSums(&none, &none)     # not used
    if job.gamma != NULL:
        sums = ColumnSums(job.partials.products + unit * job.c, job.partials.sum_dy + unit * job.c)
        memset(sums.dgamma, 0, job.c * sizeof(double))
        memset(sums.dbeta, 0, job.c * sizeof(double))
    while row < stop:
        layer_backward_group(job, RowGroup(row, <int> least(job.cut.group, stop - row)), sums, kind)
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
            job.dgamma[i] += job.partials.products[u * job.c + i]
            job.sum_dy[i] += job.partials.sum_dy[u * job.c + i]

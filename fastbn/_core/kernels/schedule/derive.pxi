# The pass before a backward with an activation other than ReLU: dy = upstream times the derivative of the activation.
#
# a) It goes over what is reduced next, so that the reduction finds dy in the cache: a group, a span or a strip. Without
#    a reduction it goes over what the gradient pass reads next.
# b) A group is read in the order of memory, image by image. Channel by channel took up to 1.6 times as long.


cdef void derive_planes(const Job* job, Planes p, const real* kind) noexcept nogil:
    cdef GradientRuns a
    a.runs = p.planes
    a.length = p.length
    a.dy = planes_at(job, &job.upstream, p)
    a.x = planes_at(job, &job.x, p)
    a.bits = Words(<uint16_t*> a.x.p, 0)
    a.dx = planes_at(job, &job.dy, p)
    a.dresidual = a.dx
    derive_runs(False, job, a, coefs_from(job.coefs, p.c, kind), kind)


cdef void derive_span(const Job* job, Py_ssize_t c, Py_ssize_t u, const real* kind) noexcept nogil:
    # Span u of a channel.
    cdef Py_ssize_t image = u // job.cut.pieces * job.cut.span_images
    cdef Py_ssize_t i = u % job.cut.pieces * SPAN, n
    for n in range(image, least(image + job.cut.span_images, job.n)):
        derive_planes(job, Planes(n, c, 1, i, least(SPAN, job.s - i)), kind)


cdef void derive_rows(
    const Job* job, const Strip* strip, Panel panel, Py_ssize_t at_row, const real* kind,
) noexcept nogil:
    # As apply_to_rows().
    cdef GradientRuns a
    a.runs = panel.rows
    a.length = panel.width
    a.dy = rows_at(job, &job.upstream, at_row, panel.first, strip.repeats)
    a.x = rows_at(job, &job.x, at_row, panel.first, strip.repeats)
    a.bits = Words(<uint16_t*> a.x.p, 0)
    a.dx = rows_at(job, &job.dy, at_row, panel.first, strip.repeats)
    a.dresidual = a.dx
    derive_runs(True, job, a, coefs_from(job.coefs, panel.first, kind), kind)


cdef void derive_strip(const Job* job, const Strip* strip, Py_ssize_t first, const real* kind) noexcept nogil:
    # A slab of a strip, from column `first` on.
    cdef Py_ssize_t width = least(job.cut.slab, strip.width - first), row = 0, rows
    if job.index == NULL:
        derive_rows(job, strip, Panel(0, strip.rows, first, width), strip.row, kind)
        return
    while row < strip.rows:
        rows = adjacent_rows(job, strip, row)
        derive_rows(job, strip, Panel(row, rows, first, width), job.index[strip.row + row], kind)
        row += rows

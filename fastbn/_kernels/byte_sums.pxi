# Statistics of uint8: the sums of x and of x^2 are integers, and exact, so that neither order nor lanes matter, and a
# second reading or a pivot is needed by nobody.
#
# a) `planes`: a unit is some planes of one channel. `rows`: a unit is some wide rows (rows.pxi), all columns.
# b) Sums are held in as few bits as their chunk allows, because that many more fit a vector: 16 for x over 256 rows, 32
#    for x^2 over 65,536 elements. Units leave doubles, exact up to 2^53: that is 130 GB of 255.

from libc.stdint cimport uint8_t

cdef enum:
    BYTES_UNIT = 131072     # elements of a unit, about
    BYTES_CHUNK = 65536     # 65,536 * 255^2 < 2^32
    BYTES_ROWS = 256        # 256 * 255 < 2^16


cdef void sum_bytes(const uint8_t* x, Py_ssize_t n, double* s1, double* s2) noexcept nogil:
    # One run; added to s1 and s2.
    cdef Py_ssize_t i = 0, j, stop
    cdef uint32_t a, b
    while i < n:
        stop = least(n, i + BYTES_CHUNK)
        a = 0
        b = 0
        for j in range(i, stop):
            a += x[j]
            b += <uint32_t> x[j] * x[j]
        s1[0] += a
        s2[0] += b
        i = stop


cdef void sum_byte_columns(
    const uint8_t* x, Py_ssize_t step, Py_ssize_t rows, int width,              # IN  (rows, width), width <= SLAB
    double* s1, double* s2,                                                     # OUT (width,), added to
) noexcept nogil:
    cdef uint16_t a[SLAB]
    cdef uint32_t b[SLAB]
    cdef Py_ssize_t i = 0, k, stop
    cdef int w
    while i < rows:
        stop = least(rows, i + BYTES_ROWS)
        for w in range(width):
            a[w] = 0
            b[w] = 0
        for k in range(i, stop):
            for w in range(width):
                a[w] += x[k * step + w]
                b[w] += <uint16_t> (<uint16_t> x[k * step + w] * <uint16_t> x[k * step + w])
        for w in range(width):
            s1[w] += a[w]
            s2[w] += b[w]
        i = stop


cdef void bytes_planes(Job* job, Py_ssize_t unit) noexcept nogil:
    cdef Py_ssize_t c = unit // job.spans
    cdef Py_ssize_t n = (unit % job.spans) * job.span_images
    cdef Py_ssize_t stop = least(job.n, n + job.span_images)
    job.part1[unit] = 0
    job.part2[unit] = 0
    while n < stop:
        sum_bytes(<const uint8_t*> at(job, &job.x, n, c, 0), job.s, job.part1 + unit, job.part2 + unit)
        n += 1


cdef void bytes_rows(Job* job, Py_ssize_t unit) noexcept nogil:
    cdef Strip strip = strip_of(job, unit)
    cdef double s1[SLAB]
    cdef double s2[SLAB]
    cdef double* out1 = job.part1 + unit * job.c
    cdef double* out2 = job.part2 + unit * job.c
    cdef Py_ssize_t first = 0, width, w, c
    for c in range(job.c):
        out1[c] = 0
        out2[c] = 0
    while first < strip.width:
        width = least(SLAB, strip.width - first)
        for w in range(width):
            s1[w] = 0
            s2[w] = 0
        sum_byte_columns(<const uint8_t*> at(job, &job.x, strip.row, 0, first), job.x.step_n * strip.repeats,
                         strip.rows, <int> width, s1, s2)
        for w in range(width):
            c = (first + w) % job.c
            out1[c] += s1[w]
            out2[c] += s2[w]
        first += SLAB

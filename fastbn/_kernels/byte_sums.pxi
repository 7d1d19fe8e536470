# Statistics of uint8: the sums of x and of x^2 are integers, and exact, so that neither order nor lanes matter, and a
# second reading or a pivot is needed by nobody.
#
# a) `planes`: a unit is some planes of one channel, read as rows of BYTES_WIDTH. `rows`: a unit is some wide rows
#    (rows.pxi), all columns.
# b) Columns have sums of 16 bits, because that many more fit a vector: of x, and of the low and the high byte of x^2.
#    After BYTES_ROWS rows they go to double, which is exact up to 2^53: that is 130 GB of 255.

from libc.stdint cimport uint8_t

cdef enum:
    BYTES_UNIT = 131072     # elements of a unit, about
    BYTES_ROWS = 256        # 256 * 255 < 2^16
    BYTES_WIDTH = 256


cdef inline void add_byte_rows(
    const uint8_t* x, const uint8_t* x1, bint two, int width,                   # IN  (width,), of two rows or one
    uint16_t* a, uint16_t* low, uint16_t* high,                                 # OUT (width,), added to
) noexcept nogil:
    cdef uint16_t v, v1, q, q1
    cdef int w
    for w in range(width):
        v = x[w]
        q = <uint16_t> (v * v)
        if two:
            v1 = x1[w]
            q1 = <uint16_t> (v1 * v1)
            a[w] += <uint16_t> (v + v1)
            low[w] += <uint16_t> ((q & 255) + (q1 & 255))
            high[w] += <uint16_t> ((q >> 8) + (q1 >> 8))
        else:
            a[w] += v
            low[w] += q & 255
            high[w] += q >> 8


cdef void sum_byte_columns(
    const uint8_t* x, Py_ssize_t step, Py_ssize_t rows, int width,              # IN  (rows, width), width <= SLAB
    double* s1, double* s2,                                                     # OUT (width,), added to
) noexcept nogil:
    cdef uint16_t a[SLAB]
    cdef uint16_t low[SLAB]
    cdef uint16_t high[SLAB]
    cdef Py_ssize_t i = 0, k, stop
    cdef int w
    while i < rows:
        stop = least(rows, i + BYTES_ROWS)
        for w in range(width):
            a[w] = 0
            low[w] = 0
            high[w] = 0
        k = i
        while k + 2 <= stop:
            add_byte_rows(x + k * step, x + (k + 1) * step, True, width, a, low, high)
            k += 2
        if k < stop:
            add_byte_rows(x + k * step, x, False, width, a, low, high)
        for w in range(width):
            s1[w] += a[w]
            s2[w] += <double> low[w] + 256 * <double> high[w]
        i = stop


cdef void bytes_of_run(const uint8_t* x, Py_ssize_t n, double* s1, double* s2) noexcept nogil:
    # One contiguous run; added to s1 and s2.
    cdef double t1[BYTES_WIDTH]
    cdef double t2[BYTES_WIDTH]
    cdef Py_ssize_t rows = n // BYTES_WIDTH, j
    cdef uint32_t a = 0, b = 0
    if rows:
        for j in range(BYTES_WIDTH):
            t1[j] = 0
            t2[j] = 0
        sum_byte_columns(x, BYTES_WIDTH, rows, BYTES_WIDTH, t1, t2)
        for j in range(BYTES_WIDTH):
            s1[0] += t1[j]
            s2[0] += t2[j]
    for j in range(rows * BYTES_WIDTH, n):
        a += x[j]
        b += <uint32_t> x[j] * x[j]
    s1[0] += a
    s2[0] += b


cdef void bytes_planes(Job* job, Py_ssize_t unit) noexcept nogil:
    cdef Py_ssize_t c = unit // job.spans
    cdef Py_ssize_t n = (unit % job.spans) * job.span_images
    cdef Py_ssize_t stop = least(job.n, n + job.span_images)
    job.part1[unit] = 0
    job.part2[unit] = 0
    while n < stop:
        bytes_of_run(<const uint8_t*> at(job, &job.x, n, c, 0), job.s, job.part1 + unit, job.part2 + unit)
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

# Statistics of uint8: the sums of x and of x^2 are integers and exact. Order and lanes do not matter, and neither a
# pivot nor a second reading is needed.
#
# a) `planes`: a unit is some planes of one channel, read as rows of TILE. `rows`: a unit is some wide rows
#    (schedule/rows.pxi), all columns.
# b) Columns have sums of 16 bits, which fill vectors best: of x, of x^2 modulo 2^16, and of the high byte of x^2.
#    BYTES_ROWS times a low byte is less than 2^16, so the last two give the sum of the low bytes. After BYTES_ROWS rows
#    the sums go to double, which is exact up to 2^53, or 130 GB of 255.

cdef enum:
    BYTES_UNIT = 131072     # elements of a unit, approximately
    BYTES_ROWS = 256        # 256 * 255 < 2^16


cdef inline void add_byte_rows(
    const uint8_t* x, Py_ssize_t step, bint four, Py_ssize_t width,             # IN  (4 or 1, width)
    uint16_t* sums, uint16_t* squares, uint16_t* highs,                         # OUT (width,), added to
) noexcept nogil:
    cdef uint16_t v0, v1, v2, v3, q0, q1, q2, q3
    cdef Py_ssize_t w
    for w in range(width):
        v0 = x[w]
        q0 = <uint16_t> (v0 * v0)
        if four:
            v1 = x[step + w]
            v2 = x[2 * step + w]
            v3 = x[3 * step + w]
            q1 = <uint16_t> (v1 * v1)
            q2 = <uint16_t> (v2 * v2)
            q3 = <uint16_t> (v3 * v3)
            sums[w] += <uint16_t> ((v0 + v1) + (v2 + v3))
            squares[w] += <uint16_t> ((q0 + q1) + (q2 + q3))
            highs[w] += <uint16_t> (((q0 >> 8) + (q1 >> 8)) + ((q2 >> 8) + (q3 >> 8)))
        else:
            sums[w] += v0
            squares[w] += q0
            highs[w] += q0 >> 8


cdef inline void add_byte_block(
    const uint8_t* x, Py_ssize_t step, Py_ssize_t rows, Py_ssize_t width,       # IN  (rows, width), rows <= BYTES_ROWS
    Py_ssize_t ahead,                                                           # distance of the prefetch, in bytes
    uint16_t* sums, uint16_t* squares, uint16_t* highs,                         # OUT (width,)
) noexcept nogil:
    cdef Py_ssize_t k = 0, w
    for w in range(width):
        sums[w] = 0
        squares[w] = 0
        highs[w] = 0
    while k + 4 <= rows:
        w = 0
        while w + TILE <= width:
            prefetch(x + ahead + 4 * w, 4 * TILE)
            add_byte_rows(x + w, step, True, TILE, sums + w, squares + w, highs + w)
            w += TILE
        if w < width:
            add_byte_rows(x + w, step, True, width - w, sums + w, squares + w, highs + w)
        x += 4 * step
        k += 4
    while k < rows:
        add_byte_rows(x, step, False, width, sums, squares, highs)
        x += step
        k += 1


cdef inline uint32_t squares_of(uint16_t squares, uint16_t highs) noexcept nogil:
    # The sum of x^2 of a column of a block.
    return (<uint32_t> highs << 8) + <uint16_t> (squares - (highs << 8))


cdef void sum_byte_columns(
    const uint8_t* x, Py_ssize_t step, Py_ssize_t rows, Py_ssize_t width,       # IN  (rows, width), width <= SLAB
    double* s1, double* s2,                                                     # OUT (width,), added to
) noexcept nogil:
    cdef uint16_t sums[ROOM]
    cdef uint16_t squares[ROOM]
    cdef uint16_t highs[ROOM]
    cdef Py_ssize_t i = 0, w
    while i < rows:
        add_byte_block(x + i * step, step, least(rows - i, BYTES_ROWS), width, AHEAD_ROWS * step, sums, squares, highs)
        for w in range(width):
            s1[w] += sums[w]
            s2[w] += squares_of(squares[w], highs[w])
        i += BYTES_ROWS


cdef void bytes_of_run(const uint8_t* x, Py_ssize_t n, Py_ssize_t step, double* s1, double* s2) noexcept nogil:
    # Adds the sums of one contiguous run, read as rows of TILE. The next run begins `step` further. A block has at most
    # 2^14 elements, so a sum of squares fits 32 bits.
    cdef uint16_t sums[TILE]
    cdef uint16_t squares[TILE]
    cdef uint16_t highs[TILE]
    cdef Py_ssize_t i = 0, rows, ahead, j
    cdef uint32_t a = 0, b = 0
    while i < n:
        a = 0
        b = 0
        rows = least((n - i) // TILE, BYTES_ROWS)
        if rows:
            ahead = AHEAD
            if i + AHEAD + TILE <= n:
                rows = least(rows, (n - AHEAD - i) // TILE)
            else:
                ahead += step - n
            add_byte_block(x + i, TILE, rows, TILE, ahead, sums, squares, highs)
            for j in range(TILE):
                a += sums[j]
                b += squares_of(squares[j], highs[j])
            i += rows * TILE
        else:
            while i < n:
                a += x[i]
                b += <uint32_t> x[i] * x[i]
                i += 1
        s1[0] += a
        s2[0] += b


cdef void bytes_planes(Job* job, Py_ssize_t unit) noexcept nogil:
    cdef Py_ssize_t c = unit // job.cut.spans
    cdef Py_ssize_t n = (unit % job.cut.spans) * job.cut.span_images
    cdef Py_ssize_t stop = least(job.n, n + job.cut.span_images)
    job.partials.sum_x[unit] = 0
    job.partials.sum_xx[unit] = 0
    while n < stop:
        bytes_of_run(<const uint8_t*> at(job, &job.x, n, c, 0), job.s, job.x.step_n, job.partials.sum_x + unit,
                     job.partials.sum_xx + unit)
        n += 1


cdef void bytes_rows(Job* job, Py_ssize_t unit) noexcept nogil:
    cdef Strip strip = strip_of(job, unit)
    cdef double s1[ROOM_OF_SUMS]
    cdef double s2[ROOM_OF_SUMS]
    cdef double* out1 = job.partials.sum_x + unit * job.c
    cdef double* out2 = job.partials.sum_xx + unit * job.c
    cdef Py_ssize_t first = 0, width, w, c
    for c in range(job.c):
        out1[c] = 0
        out2[c] = 0
    while first < strip.width:
        width = least(SUMS, strip.width - first)
        for w in range(width):
            s1[w] = 0
            s2[w] = 0
        sum_byte_columns(<const uint8_t*> at(job, &job.x, strip.row, 0, first), job.x.step_n * strip.repeats,
                         strip.rows, width, s1, s2)
        for w in range(width):
            c = (first + w) % job.c
            out1[c] += s1[w]
            out2[c] += s2[w]
        first += SUMS

# uint8 images to floating-point numbers, by a table of 256 results per channel: y = table[c, x].
#
# a) The results of a table are rounded once, so they are exact for every formula and type.
# b) Axes other than the channel's are collapsed to lines of pixels if both arrays allow it; the remaining axes are
#    counted through. A unit is some pixels of a line.
# c) The entries of a table are copied as bits: one body serves both halves.
# d) Neighbouring results are collected and stored together, in 0.5 to 0.9 of the time of single stores.

ctypedef fused entry:
    uint16_t
    float
    double

cdef enum:
    LOOKUP_PIXELS = 8192    # of a unit
    LOOKUP_AXES = 3         # the line, and two axes that are counted through
    MOST_STORED = 4         # results that are stored at once

cdef struct Lookup:
    const uint8_t* x
    char* y
    const char* table       # (channels, 256)
    Py_ssize_t itemsize
    Py_ssize_t channels
    Py_ssize_t x_channel    # steps of x in bytes
    Py_ssize_t y_channel    # steps of y in elements
    Py_ssize_t[LOOKUP_AXES] length      # innermost first
    Py_ssize_t[LOOKUP_AXES] x_step
    Py_ssize_t[LOOKUP_AXES] y_step
    Py_ssize_t pieces       # units of a line


cdef struct Line:           # some pixels
    const uint8_t* x
    Py_ssize_t x_pixel      # step from pixel to pixel
    Py_ssize_t x_channel
    char* y
    Py_ssize_t y_pixel
    Py_ssize_t y_channel
    Py_ssize_t pixels
    Py_ssize_t channels


cdef inline void look_up_pixels(Line a, Py_ssize_t first, const entry* table) noexcept nogil:
    # The pixels from `first` on, one result at a time.
    cdef entry* y = <entry*> a.y
    cdef Py_ssize_t p, c
    for p in range(first, a.pixels):
        for c in range(a.channels):
            y[p * a.y_pixel + c * a.y_channel] = table[256 * c + a.x[p * a.x_pixel + c * a.x_channel]]


cdef inline void look_up_stores(Line a, bint by_pixel, const entry* table) noexcept nogil:
    # Blocks of `width` pixels, `width` results at a time: those of one channel, which are neighbours in y, or, if
    # `by_pixel`, those of all channels, pixel by pixel. Literals make every offset within a block a constant.
    cdef entry* y = <entry*> a.y
    cdef entry[MOST_STORED] store
    cdef Py_ssize_t width = MOST_STORED if sizeof(entry) < 8 else 2     # up to 16 bytes
    cdef Py_ssize_t blocks = a.pixels // width
    cdef Py_ssize_t block, j, k, c, p
    for block in range(blocks):
        for j in range(a.channels):
            for k in range(width):
                c = (j * width + k) % a.channels if by_pixel else j
                p = (j * width + k) // a.channels if by_pixel else k
                store[k] = table[256 * c + a.x[(block * width + p) * a.x_pixel + c * a.x_channel]]
            memcpy(y + (block * a.channels + j) * width if by_pixel else y + j * a.y_channel + block * width,
                   store, width * sizeof(entry))
    look_up_pixels(a, blocks * width, table)


cdef inline bint interleaved(Py_ssize_t pixel, Py_ssize_t channel, Py_ssize_t channels) noexcept nogil:
    return channel == 1 and pixel == channels


cdef inline void look_up_colours(Line a, Py_ssize_t channels, const entry* table) noexcept nogil:
    # RGB and RGBA, interleaved as cameras and decoders produce them, in x or y or both; `channels` is a literal.
    cdef Line literal = a
    a.channels = channels
    literal.channels = channels
    literal.x_pixel = channels
    literal.x_channel = 1
    if not interleaved(a.x_pixel, a.x_channel, channels):
        look_up_stores(a, True, table)
    elif a.y_pixel == 1:
        look_up_stores(literal, False, table)
    else:
        look_up_stores(literal, True, table)


cdef void look_up_line(Line a, const entry* table) noexcept nogil:
    cdef bint x_interleaved = interleaved(a.x_pixel, a.x_channel, a.channels)
    cdef bint colours = interleaved(a.y_pixel, a.y_channel, a.channels) or (x_interleaved and a.y_pixel == 1)
    cdef Line one = a
    cdef Py_ssize_t c
    if colours and a.channels == 3:
        look_up_colours(a, 3, table)
    elif colours and a.channels == 4:
        look_up_colours(a, 4, table)
    elif a.x_channel == 1 and a.y_channel == 1:
        one.x_channel = 1
        one.y_channel = 1
        look_up_pixels(one, 0, table)
    else:
        one.channels = 1
        one.x_channel = 0
        one.y_channel = 0
        for c in range(a.channels):
            one.x = a.x + c * a.x_channel
            one.y = <char*> (<entry*> a.y + c * a.y_channel)
            if a.y_pixel == 1:
                look_up_stores(one, False, table + 256 * c)
            else:
                look_up_pixels(one, 0, table + 256 * c)


cdef void lookup_lines(Job* job, Py_ssize_t unit) noexcept nogil:
    cdef const Lookup* a = job.lookup
    cdef Py_ssize_t line = unit // a.pieces
    cdef Py_ssize_t first = unit % a.pieces * LOOKUP_PIXELS
    cdef Py_ssize_t i = line % a.length[1]
    cdef Py_ssize_t k = line // a.length[1]
    cdef Line pixels
    pixels.x = a.x + first * a.x_step[0] + i * a.x_step[1] + k * a.x_step[2]
    pixels.x_pixel = a.x_step[0]
    pixels.x_channel = a.x_channel
    pixels.y = a.y + (first * a.y_step[0] + i * a.y_step[1] + k * a.y_step[2]) * a.itemsize
    pixels.y_pixel = a.y_step[0]
    pixels.y_channel = a.y_channel
    pixels.pixels = least(LOOKUP_PIXELS, a.length[0] - first)
    pixels.channels = a.channels
    if a.itemsize == 2:
        look_up_line(pixels, <const uint16_t*> a.table)
    elif a.itemsize == 4:
        look_up_line(pixels, <const float*> a.table)
    else:
        look_up_line(pixels, <const double*> a.table)

# uint8 images to floating-point numbers, with a table of 256 results a channel: y = table[c, x].
#
# a) A table is exact whatever the formula and the type, because whoever makes it takes the time to round once.
# b) Axes other than the channel's are collapsed where both arrays allow it, to lines of pixels; what remains is counted
#    through. A unit is some pixels of a line.
# c) The elements of a table are bits: one body for both halves.

from libc.stdint cimport uint8_t

ctypedef fused entry:
    uint16_t
    float
    double

cdef enum:
    LOOKUP_PIXELS = 8192    # of a unit
    LOOKUP_AXES = 3         # the line, and what is counted through

cdef struct Lookup:
    const uint8_t* x
    char* y
    const char* table       # (channels, 256)
    Py_ssize_t itemsize
    Py_ssize_t channels
    Py_ssize_t x_channel    # bytes
    Py_ssize_t y_channel    # elements, as all steps of y
    Py_ssize_t[LOOKUP_AXES] length      # innermost first
    Py_ssize_t[LOOKUP_AXES] x_step
    Py_ssize_t[LOOKUP_AXES] y_step
    Py_ssize_t pieces       # units of a line


cdef inline void look_up_pixels(
    const uint8_t* x, Py_ssize_t x_pixel, Py_ssize_t x_channel, entry* y, Py_ssize_t y_pixel, Py_ssize_t y_channel,
    Py_ssize_t pixels, Py_ssize_t channels, const entry* table,
) noexcept nogil:
    cdef Py_ssize_t p, c
    for p in range(pixels):
        for c in range(channels):
            y[p * y_pixel + c * y_channel] = table[256 * c + x[p * x_pixel + c * x_channel]]


cdef void look_up_line(
    const uint8_t* x, Py_ssize_t x_pixel, Py_ssize_t x_channel, entry* y, Py_ssize_t y_pixel, Py_ssize_t y_channel,
    Py_ssize_t pixels, Py_ssize_t channels, const entry* table,
) noexcept nogil:
    # Colours and colours with alpha, as cameras and decoders give them, have loops of their own.
    cdef Py_ssize_t c
    if channels == 3 and x_channel == 1 and x_pixel == 3 and y_pixel == 1:
        look_up_pixels(x, 3, 1, y, 1, y_channel, pixels, 3, table)
    elif channels == 3 and x_channel == 1 and x_pixel == 3 and y_channel == 1 and y_pixel == 3:
        look_up_pixels(x, 3, 1, y, 3, 1, pixels, 3, table)
    elif channels == 4 and x_channel == 1 and x_pixel == 4 and y_pixel == 1:
        look_up_pixels(x, 4, 1, y, 1, y_channel, pixels, 4, table)
    elif x_channel == 1 and y_channel == 1:
        look_up_pixels(x, x_pixel, 1, y, y_pixel, 1, pixels, channels, table)
    else:
        for c in range(channels):
            look_up_pixels(x + c * x_channel, x_pixel, 0, y + c * y_channel, y_pixel, 0, pixels, 1, table + 256 * c)


cdef void lookup_lines(Job* job, Py_ssize_t unit) noexcept nogil:
    cdef Lookup a = job.lookup[0]
    cdef Py_ssize_t line = unit // a.pieces
    cdef Py_ssize_t first = unit % a.pieces * LOOKUP_PIXELS
    cdef Py_ssize_t pixels = least(LOOKUP_PIXELS, a.length[0] - first)
    cdef Py_ssize_t i = line % a.length[1]
    cdef Py_ssize_t k = line // a.length[1]
    cdef const uint8_t* x = a.x + first * a.x_step[0] + i * a.x_step[1] + k * a.x_step[2]
    cdef char* y = a.y + (first * a.y_step[0] + i * a.y_step[1] + k * a.y_step[2]) * a.itemsize
    if a.itemsize == 2:
        look_up_line(x, a.x_step[0], a.x_channel, <uint16_t*> y, a.y_step[0], a.y_channel, pixels, a.channels,
                     <const uint16_t*> a.table)
    elif a.itemsize == 4:
        look_up_line(x, a.x_step[0], a.x_channel, <float*> y, a.y_step[0], a.y_channel, pixels, a.channels,
                     <const float*> a.table)
    else:
        look_up_line(x, a.x_step[0], a.x_channel, <double*> y, a.y_step[0], a.y_channel, pixels, a.channels,
                     <const double*> a.table)

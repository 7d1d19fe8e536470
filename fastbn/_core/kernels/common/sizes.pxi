# Constants that the kernels and views.pyx share.

cdef enum:
    TILE = 64           # elements of a long step, and the multiple that narrow rows are filled to
    SLAB = 1024         # most columns that are reduced side by side

cdef enum:              # element types of arrays
    FLOAT32 = 0
    FLOAT64 = 1
    FLOAT16 = 2
    BFLOAT16 = 3
    UINT8 = 4           # for statistics only

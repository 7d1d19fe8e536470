# What the kernels and views.pyx must agree on.

cdef enum:
    TILE = 64           # elements of a long step, and what rows are filled to: 4 zmm, 8 ymm or 16 xmm of float
    SLAB = 1024         # most columns that are reduced side by side

cdef enum:              # element types of arrays
    FLOAT32 = 0
    FLOAT64 = 1
    FLOAT16 = 2
    BFLOAT16 = 3
    UINT8 = 4           # of statistics alone

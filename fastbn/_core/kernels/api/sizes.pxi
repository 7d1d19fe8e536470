# The sizes at which the kernels change their method. tests/cases.py makes shapes below, at and above each of them.


def sizes():
    """Return the sizes of the kernels by name."""
    return {
        "lanes": LANES,                     # of a running sum over a run
        "step": STEP,                       # columns of a short step
        "tile": TILE,                       # columns of a long step, and a multiple of the columns of a wide row
        "slab": SLAB,                       # most columns that are reduced side by side:
        "sums": SUMS,                       # with sums in double,
        "doubles": DOUBLES,                 # and of double
        "narrow": MOST_NARROW,              # most channels of a wide row
        "few": FEW,                         # most values per channel that are summed in double from the start
        "flush_planes": FLUSH_PLANES,       # steps over a run after which its lanes go to double
        "flush_rows": FLUSH_ROWS,           # rows after which columns go to double,
        "flush_exact": FLUSH_EXACT,         # and columns of double to two words
        "pivot": PIVOT_PIECES * PIVOT_SHARE,   # elements of a span from which its pivot takes all samples
        "pivot_rows": PIVOT_ROWS,           # most rows that a pivot is the mean of
        "abreast": ABREAST,                 # channels of planes that are read image by image
        "span": SPAN,                       # elements of a unit of planes
        "unit_elements": UNIT_ELEMENTS,     # of a unit of rows:
        "least_rows": LEAST_ROWS,           # at least so many rows,
        "most_rows": MOST_ROWS,             # and at most
        "long_row": LONG_ROW,               # bytes of a row above which four rows share their coefficients
        "most_sums": MOST_SUMS,             # sums of the sample groups that run at once, of dgamma and of dbeta each
        "stage": STAGE,                     # elements of float16 or bfloat16 that are converted at a time
        "bytes_unit": BYTES_UNIT,           # elements of a unit of bytes
        "bytes_rows": BYTES_ROWS,           # rows of bytes after which sums of 16 bits go to double
        "lookup_pixels": LOOKUP_PIXELS,     # of a unit of a table look-up
    }

# The sizes at which the kernels change their way, for tests/cases.py: its shapes lie below, at and above each.


def constants():
    """Return the sizes of the kernels by name."""
    return {
        "lanes": LANES,                     # of a running sum over a run
        "half": HALF,                       # columns of a short step
        "tile": TILE,                       # columns of a long step, to which narrow rows are filled
        "slab": SLAB,                       # most columns that are reduced side by side,
        "sums": SUMS,                       # of them with sums in double,
        "doubles": DOUBLES,                 # and of doubles
        "narrow": MOST_NARROW,              # most channels of which a slab holds two rows
        "few": FEW,                         # values per channel that are summed in double
        "flush_planes": FLUSH,              # steps of 4 * LANES elements after which lanes go to double
        "flush_rows": FLUSH_ROWS,           # rows after which columns go to double,
        "flush_exact": FLUSH_EXACT,         # and those of doubles to two words
        "samples": SAMPLES * SAMPLE_OF,     # elements of a span from which on its pivot takes all samples
        "pivot_rows": PIVOT_ROWS,           # the same of rows
        "batch": BATCH,                     # channels of planes that are reduced side by side
        "span": SPAN,                       # elements of a unit of planes
        "unit_elements": UNIT_ELEMENTS,     # of a unit of rows,
        "least_rows": LEAST_ROWS,           # which has so many rows at least
        "most_rows": MOST_ROWS,             # and at most
        "wide": WIDE,                       # bytes of a row above which four rows share their coefficients
        "stage": STAGE,                     # elements of float16 or bfloat16 that are converted at a time
        "bytes_unit": BYTES_UNIT,           # elements of a unit of bytes
        "bytes_rows": BYTES_ROWS,           # rows of bytes after which sums of 16 bits go to double
        "lookup_pixels": LOOKUP_PIXELS,     # pixels of a unit of a table look-up
    }

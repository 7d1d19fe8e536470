cimport numpy as cnp


cpdef cnp.ndarray empty(tuple shape, cnp.dtype kind)

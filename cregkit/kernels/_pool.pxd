# Recycled memory for large outputs.
cimport numpy as cnp


# A fresh array, its memory from the pool where that pays. Elements are not set.
cdef cnp.ndarray pooled_array(int ndim, cnp.npy_intp *shape, int dtype)

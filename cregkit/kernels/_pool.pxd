# Recycled memory for large outputs.
cimport numpy as cnp


# A new, uninitialised array. Large arrays take their memory from the pool.
cdef cnp.ndarray pooled_array(int ndim, cnp.npy_intp *shape, int dtype)

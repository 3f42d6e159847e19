"""The compiled kernels: checks, output allocation and the parallel loop around the C code of csrc/."""

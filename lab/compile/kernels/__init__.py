"""Kernels written by hand as TensorIR, where an algorithm is more than loops over independent outputs."""

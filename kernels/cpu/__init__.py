"""The compiled CPU form of each kernel (numba)."""

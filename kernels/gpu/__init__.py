"""The CUDA form of each kernel (Triton)."""

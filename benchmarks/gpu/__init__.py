"""Every GPU kernel checked and measured in one run, on a machine that has little but PyTorch and Triton: see `__main__`."""

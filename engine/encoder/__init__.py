"""Model and SAEs: a batch of windows → SparseBatch."""

"""Pure functions from counts to similarity."""

"""Pure functions from counts to similarity."""

from engine.measures.pair_counts import MEASURES, PairCounts, estimates, reason
from engine.measures.ranking import overlap, rbo

__all__ = ["MEASURES", "PairCounts", "estimates", "overlap", "rbo", "reason"]

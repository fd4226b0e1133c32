"""How much two ranked lists agree."""

from __future__ import annotations

from collections.abc import Hashable, Sequence


def rbo(list_a: Sequence[Hashable], list_b: Sequence[Hashable], p: float = 0.9) -> float:
    """Rank-biased overlap, extrapolated (Webber, Moffat, Zobel 2010, "A similarity measure for indefinite rankings", eq. 32 for
    lists of different lengths, which for equal ones is eq. 30):

        RBO_ext = (X_k / k) p^k + ((1 − p)/p) Σ_{d=1..k} (X_d / d) p^d

    with X_d the number of items that the two first d have in common. p = 0.9: the first ten carry 86 % of the weight.

    Returns:
        A number in [0, 1]: 1 for equal lists (two empty ones are equal), 0 for lists with nothing in common.

    Raises:
        ValueError: p not in (0, 1), or an item that a list holds twice.
    """
    if not 0.0 < p < 1.0:
        raise ValueError(f"p must be between 0 and 1, both not included, got {p}")
    short, long = sorted((list_a, list_b), key=len)
    s, k = len(short), len(long)
    for ranked in (short, long):
        if len(set(ranked)) != len(ranked):
            raise ValueError(f"a ranked list must hold each item once, got {list(ranked)}")
    if not short:
        return 1.0 if not long else 0.0
    shared, overlaps = 0, [0]
    seen: set[Hashable] = set()
    for depth in range(k):
        for item in {long[depth], *short[depth : depth + 1]}:
            shared += item in seen
            seen.add(item)
        if depth < s and short[depth] == long[depth]:
            shared += 1
        overlaps.append(shared)
    x_s, x_k = overlaps[s], overlaps[k]
    total = sum(overlaps[d] / d * p**d for d in range(1, k + 1))
    total += sum(x_s * (d - s) / (s * d) * p**d for d in range(s + 1, k + 1))
    value = (1 - p) / p * total + ((x_k - x_s) / k + x_s / s) * p**k
    return min(1.0, max(0.0, value))


def overlap(list_a: Sequence[Hashable], list_b: Sequence[Hashable]) -> float:
    """Shared items over the length of the longer list, whatever the order; 1 for two empty lists."""
    longer = max(len(list_a), len(list_b))
    return len(set(list_a) & set(list_b)) / longer if longer else 1.0

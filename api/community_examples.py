"""Examples of the interface document: answers about communities."""

from __future__ import annotations

from typing import Any

from api.examples import SNAPSHOT

_COMMUNITY: dict[str, Any] = {
    "id": "c17",
    "size": 11,
    "span": {"first": 1, "last": 6},
    "layers": {"1": 1, "2": 2, "3": 2, "4": 2, "5": 2, "6": 2},
    "density": 0.6111,
    "internal_weight": 2.6693,
    "stability": {"a": 1.0, "b": 0.9091, "mean": 0.9545},
    "top": ["3:895", "2:170", "3:170", "5:895", "4:170"],
    "since_tokens": 92_681,
}

ANSWERS: dict[tuple[str, str], dict[str, Any]] = {
    ("get", "/v1/communities"): {
        "measure": "jaccard",
        "min_value": 0.1,
        "rank": "lower",
        "min_support": 10,
        "objective": "modularity",
        "resolution": 1.0,
        "nodes": 6_207,
        "edges": 27_373,
        "communities": 375,
        "quality": 0.8432,
        "agreement": {"adjusted_mutual_information": 0.8381, "features": 5_913, "reason": None},
        "lists": {"published_k": 20, "min_support": 10, "undecided": 507},
        "reason": None,
        "total": 101,
        "items": [_COMMUNITY],
        "next": "5e0c6a8d1f3b7a9c2d4e6f80-1",
        "snapshot": SNAPSHOT,
    },
    ("get", "/v1/communities/{community}"): {
        **_COMMUNITY,
        "features": [
            {"feature": "3:895", "layer": 3, "index": 895, "density": 0.00104, "internal_weight": 0.6476},
            {"feature": "2:170", "layer": 2, "index": 170, "density": 0.00121, "internal_weight": 0.6211},
        ],
        "edges": [
            {"up": "3:170", "down": "4:170", "value": 0.4912, "lower": 0.3945},
            {"up": "1:170", "down": "2:170", "value": 0.4811, "lower": 0.3529},
        ],
        "dropped": {"features": 0, "edges": 0},
        "snapshot": SNAPSHOT,
    },
    ("get", "/v1/communities/of"): {
        "features": {"3:895": "c17", "3:17": None},
        "community": _COMMUNITY,
        "reason": None,
        "snapshot": SNAPSHOT,
    },
}

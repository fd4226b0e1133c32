"""Examples of the interface document about relations, and of the pairs they are made of: as `api.examples`."""

from __future__ import annotations

from typing import Any

from api.examples import LINK, SNAPSHOT, VALUES

_LISTS = {"published_k": 20, "min_support": 10, "undecided": 0}


def _flow_group(count: int, live: int, of_all: int) -> dict[str, Any]:
    return {
        "live": {"count": count, "share": round(count / live, 4)},
        "all": {"count": of_all, "share": round(of_all / 1_024, 4)},
    }


_FLOW_HIDDEN = {
    "all": {"features": 604, "error_share": 0.239, "stream_share": 4.34, "random": 0.054, "decoder": 0.096},
    "disappeared": {"features": 118, "error_share": 0.301, "stream_share": 3.02, "random": 0.061, "decoder": 0.104},
    "hidden": {"count": 21, "share": 0.178},
    "reason": None,
}


ANSWERS: dict[tuple[str, str], Any] = {
    ("get", "/v1/flow"): {
        "measure": "pearson",
        "threshold": 0.4,
        "min_support": 10,
        "hidden_share": 0.5,
        "hidden_factor": 2.0,
        "hidden_windows": 10,
        "lists": _LISTS,
        "pairs": [
            {
                "up": {"layer": 3, "features": 1_024, "live": 1_013, "dead": 11, "rare": 4, "undecided": 0},
                "down": {"layer": 4, "features": 1_024, "live": 1_017, "dead": 7, "rare": 2, "undecided": 0},
                "passed": _flow_group(812, 1_013, 812),
                "disappeared": _flow_group(201, 1_013, 212),
                "passed_into": _flow_group(799, 1_017, 799),
                "appeared": _flow_group(218, 1_017, 225),
                "hidden": _FLOW_HIDDEN,
            }
        ],
        "kind": "passed",
        "items": [{"feature": "3:17", "count": 1_973, "best": LINK, "error_share": 0.213}],
        "total": 812,
        "next": "5e0c6a8d1f3b7a9c2d4e6f80-1",
        "snapshot": SNAPSHOT,
    },
    ("get", "/v1/lineages"): {
        "measure": "pearson",
        "threshold": 0.4,
        "min_support": 10,
        "lists": _LISTS,
        "path": [[3, 4]],
        "lengths": [{"length": 1, "count": 518}, {"length": 2, "count": 756}],
        "spans": [
            {"birth": 3, "death": 3, "count": 257},
            {"birth": 3, "death": 4, "count": 756},
            {"birth": 4, "death": 4, "count": 261},
        ],
        "total": 756,
        "items": [
            {
                "birth": 3,
                "death": 4,
                "length": 2,
                "features": [
                    {
                        "feature": "3:17",
                        "count": 1_973,
                        "sum": 4_660.0,
                        "sum_of_squares": 13_980.0,
                        "share_of_sum": 0.466,
                        "share_of_squares": 0.4,
                    },
                    {
                        "feature": "4:99",
                        "count": 1_900,
                        "sum": 5_340.0,
                        "sum_of_squares": 20_970.0,
                        "share_of_sum": 0.534,
                        "share_of_squares": 0.6,
                    },
                ],
                "links": [LINK],
                "weakest": {"up": "3:17", "down": "4:99", "estimate": 0.9707},
            }
        ],
        "next": "5e0c6a8d1f3b7a9c2d4e6f80-1",
        "snapshot": SNAPSHOT,
    },
    ("get", "/v1/specializations"): {
        "measure": "necessity",
        "threshold": 0.8,
        "coverage": 0.8,
        "max_overlap": 0.1,
        "min_share": 0.05,
        "min_support": 10,
        "lists": _LISTS,
        "total": 23,
        "shown": 4,
        "items": [
            {
                "parent": "3:40",
                "count": 4_000,
                "layer": 3,
                "children_layer": 4,
                "children": [
                    {
                        "feature": "4:12",
                        "counts": {"up": 4_000, "down": 2_300, "joint": 2_200, "count_error": 0},
                        "necessity": 0.9565,
                        "share": 0.55,
                    },
                    {
                        "feature": "4:731",
                        "counts": {"up": 4_000, "down": 1_480, "joint": 1_400, "count_error": 0},
                        "necessity": 0.9459,
                        "share": 0.35,
                    },
                ],
                "conditions": {
                    "children": 2,
                    "necessity": 0.9459,
                    "shared": {"lower": 0.0245, "upper": 0.0245},
                    "exclusive": "exact",
                    "overlap": {"lower": 0.0086, "upper": 0.0086},
                    "coverage": {"lower": 0.8929, "upper": 0.8929},
                    "counted": {
                        "counted_from": 51_204,
                        "tokens": 361_299,
                        "parent": 2_800,
                        "children": [
                            {"feature": "4:12", "count": 1_610, "joint": 1_545},
                            {"feature": "4:731", "count": 1_031, "joint": 979},
                        ],
                        "pairs": [{"a": "4:12", "b": "4:731", "joint": 25, "within": 24}],
                        "union": 2_616,
                        "union_within": 2_500,
                    },
                },
            }
        ],
        "next": "5e0c6a8d1f3b7a9c2d4e6f80-1",
        "snapshot": SNAPSHOT,
    },
    ("get", "/v1/matching"): {
        "pair": [3, 4],
        "measure": "pearson",
        "threshold": 0.4,
        "min_support": 10,
        "published_k": 20,
        "published_min_support": 10,
        "by_measure": {"matched": 790, "total": 561.3, "candidates": 1_412},
        "data_free": {"matched": 1_024, "total": 803.4, "candidates": 1_048_576, "vectors": "folded"},
        "data_free_reason": None,
        "agreement": {"both": 790, "same": 421, "share": 0.5329},
        "total": 790,
        "items": [{**LINK, "data_free": "4:99"}],
        "next": "5e0c6a8d1f3b7a9c2d4e6f80-1",
        "snapshot": SNAPSHOT,
    },
    ("get", "/v1/histograms"): {
        "measures": list(VALUES),
        "min_support": 10,
        "lists": _LISTS,
        "total": 9,
        "items": [
            {
                "measure": "jaccard",
                "pair": [3, 4],
                "bins": [0.0, 0.25, 0.5, 0.75, 1.0],
                "up": {"layer": 3, "live": 1_013, "counts": [188, 402, 311, 108], "without": 4, "median": 0.42, "undecided": 0},
                "down": {"layer": 4, "live": 1_017, "counts": [201, 396, 310, 108], "without": 2, "median": 0.41, "undecided": 0},
            }
        ],
        "next": "5e0c6a8d1f3b7a9c2d4e6f80-1",
        "snapshot": SNAPSHOT,
    },
    ("get", "/v1/edges"): {
        "measure": "pearson",
        "pair": [3, 4],
        "watched": 10_412,
        "total": 3_852,
        "items": [
            {
                **LINK,
                "lower": 0.9611,
                "upper": 0.9784,
                "interval_estimate": 0.9702,
                "counted_from": 65_536,
                "status": "ok",
                "method": "anytime",
                "documents": 1_210,
                "effective_documents": 402.5,
            }
        ],
        "next": "5e0c6a8d1f3b7a9c2d4e6f80-1",
        "snapshot": SNAPSHOT,
    },
}

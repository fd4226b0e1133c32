"""Examples of the interface document: answers of the embedded demo, and the parameters that lead to them."""

from __future__ import annotations

from typing import Any

SNAPSHOT = {"version": "1764042000000-42", "tokens": 412_503, "age_ms": 310}
_UPLOAD = {
    "id": "01KB1Z5N3W8Q2M4T6V8X0Z2B4D",
    "corpus": "python-docs",
    "state": "counting",
    "media_type": "application/x-ndjson",
    "bytes": 1_048_211,
    "documents": 5_120,
    "documents_counted": 2_310,
    "tokens_received": 131_072,
    "tokens_counted": 118_904,
    "set_aside": {"documents": 0, "tokens": 0, "reasons": []},
    "received_at": 1764042001.25,
    "error": None,
}
_CORPUS = {
    "name": "python-docs",
    "state": "counting",
    "uploads": 1,
    **{
        name: _UPLOAD[name]
        for name in ("bytes", "documents", "documents_counted", "tokens_received", "tokens_counted", "set_aside")
    },
}

PARAMETERS: dict[str, Any] = {
    "name": "my-corpus",
    "layer": 3,
    "index": 17,
    "up": "3:17",
    "down": "4:99",
    "with": "4:99",
    "k": 3,
    "a": "python-docs",
    "b": "tutorial",
    "corpus": "python-docs",
    "pair": "3-4",
    "feature": "3:17",
}

BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("post", "/v1/corpora"): {
        "text/plain": "Join two or more pathname components.",
        "application/x-ndjson": '{"text": "Join two or more path names.", "id": "os.path.join"}\n{"tokens": [314, 159]}\n',
        "application/vnd.apache.parquet": None,
    },
    ("post", "/v1/activations"): {"application/x-msgpack": None},
    ("post", "/v1/watch"): {"application/json": {"pairs": [{"up": "3:17", "down": "4:99"}]}},
}

PROBLEM = {
    "type": "urn:saestream:problem:not-found",
    "title": "Not found",
    "status": 404,
    "detail": "there is no feature 3:9999: layer 3 (blocks.3.hook_resid_pre) has features 0 to 1023",
    "instance": "/v1/features/3/9999",
}


def _estimates(**values: float) -> dict[str, Any]:
    unwatched = {"interval_estimate": None, "counted_from": None, "documents": None, "effective_documents": None, "reason": None}
    found: dict[str, Any] = {}
    for measure, value in values.items():
        found[measure] = {"estimate": value, "lower": None, "upper": None, "status": "insufficient", "method": None, **unwatched}
        if measure in ("jaccard", "sufficiency", "necessity", "pearson"):
            bounds = {"lower": round(value - 0.043, 4), "upper": min(1.0, round(value + 0.039, 4))}
            found[measure] |= {**bounds, "status": "heuristic", "method": "tempered"}
    return found


_VALUES = {
    "jaccard": 0.8514,
    "sufficiency": 0.9027,
    "necessity": 0.9374,
    "phi": 0.9193,
    "lift": 203.2,
    "mutual_information": 0.0249,
    "pearson": 0.9707,
    "activation_cosine": 0.9712,
    "decoder_cosine": 0.8829,
}
_COUNTS = {"up": 1_973, "down": 1_900, "joint": 1_781}
_LINK = {"up": "3:17", "down": "4:99", "counts": _COUNTS, "estimate": 0.9707, "measures": _VALUES}
_LISTS = {"published_k": 20, "min_support": 10, "undecided": 0}


def _flow_group(count: int, live: int, of_all: int) -> dict[str, Any]:
    return {
        "live": {"count": count, "share": round(count / live, 4)},
        "all": {"count": of_all, "share": round(of_all / 1_024, 4)},
    }


_HIDDEN = {
    "layer": 4,
    "tokens": 131,
    "windows": 112,
    "written": 3.41,
    "error_share": 0.213,
    "lower": 0.121,
    "upper": 0.334,
    "status": "ok",
    "stream_share": 1.32,
    "feature_share": 1.107,
    "baseline": {"random": 0.048, "decoder": 0.083},
    "spread": 0.62,
    "reason": None,
}
_FLOW_HIDDEN = {
    "all": {"features": 604, "error_share": 0.239, "stream_share": 4.34, "random": 0.054, "decoder": 0.096},
    "disappeared": {"features": 118, "error_share": 0.301, "stream_share": 3.02, "random": 0.061, "decoder": 0.104},
    "hidden": {"count": 21, "share": 0.178},
    "reason": None,
}

_CONTEXT = {
    "feature": "3:17",
    "activation": 6.21,
    "position": 3,
    "log_position": 51_277,
    "upload": _UPLOAD["id"],
    "corpus": "python-docs",
    "document": {"number": 412, "name": "os.path.join"},
    "tokens": ["Join", " two", " or", " more", " path", "name", " components"],
    "values": {"3:17": [0.0, 0.0, 1.4, 6.21, 0.0, 0.0, 0.0]},
}

_LIVE = {"version": "live-415104", "tokens": 415_104, "age_ms": 0}


def _ratio(estimate: float, lower: float, upper: float, count: int, of: int, tokens: int, documents: int) -> dict[str, Any]:
    return {
        "estimate": estimate,
        "lower": lower,
        "upper": upper,
        "status": "ok",
        "count": count,
        "of": of,
        "tokens": tokens,
        "documents": documents,
        "effective_documents": round(documents * 0.61, 1),
        "reason": None,
    }


_COMPARED = {
    "a": {"name": "python-docs", "tokens": 212_408, "documents": 2_310},
    "b": {"name": "tutorial", "tokens": 183_110, "documents": 940},
}

_GATE = {
    "child": "4:99",
    "kind": "and_not",
    "parents": [{"feature": "3:17", "negated": False}, {"feature": "3:402", "negated": True}],
    "k": None,
    "precision": 0.9412,
    "recall": 0.8963,
    "f1": 0.9182,
    "mcc": 0.9171,
    "quasi": 0.1037,
    "gain": {
        "estimate": 0.1307,
        "lower": 0.0712,
        "upper": 0.1883,
        "status": "ok",
        "documents": 712,
        "effective_documents": 388.4,
        "reason": None,
    },
    "best_parent": {"feature": "3:17", "f1": 0.7875},
    "support": {"tokens": 1_728, "documents": 143},
    "halves": [
        {"half": "A", "precision": 0.9378, "recall": 0.9011, "f1": 0.9191, "both": 875, "gate": 933, "child": 971},
        {"half": "B", "precision": 0.9447, "recall": 0.8914, "f1": 0.9173, "both": 853, "gate": 903, "child": 957},
    ],
    "evidence": {
        "log_e": 31.7,
        "joint_log_e": 31.7,
        "needed": 10.2,
        "joint_needed": 12.6,
        "tests": [
            {"test": "parent", "feature": "3:17", "log_e": 212.4},
            {"test": "parent", "feature": "3:402", "log_e": 31.7},
            {"test": "common_cause", "feature": None, "log_e": 44.9},
        ],
    },
    "verdict": "gate",
    "reason": None,
    "counted_from": 92_681,
    "tokens": 319_822,
    "cells": [
        {"active": [], "child": False, "holds": False, "tokens": 316_450},
        {"active": [], "child": True, "holds": False, "tokens": 142},
        {"active": ["3:17"], "child": False, "holds": True, "tokens": 108},
        {"active": ["3:17"], "child": True, "holds": True, "tokens": 1_728},
        {"active": ["3:402"], "child": False, "holds": False, "tokens": 754},
        {"active": ["3:402"], "child": True, "holds": False, "tokens": 11},
        {"active": ["3:17", "3:402"], "child": False, "holds": False, "tokens": 582},
        {"active": ["3:17", "3:402"], "child": True, "holds": False, "tokens": 47},
    ],
}

ANSWERS: dict[tuple[str, str], Any] = {
    ("get", "/v1/features/{layer}/{index}/gates"): {
        "feature": "4:99",
        "count": 2_610,
        "items": [_GATE],
        "candidates": [{"layer": 3, "features": ["3:17", "3:402", "3:733"], "counted_from": 77_936, "nominated": 3}],
        "waiting": None,
        "snapshot": SNAPSHOT,
    },
    ("get", "/v1/gates"): {
        "sort": "f1",
        "alpha": 0.05,
        "hypotheses": 16_384,
        "counts": [
            {"pair": [3, 4], "kind": "and", "gate": 3, "joint": 11, "none": 402},
            {"pair": [3, 4], "kind": "or", "gate": 7, "joint": 2, "none": 615},
            {"pair": [3, 4], "kind": "and_not", "gate": 1, "joint": 4, "none": 233},
            {"pair": [3, 4], "kind": "k_of_n", "gate": 0, "joint": 1, "none": 98},
        ],
        "total": 29,
        "items": [_GATE],
        "next": "5e0c6a8d1f3b7a9c2d4e6f80-1",
        "snapshot": SNAPSHOT,
    },
    ("get", "/v1/gates/contexts"): {
        "child": "4:99",
        "kind": "and_not",
        "parents": _GATE["parents"],
        "windows": 21,
        "groups": [
            {"group": "all", "tokens": 6, "child": 0},
            {"group": "some", "tokens": 84, "child": 41},
            {"group": "none", "tokens": 3, "child": 3},
        ],
        "contexts": [
            {
                "feature": "4:99",
                "activation": 4.87,
                "position": 2,
                "log_position": 51_277,
                "upload": _UPLOAD["id"],
                "corpus": "python-docs",
                "document": {"number": 812, "name": "os.path.join"},
                "tokens": ["Join", " two", " or", " more"],
                "values": {"4:99": [0.0, 0.0, 4.87, 0.0], "3:17": [0.0, 0.31, 6.21, 0.0], "3:402": [0.0, 0.0, 0.0, 0.0]},
                "group": "some",
                "active": ["3:17"],
                "child_active": True,
                "holds": True,
            }
        ],
        "missing": [],
        "reason": None,
        "snapshot": {"version": "live-412503", "tokens": 412_503, "age_ms": 0},
    },
    ("get", "/v1/gates/paper"): {
        "rule": "paper_rule",
        "threshold": 0.999,
        "pair": [3, 4],
        "ands": 21,
        "ors": 9,
        "live": 1_017,
        "total": 30,
        "items": [
            {
                "child": "4:12",
                "kind": "and",
                "count": 5,
                "parents": [
                    {"feature": "3:8", "count": 9_120, "joint": 5, "estimate": 1.0},
                    {"feature": "3:310", "count": 841, "joint": 5, "estimate": 1.0},
                ],
            }
        ],
        "next": "1",
        "snapshot": {"version": "live-412503", "tokens": 412_503, "age_ms": 0},
    },
    ("get", "/v1/status"): {
        "state": "counting",
        "model": "demo",
        "saes": "demo",
        "layers": [
            {"layer": 3, "hook": "blocks.3.hook_resid_pre", "features": 1_024, "dead": 11},
            {"layer": 4, "hook": "blocks.4.hook_resid_pre", "features": 1_024, "dead": 7},
        ],
        "pairs": [[3, 4]],
        "threshold": {"kind": "relative", "value": 0.2},
        "calibration": {"tokens": 131_072, "calibration_tokens": 131_072, "done": True, "never_fired": [23, 18]},
        "tokens": 415_104,
        "tokens_per_second": 9_214.0,
        "queue_tokens": 180_000,
        "snapshot": SNAPSHOT,
        "lag_tokens": 2_601,
        "checkpoint": {"tokens": 393_216, "saved_at": 1764042030.5, "seconds": 0.31},
        "memory_bytes": 1_310_720_000,
        "publish_interval": 1.0,
        "published_k": 20,
        "min_support": 10,
        "problem": None,
    },
    ("post", "/v1/corpora"): {**_UPLOAD, "state": "queued", "documents_counted": 0, "tokens_received": None, "tokens_counted": 0},
    ("get", "/v1/corpora"): {"items": [_CORPUS], "next": None},
    ("get", "/v1/corpora/{corpus}"): {**_CORPUS, "items": [_UPLOAD], "next": None},
    ("get", "/v1/uploads/{upload}"): _UPLOAD,
    ("post", "/v1/activations"): {
        **_UPLOAD,
        "media_type": "application/x-msgpack",
        "state": "queued",
        "documents_counted": 0,
        "tokens_received": None,
        "tokens_counted": 0,
    },
    ("get", "/v1/features/{layer}/{index}"): {
        "feature": "3:17",
        "layer": 3,
        "index": 17,
        "hook": "blocks.3.hook_resid_pre",
        "neuronpedia": None,
        "tokens": 412_503,
        "threshold": 1.242,
        "count": 1_973,
        "density": 0.00478,
        "max": 6.21,
        "mean": 0.0113,
        "mean_active": None,
        "histogram": {"edges": [0.015625, 0.01953125, 0.0234375], "counts": [0, 12, 40, 1_921]},
        "pairs": [[2, 3], [3, 4]],
        "contexts": [{"activation": 6.21, "log_position": 51_277}, {"activation": 5.84, "log_position": 203_118}],
        "strongest": _CONTEXT,
        "strongest_reason": None,
        "hidden": [_HIDDEN],
        "snapshot": SNAPSHOT,
    },
    ("get", "/v1/features/{layer}/{index}/contexts"): {
        "contexts": [_CONTEXT],
        "missing": [],
        "snapshot": {"version": "live-415104", "tokens": 415_104, "age_ms": 0},
    },
    ("get", "/v1/features/{layer}/{index}/neighbors"): {
        "feature": "3:17",
        "direction": "downstream",
        "measure": "jaccard",
        "rank": "lower",
        "k": 3,
        "min_support": 10,
        "tokens": 412_503,
        "count": 1_973,
        "neighbors": [
            {
                "feature": "4:99",
                "counts": _COUNTS,
                "estimate": 0.8514,
                "lower": 0.8127,
                "upper": 0.8822,
                "interval_estimate": 0.8496,
                "counted_from": 65_536,
                "status": "ok",
                "method": "anytime",
                "measures": _VALUES,
            }
        ],
        "status": "certified",
        "certified_k": 1,
        "certified_reason": None,
        "split_half_rbo": 0.98,
        "snapshot": SNAPSHOT,
    },
    ("get", "/v1/similarity"): {
        "up": "3:17",
        "down": "4:99",
        "corpus": None,
        "tokens": 415_104,
        "counts": _COUNTS,
        "measures": _estimates(**_VALUES),
        "snapshot": {"version": "live-415104", "tokens": 415_104, "age_ms": 0},
    },
    ("get", "/v1/compare"): {
        **_COMPARED,
        "layer": 3,
        "alpha": 0.05,
        "family": 1_024,
        "different": 37,
        "items": [
            {
                "feature": "3:17",
                "a": _ratio(0.0092, 0.0078, 0.0107, 1_954, 212_408, 212_408, 2_310),
                "b": _ratio(0.0001, 0.0, 0.0009, 19, 183_110, 183_110, 940),
                "difference": {"estimate": 0.0091, "lower": 0.0069, "upper": 0.0107, "status": "ok", "reason": None},
            }
        ],
        "next": "1",
        "snapshot": _LIVE,
    },
    ("get", "/v1/compare/edges"): {
        **_COMPARED,
        "up": 3,
        "down": 4,
        "measure": "jaccard",
        "alpha": 0.05,
        "family": 8_190,
        "different": 112,
        "items": [
            {
                "up": "3:17",
                "down": "4:99",
                "counted_from": 65_536,
                "a": _ratio(0.8612, 0.8011, 0.9098, 1_412, 1_640, 180_220, 402),
                "b": _ratio(0.4127, 0.3011, 0.5380, 260, 630, 149_771, 188),
                "difference": {"estimate": 0.4485, "lower": 0.2631, "upper": 0.6087, "status": "ok", "reason": None},
            }
        ],
        "next": "1",
        "snapshot": _LIVE,
    },
    ("post", "/v1/watch"): {
        "added": 1,
        "known": 0,
        "pinned": 1,
        "limit": 100_000,
        "counted_from": 415_104,
        "snapshot": _LIVE,
    },
    ("get", "/v1/watch"): {
        "items": [
            {
                "up": "3:17",
                "down": "4:99",
                "status": "counting",
                "counted_from": 0,
                "tokens": 393_216,
                "documents": 812,
            }
        ],
        "pinned": 1,
        "limit": 100_000,
        "next": None,
        "snapshot": _LIVE,
    },
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
        "items": [{"feature": "3:17", "count": 1_973, "best": _LINK, "error_share": 0.213}],
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
                "links": [_LINK],
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
                        "counts": {"up": 4_000, "down": 2_300, "joint": 2_200},
                        "necessity": 0.9565,
                        "share": 0.55,
                    },
                    {
                        "feature": "4:731",
                        "counts": {"up": 4_000, "down": 1_480, "joint": 1_400},
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
        "items": [{**_LINK, "data_free": "4:99"}],
        "next": "5e0c6a8d1f3b7a9c2d4e6f80-1",
        "snapshot": SNAPSHOT,
    },
    ("get", "/v1/histograms"): {
        "measures": list(_VALUES),
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
                **_LINK,
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
    ("get", "/v1/convergence"): {
        "pairs": [[3, 4]],
        "points": [
            {
                "tokens": 131_072,
                "tokens_by_half": [66_310, 64_762],
                "dead": [23, 18],
                "design_effects": [
                    {"features": [0, 3, 31, 140, 402, 311, 98, 16], "effect": [1.4, 1.4, 1.6, 2.1, 3.0, 4.4, 6.2, 6.9]},
                    {"features": [0, 2, 26, 133, 410, 330, 91, 14], "effect": [1.3, 1.3, 1.5, 2.0, 2.9, 4.1, 5.8, 6.6]},
                ],
                "list_change": [0.21],
                "split_half_rbo": [0.58],
                "reliability": {"jaccard": [0.93], "sufficiency": [0.95], "necessity": [0.94]},
                "unseen_mass": [0.0121],
                "pairs_seen": [401_772],
                "pairs_at_all": [603_218],
                "watched": [10_412],
                "interval_share": [0.37],
                "median_width": [0.19],
                "tokens_needed": [412_300],
                "tokens_needed_reason": [None],
            },
        ],
        "drift": {
            "corpus": "python-docs",
            "tokens": 60_117,
            "layers": [{"compared": 981, "changed_share": 0.31}, {"compared": 990, "changed_share": 0.33}],
            "pairs": [
                {
                    "compared": 3_120,
                    "changed_share": 0.12,
                    "most_changed": [
                        {
                            "up": 17,
                            "down": 99,
                            "newest": 0.91,
                            "others": 0.34,
                            "difference": 0.57,
                            "lower": 0.22,
                            "upper": 0.81,
                        }
                    ],
                }
            ],
        },
        "snapshot": SNAPSHOT,
    },
    ("get", "/livez"): {"status": "alive"},
    ("get", "/readyz"): {"status": "ready"},
}

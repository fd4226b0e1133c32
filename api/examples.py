"""Examples of the interface document: answers of the embedded demo, and the parameters that lead to them."""

from __future__ import annotations

from typing import Any

SNAPSHOT = {"version": "1764042000000-42", "tokens": 412_503, "age_ms": 310}
UPLOAD = {
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
        name: UPLOAD[name] for name in ("bytes", "documents", "documents_counted", "tokens_received", "tokens_counted", "set_aside")
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


VALUES = {
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
_COUNTS = {"up": 1_973, "down": 1_900, "joint": 1_781, "count_error": 0}
LINK = {"up": "3:17", "down": "4:99", "counts": _COUNTS, "estimate": 0.9707, "measures": VALUES}


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
_CONTEXT = {
    "feature": "3:17",
    "activation": 6.21,
    "position": 3,
    "log_position": 51_277,
    "upload": UPLOAD["id"],
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

ANSWERS: dict[tuple[str, str], Any] = {
    ("get", "/v1/status"): {
        "state": "counting",
        "model": "demo",
        "saes": "demo",
        "layers": [
            {"layer": 3, "hook": "blocks.3.hook_resid_pre", "features": 1_024, "dead": 11},
            {"layer": 4, "hook": "blocks.4.hook_resid_pre", "features": 1_024, "dead": 7},
        ],
        "pairs": [[3, 4]],
        "tables": [{"pair": [3, 4], "layout": "dense", "bytes": 16_777_216, "kept": None, "kept_most": None}],
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
    ("post", "/v1/corpora"): {**UPLOAD, "state": "queued", "documents_counted": 0, "tokens_received": None, "tokens_counted": 0},
    ("get", "/v1/corpora"): {"items": [_CORPUS], "next": None},
    ("get", "/v1/corpora/{corpus}"): {**_CORPUS, "items": [UPLOAD], "next": None},
    ("get", "/v1/uploads/{upload}"): UPLOAD,
    ("post", "/v1/activations"): {
        **UPLOAD,
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
        "explanation": None,
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
                "measures": VALUES,
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
        "measures": _estimates(**VALUES),
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
        "next": "5e0c6a8d1f3b7a9c2d4e6f80-1",
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
        "next": "5e0c6a8d1f3b7a9c2d4e6f80-1",
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

"""Examples of the interface document for prompts' graphs and for search, from the embedded demo."""

from __future__ import annotations

from typing import Any

from api.examples import SNAPSHOT

PARAMETERS: dict[str, Any] = {"q": "tuple of"}

BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("post", "/v1/graph"): {"application/json": {"prompt": "Return a tuple of ints.", "token": 2, "measure": "jaccard"}}
}

_GATE = {
    "child": "3:831",
    "kind": "or",
    "parents": [{"feature": "2:831", "negated": False}, {"feature": "2:72", "negated": False}],
    "k": None,
    "precision": 0.7035,
    "recall": 0.6995,
    "f1": 0.7015,
    "mcc": 0.6298,
    "quasi": 0.3005,
    "gain": {
        "estimate": 0.0747,
        "lower": 0.0639,
        "upper": 0.0851,
        "status": "ok",
        "documents": 3_324,
        "effective_documents": 738.0,
        "reason": None,
    },
    "best_parent": {"feature": "2:831", "f1": 0.6268},
    "support": {"tokens": 72_448, "documents": 2_571},
    "halves": [
        {"half": "A", "precision": 0.7058, "recall": 0.7057, "f1": 0.7058, "both": 36_104, "gate": 51_156, "child": 51_157},
        {"half": "B", "precision": 0.7014, "recall": 0.6934, "f1": 0.6974, "both": 36_344, "gate": 51_819, "child": 52_415},
    ],
    "evidence": {
        "log_e": -2.7,
        "joint_log_e": 4_358.3,
        "needed": 6.8,
        "joint_needed": 5.8,
        "tests": [
            {"test": "parent", "feature": "2:831", "log_e": 4_358.3},
            {"test": "parent", "feature": "2:72", "log_e": 6_021.4},
            {"test": "common_cause", "feature": None, "log_e": -2.7},
        ],
    },
    "verdict": "joint",
    "reason": None,
    "counted_from": 91_360,
    "tokens": 533_536,
    "cells": None,
}


def _node(feature: str, activations: list[float], density: float) -> dict[str, Any]:
    layer, index = map(int, feature.split(":"))
    return {
        "feature": feature,
        "layer": layer,
        "index": index,
        "activation": activations[2],
        "peak": 2,
        "activations": activations,
        "density": density,
        "community": None,
    }


ANSWERS: dict[tuple[str, str], Any] = {
    ("post", "/v1/graph"): {
        "tokens": ["Return", " a", " tuple", " of", " int", "s", "."],
        "token": 2,
        "left_out": [],
        "measure": "jaccard",
        "min_value": 0.1,
        "min_support": 10,
        "nodes": [
            _node("2:831", [6.458, 3.341, 5.478, 2.78, 4.1, 3.955, 0.0], 0.0995),
            _node("2:72", [0.0, 0.0, 5.317, 2.717, 0.0, 0.0, 0.0], 0.1406),
            _node("3:831", [6.275, 3.691, 10.078, 3.099, 7.695, 6.411, 0.0], 0.1953),
        ],
        "edges": [
            {
                "up": "2:831",
                "down": "3:831",
                "value": 0.4583,
                "lower": 0.4402,
                "upper": 0.4768,
                "status": "ok",
                "joint": 57_904,
                "count_error": 0,
            },
            {
                "up": "2:72",
                "down": "3:831",
                "value": 0.3029,
                "lower": 0.2811,
                "upper": 0.3254,
                "status": "heuristic",
                "joint": 48_803,
                "count_error": 0,
            },
        ],
        "gates": [_GATE],
        "dropped": {"nodes": 86, "edges": 0, "gates": 0},
        "snapshot": {**SNAPSHOT, "version": "live-412503", "age_ms": 0},
    },
    ("get", "/v1/search"): {
        "q": "tuple of",
        "searched": 57_119,
        "per_feature": 8,
        "total": 498,
        "items": [
            {
                "feature": "0:772",
                "layer": 0,
                "index": 772,
                "contexts": 3,
                "at_peak": 3,
                "activation": 0.2976,
                "density": 0.0351,
            },
            {"feature": "5:410", "layer": 5, "index": 410, "contexts": 2, "at_peak": 2, "activation": 9.89, "density": 0.04},
        ],
        "next": "3f5b77a54a4f01ebfc0813b6-2",
        "snapshot": SNAPSHOT,
    },
}

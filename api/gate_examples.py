"""Examples of the interface document about gates: as `api.examples`."""

from __future__ import annotations

from typing import Any

from api.examples import SNAPSHOT, UPLOAD

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
                "upload": UPLOAD["id"],
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
        "next": "5e0c6a8d1f3b7a9c2d4e6f80-1",
        "snapshot": {"version": "live-412503", "tokens": 412_503, "age_ms": 0},
    },
}

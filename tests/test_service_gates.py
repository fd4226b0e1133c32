"""Gates through the real server, against counting the pushed activations token by token."""

from __future__ import annotations

import itertools
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from api.client import Client
from api.gate_tables import formula
from api.report import gather, render
from engine.measures.gate_gain import COLUMNS, ROWS, gain_interval
from engine.measures.gate_tests import TESTS, Evidence, add_block, block_scores
from engine.measures.gates import KINDS, holds
from tests.planted_gates import DOCUMENTS, PLANTED, SEGMENT, SIZES, TOKENS, frames, planted
from tests.service import Service, eventually, serving

DENSE = planted()
ACTIVE = [layer > 0 for layer in DENSE]
BLOCK = 16


OPTIONS = ("--dictionary", ",".join(map(str, SIZES)))
CUT = {"SAESTREAM_SEGMENT_TOKENS": str(SEGMENT), "SAESTREAM_QUIET_MS": "5000"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("gates"), *OPTIONS, environment=CUT) as running:
        running.until_counted(running.push(frames(DENSE)))
        until_all(running)
        yield running


def until_all(service: Service) -> None:
    """Wait until the gates that are read are those of all tokens."""
    eventually("gates are of all tokens", lambda: service.get("/v1/gates")["snapshot"]["tokens"] == DOCUMENTS * TOKENS)


def of(name: str, after: int = 0) -> np.ndarray:
    """bool: where a feature is active, from a token on."""
    layer, index = map(int, name.split(":"))
    return ACTIVE[layer][after:, index]


def truth(gate: dict[str, Any]) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Where the gate holds, its parents, and the child are active, after the nomination."""
    after = gate["counted_from"]
    parents = [of(parent["feature"], after) for parent in gate["parents"]]
    padded = [*parents, np.zeros_like(parents[0])][:3]
    return holds(KINDS.index(gate["kind"]), *padded), parents, of(gate["child"], after)


def f1(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * (one & other).sum() / (one.sum() + other.sum())


@pytest.fixture(scope="module")
def every(service: Service) -> list[dict[str, Any]]:
    found = service.get("/v1/gates", verdict="any", cells=True, limit=1000)
    assert found["next"] is None and found["total"] == len(found["items"]) > len(PLANTED)
    return found["items"]


def test_an_engine_that_is_killed_again_and_again_ends_with_the_same_gates(tmp_path: Path, every: list[dict[str, Any]]) -> None:
    def saved() -> int:
        """Number of the newest checkpoint: each is of another place in the log."""
        return max((int(path.stem) for path in tmp_path.glob("checkpoints/*.manifest")), default=-1)

    with serving(tmp_path, *OPTIONS, environment={**CUT, "SAESTREAM_CHECKPOINT_INTERVAL": "0"}) as running:
        upload = running.push(frames(DENSE))
        killed = [-1]  # the newest checkpoint at each kill
        for _ in range(2):
            eventually("something more is saved", lambda last=killed[-1]: saved() > last)
            engine = running.child("engine.main")
            assert engine is not None
            engine.kill()
            engine.wait(30)
            killed.append(saved())
        running.until_counted(upload)
        until_all(running)
        assert saved() > killed[1], "the first kill came before everything was counted"
        found = running.get("/v1/gates", verdict="any", cells=True, limit=1000)
    assert found["items"] == every


def test_planted_gates_are_found_and_nothing_else_is_called_a_gate(service: Service) -> None:
    found = {}
    for gate in service.get("/v1/gates", verdict="gate")["items"]:
        names = [parent["feature"] for parent in gate["parents"]]
        layer, index = map(int, gate["child"].split(":"))
        found[layer, index] = gate["kind"], tuple(names if gate["kind"] == "and_not" else sorted(names))
        assert [parent["negated"] for parent in gate["parents"]] == [
            gate["kind"] == "and_not" and at == 1 for at in range(len(names))
        ]
        assert gate["k"] == (2 if gate["kind"] == "k_of_n" else None)
    assert found == PLANTED


def test_quality_and_cells_are_what_counting_gives(every: list[dict[str, Any]]) -> None:
    for gate in every:
        predicted, parents, child = truth(gate)
        assert gate["tokens"] == len(child) and gate["counted_from"] % SEGMENT == 0 < gate["counted_from"]
        both = int((predicted & child).sum())
        assert gate["precision"] == pytest.approx(both / predicted.sum()) and gate["recall"] == pytest.approx(both / child.sum())
        assert gate["f1"] == pytest.approx(f1(predicted, child))
        assert gate["quasi"] == pytest.approx(1 - min(gate["precision"], gate["recall"]))
        assert gate["mcc"] == pytest.approx(np.corrcoef(predicted, child)[0, 1])
        assert gate["support"]["tokens"] == both
        names = [parent["feature"] for parent in gate["parents"]]
        assert len(gate["cells"]) == 2 ** (len(names) + 1)
        for cell in gate["cells"]:
            pattern = [name in cell["active"] for name in names]
            exactly = np.logical_and.reduce([parent == on for parent, on in zip(parents, pattern, strict=True)])
            assert cell["tokens"] == int((exactly & (child == cell["child"])).sum())
            padded = [*pattern, False][:3]
            assert cell["holds"] == bool(holds(KINDS.index(gate["kind"]), *padded))
        assert sum(cell["tokens"] for cell in gate["cells"]) == gate["tokens"]


def test_gain_is_over_documents_with_the_interval_of_the_formula(every: list[dict[str, Any]]) -> None:
    for gate in every:
        predicted, _, child = truth(gate)
        best = of(gate["best_parent"]["feature"], gate["counted_from"])
        columns = (predicted & child, predicted, best & child, best, child)
        x = np.stack([column.reshape(-1, TOKENS).sum(axis=1) for column in columns], axis=1).astype(np.float64)
        informative = int((x[:, [1, 3, 4]] > 0).any(axis=1).sum())
        expected = gain_interval(x.sum(axis=0)[None], (x[:, ROWS] * x[:, COLUMNS]).sum(axis=0)[None], [informative])
        gain = gate["gain"]
        assert gate["best_parent"]["f1"] == pytest.approx(f1(best, child))
        assert gain["estimate"] == pytest.approx(gate["f1"] - gate["best_parent"]["f1"])
        assert (gain["lower"], gain["upper"]) == pytest.approx((expected.lower[0], expected.upper[0]))
        assert (gain["status"], gain["documents"], gain["reason"]) == ("ok", informative, None)
        halves = {half["half"]: half for half in gate["halves"]}
        for name, total in (("both", predicted & child), ("gate", predicted), ("child", child)):
            assert halves["A"][name] + halves["B"][name] == total.sum() and 0 < halves["A"][name] < total.sum()
        for half in halves.values():
            assert half["f1"] == pytest.approx(2 * half["both"] / (half["gate"] + half["child"]))


def test_evidence_is_that_of_betting_block_by_block(every: list[dict[str, Any]]) -> None:
    for gate in every:
        _, parents, child = truth(gate)
        cells = sum(parent.astype(int) << at for at, parent in enumerate(parents)) + 8 * child
        kind, evidence = KINDS.index(gate["kind"]), Evidence.zero(1)
        for block in cells.reshape(-1, BLOCK):
            s, c = block_scores(kind, np.bincount(block, minlength=16))
            add_block(evidence, s[None], c[None])
        tests = gate["evidence"]["tests"]
        assert [test["log_e"] for test in tests] == pytest.approx(evidence.log_e[0, : TESTS[kind]].tolist(), rel=1e-6)
        assert [test["feature"] for test in tests] == [*(parent["feature"] for parent in gate["parents"]), None]
        assert [test["test"] for test in tests] == ["parent"] * len(parents) + ["common_cause"]
        assert gate["evidence"]["log_e"] == min(test["log_e"] for test in tests)
        assert gate["evidence"]["joint_log_e"] == min(test["log_e"] for test in tests[:-1])


def test_verdicts_are_one_of_a_child_and_what_is_not_shown_says_why(service: Service, every: list[dict[str, Any]]) -> None:
    answer = service.get("/v1/gates")
    hypotheses = 8 * (SIZES[1] + SIZES[2])
    assert (answer["alpha"], answer["hypotheses"]) == (0.05, hypotheses)
    gates = [gate for gate in every if gate["verdict"] == "gate"]
    assert len({gate["child"] for gate in gates}) == len(gates)
    for gate in every:
        assert gate["evidence"]["needed"] == pytest.approx(math.log(hypotheses / 0.05 / (len(gates) + 1)))
        assert (gate["reason"] is None) == (gate["verdict"] != "none")
    others = [gate for gate in every if gate["verdict"] == "none" and gate["child"] == "1:3"]
    assert others and all(gate["reason"] == "another gate of 1:3 explains more of it" for gate in others)
    counts = {(tuple(row["pair"]), row["kind"]): row for row in answer["counts"]}
    assert list(counts) == list(itertools.product([(0, 1), (1, 2)], KINDS))
    for (pair, kind), row in counts.items():
        mine = [gate["verdict"] for gate in every if gate["kind"] == kind and gate["child"].startswith(f"{pair[1]}:")]
        assert {verdict: row[verdict] for verdict in ("gate", "joint", "none")} == {
            verdict: mine.count(verdict) for verdict in ("gate", "joint", "none")
        }


@pytest.mark.parametrize(
    ("sort", "key"),
    [
        ("f1", lambda gate: gate["f1"]),
        ("gain", lambda gate: gate["gain"]["lower"]),
        ("evidence", lambda gate: gate["evidence"]["log_e"]),
        ("support", lambda gate: gate["support"]["tokens"]),
    ],
)
def test_lists_are_sorted_and_read_page_by_page(service: Service, every: list[dict[str, Any]], sort: str, key: Any) -> None:
    first = service.get("/v1/gates", verdict="any", sort=sort, limit=3)
    second = service.get("/v1/gates", verdict="any", sort=sort, limit=1000, cursor=first["next"])
    items = first["items"] + second["items"]
    assert len(first["items"]) == 3 and second["next"] is None and len(items) == len(every)
    values = [key(gate) for gate in items]
    assert values == sorted(values, reverse=True)
    assert all(gate["cells"] is None for gate in items)


def test_filters_leave_what_they_say(service: Service, every: list[dict[str, Any]]) -> None:
    def names(items: list[dict[str, Any]]) -> set[tuple[str, ...]]:
        return {(gate["child"], gate["kind"], *(parent["feature"] for parent in gate["parents"])) for gate in items}

    for query, keep in (
        ({"kind": "or"}, lambda gate: gate["kind"] == "or"),
        ({"layer": 2}, lambda gate: gate["child"].startswith("2:")),
        ({"min_f1": 0.9}, lambda gate: gate["f1"] >= 0.9),
        ({"min_gain": 0.1}, lambda gate: gate["gain"]["estimate"] >= 0.1),
        (
            {"kind": "and", "layer": 1, "min_f1": 0.5},
            lambda gate: gate["kind"] == "and" and gate["child"] < "2" and gate["f1"] >= 0.5,
        ),
    ):
        expected = names([gate for gate in every if keep(gate)])
        assert 0 < len(expected) < len(every) and names(service.get("/v1/gates", verdict="any", **query)["items"]) == expected


def test_a_feature_shows_the_same_gates_as_the_list(service: Service, every: list[dict[str, Any]]) -> None:
    for layer, size in ((1, SIZES[1]), (2, SIZES[2])):
        for index in range(size):
            answer = service.get(f"/v1/features/{layer}/{index}/gates", verdict="any", cells=True)
            mine = [gate for gate in every if gate["child"] == f"{layer}:{index}"]
            assert answer["items"] == sorted(mine, key=lambda gate: (gate["verdict"] != "gate", -gate["f1"]))
            assert answer["count"] == ACTIVE[layer][:, index].sum()
            assert (answer["waiting"] is None) == bool(mine)
    answer = service.get("/v1/features/1/3/gates")
    assert [gate["kind"] for gate in answer["items"]] == ["k_of_n"]
    (candidates,) = answer["candidates"]
    assert candidates["layer"] == 0 and {"0:7", "0:8", "0:9"} <= set(candidates["features"])
    assert candidates["counted_from"] % SEGMENT == 0 and 1 <= candidates["nominated"] <= 8


def test_a_feature_without_gates_says_what_it_waits_for(service: Service, every: list[dict[str, Any]]) -> None:
    def waiting(feature: str, **query: str) -> str:
        answer = service.get(f"/v1/features/{feature.replace(':', '/')}/gates", **query)
        assert answer["items"] == []
        return answer["waiting"]

    assert waiting("1:6") == "feature 1:6 never fired: nothing upstream can be related to it"
    assert "fired on 3 tokens; no upstream feature is significantly related yet" in waiting("1:7")
    copy = service.get("/v1/features/1/4/gates")["candidates"][0]["features"]
    assert copy == ["0:6"] and "only 0:6 is significantly related yet" in waiting("1:4")
    assert "none of them with the verdict 'joint'" in waiting("1:0", verdict="joint")


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        pytest.param("/v1/gates?kind=xor", 422, "and, or, and_not, k_of_n", id="unknown-kind"),
        pytest.param("/v1/gates?sort=mcc", 422, "f1, gain, evidence, support", id="unknown-sort"),
        pytest.param("/v1/gates?verdict=yes", 422, "gate, joint, none, any", id="unknown-verdict"),
        pytest.param("/v1/gates?min_f1=2", 422, "between 0 and 1", id="f1-above-1"),
        pytest.param("/v1/gates?min_gain=nan", 422, "between -1 and 1", id="gain-that-is-no-number"),
        pytest.param("/v1/gates?layer=0", 422, "layer 0 has no upstream layer in this run", id="layer-without-parents"),
        pytest.param("/v1/gates?layer=7", 422, "between 0 and 2", id="no-such-layer"),
        pytest.param("/v1/gates?cursor=x", 400, "page before", id="no-cursor"),
        pytest.param("/v1/features/0/1/gates", 422, "0→1, 1→2", id="feature-without-parents"),
        pytest.param("/v1/features/1/9/gates", 404, "features 0 to 8", id="no-such-feature"),
        pytest.param("/v1/features/1/1/gates?verdict=maybe", 422, "gate, joint, none, any", id="unknown-verdict-of-a-feature"),
    ],
)
def test_what_can_not_be_asked_names_what_can(service: Service, path: str, status: int, says: str) -> None:
    answer = service.http.get(path)
    assert answer.status_code == status and says in answer.json()["detail"]


@pytest.mark.parametrize("threshold", [0.999, 0.9, 0.5])
def test_the_papers_rule_is_what_pair_counts_say(service: Service, threshold: float) -> None:
    expected = []
    up, down = ACTIVE[0].astype(np.int64), ACTIVE[1].astype(np.int64)
    joint = up.T @ down
    for child, kind in itertools.product(range(SIZES[1]), ("and", "or")):
        of_pair = [joint[i, child] / max(1, down[:, child].sum() if kind == "and" else up[:, i].sum()) for i in range(SIZES[0])]
        parents = [i for i in range(SIZES[0]) if of_pair[i] >= threshold]
        if len(parents) == 2:
            told = [
                {"feature": f"0:{i}", "count": up[:, i].sum(), "joint": joint[i, child], "estimate": pytest.approx(of_pair[i])}
                for i in parents
            ]
            expected.append({"child": f"1:{child}", "kind": kind, "count": down[:, child].sum(), "parents": told})
    answer = service.get("/v1/gates/paper", pair="0-1", threshold=threshold)
    assert answer["items"] == expected and answer["rule"] == "paper_rule"
    assert answer["total"] == len(expected) == answer["ands"] + answer["ors"]
    assert answer["live"] == (down.sum(axis=0) > 0).sum()
    paged, after = [], {}
    while after is not None:
        page = service.get("/v1/gates/paper", pair="0-1", threshold=threshold, limit=1, **after)
        paged += page["items"]
        after = {"cursor": page["next"]} if page["next"] else None
    assert paged == expected
    if threshold == 0.9:
        assert [item["kind"] for item in expected] == ["and", "or"]


@pytest.mark.parametrize(
    ("query", "status", "says"),
    [
        pytest.param("pair=0-2", 422, "0-1, 1-2", id="no-such-pair"),
        pytest.param("pair=0-1&threshold=0", 422, "above 0 and at most 1", id="threshold-0"),
        pytest.param("pair=0-1&threshold=nan", 422, "above 0 and at most 1", id="threshold-that-is-no-number"),
        pytest.param("pair=0-1&limit=0", 422, "limit = 0", id="limit-0"),
        pytest.param("pair=0-1&cursor=x", 400, "page before", id="no-cursor"),
        pytest.param("threshold=0.9", 400, "pair", id="no-pair"),
    ],
)
def test_the_papers_rule_refuses_what_it_can_not_be_asked(service: Service, query: str, status: int, says: str) -> None:
    answer = service.http.get(f"/v1/gates/paper?{query}")
    assert answer.status_code == status and says in answer.json()["detail"]


def saestream(service: Service, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "140", "SAESTREAM_URL": str(service.http.base_url)}
    return subprocess.run([sys.executable, "-m", "api.cli", *words], capture_output=True, text=True, timeout=120, env=environment)


def test_the_command_shows_the_gates_of_the_run_and_of_a_feature(service: Service) -> None:
    run = saestream(service, "gates", "--verdict", "any", "--min-f1", "0.5")
    assert run.returncode == 0, run.stderr
    assert f"{len(PLANTED)} gates, 0 joint actions" in run.stdout and "at most 5% of either are false" in run.stdout
    for words in ("0:0 and 0:1", "0:4 and not 0:5", "1:5 and 1:1", "2 of 0:", " or "):
        assert words in run.stdout
    one = saestream(service, "gates", "1:2", "--cells")
    assert "0:4 and not 0:5" in one.stdout and "1:2 fired on" in one.stdout and "none active" in one.stdout
    (gate,) = service.get("/v1/features/1/2/gates", cells=True)["items"]
    for cell in gate["cells"]:
        assert f"{cell['tokens']:,}" in one.stdout
    idle = saestream(service, "gates", "1:6")
    assert idle.returncode == 0 and "never fired" in idle.stdout


@pytest.mark.parametrize(
    ("words", "named"),
    [
        pytest.param(["--kind", "xor"], ["xor", "and, or, and_not, k_of_n"], id="unknown-kind"),
        pytest.param(["0:1"], ["layer 0 has no upstream layer"], id="feature-without-parents"),
        pytest.param(["1:1", "--min-f1", "0.5"], ["--min-f1 0.5", "1:1"], id="filter-of-a-feature"),
        pytest.param(["gate"], ["'gate'", "layer:index"], id="no-feature"),
    ],
)
def test_a_wrong_command_is_one_sentence(service: Service, words: list[str], named: list[str]) -> None:
    refused = saestream(service, "gates", *words)
    assert refused.returncode == 1 and len(refused.stderr.strip().splitlines()) == 1
    assert all(word in refused.stderr for word in named), refused.stderr


@pytest.mark.parametrize("child", PLANTED, ids=str)
def test_gate_contexts_are_the_strongest_tokens_of_each_group(service: Service, child: tuple[int, int]) -> None:
    kind, parents = PLANTED[child]
    name = f"{child[0]}:{child[1]}"
    answer = service.get("/v1/gates/contexts", child=name, kind=kind, parents=",".join(parents), k=2)
    dense = np.stack([DENSE[layer][:, index] for layer, index in [child, *(map(int, one.split(":")) for one in parents)]])
    documents = set()
    for feature in dense.reshape(len(dense), DOCUMENTS, TOKENS).max(axis=2):
        documents |= set(np.argsort(-feature)[:8].tolist())
    assert answer["windows"] == len(documents) and answer["missing"] == []
    looked = np.isin(np.arange(dense.shape[1]) // TOKENS, sorted(documents))
    number = (dense[1:] > 0).sum(axis=0)
    groups = {
        "all": looked & (number == len(parents)),
        "some": looked & (number > 0) & (number < len(parents)),
        "none": looked & (number == 0) & (dense[0] > 0),
    }
    strength = np.where(number > 0, dense[1:].sum(axis=0), dense[0])
    for row in answer["groups"]:
        here = groups[row["group"]]
        assert (row["tokens"], row["child"]) == (here.sum(), (here & (dense[0] > 0)).sum())
        best = np.where(here, strength, -1).reshape(DOCUMENTS, TOKENS)
        expected = [int(at) * TOKENS + int(best[at].argmax()) for at in np.argsort(-best.max(axis=1))[:2] if best[at].max() > 0]
        shown = [one for one in answer["contexts"] if one["group"] == row["group"]]
        assert [one["log_position"] for one in shown] == expected
        for one in shown:
            at, start = one["log_position"], one["log_position"] - one["position"]
            assert one["feature"] == name and one["activation"] == pytest.approx(dense[0, at])
            assert one["child_active"] == (dense[0, at] > 0)
            assert one["active"] == [parent for parent, value in zip(parents, dense[1:, at], strict=True) if value > 0]
            padded = [*(dense[1:, at] > 0), False][:3]
            assert one["holds"] == bool(holds(KINDS.index(kind), *padded))
            for feature, column in zip((name, *parents), dense, strict=True):
                values = one["values"][feature]
                assert values == pytest.approx(column[start : start + len(values)].tolist())
    assert [one["group"] for one in answer["contexts"]] == sorted(
        (one["group"] for one in answer["contexts"]), key=list(groups).index
    )
    assert answer["reason"] == "this run has no model: activations were pushed, and their text is not known"
    assert all(one["tokens"] is None for one in answer["contexts"])


@pytest.mark.parametrize(
    ("query", "status", "says"),
    [
        pytest.param("child=1:0&kind=xor&parents=0:0,0:1", 422, "and, or, and_not, k_of_n", id="unknown-kind"),
        pytest.param("child=1:0&kind=and&parents=0:0", 422, "has 2 parents, not 1", id="one-parent"),
        pytest.param("child=1:0&kind=k_of_n&parents=0:0,0:1", 422, "has 3 parents, not 2", id="two-of-two"),
        pytest.param("child=1:0&kind=or&parents=0:1,0:1", 422, "different features", id="one-parent-twice"),
        pytest.param("child=2:0&kind=or&parents=0:1,1:1", 422, "layers 0→2 are no layer pair", id="no-layer-pair"),
        pytest.param("child=1:0&kind=or&parents=0:1,0:99", 404, "0:99", id="no-such-parent"),
        pytest.param("child=1:0&kind=or&parents=0:1;0:2", 400, "layer:index", id="no-list"),
        pytest.param("child=1:0&kind=or&parents=0:1,0:2&k=9", 422, "between 1 and 8", id="k-9"),
    ],
)
def test_gate_contexts_of_what_is_no_gate_are_refused(service: Service, query: str, status: int, says: str) -> None:
    answer = service.http.get(f"/v1/gates/contexts?{query}")
    assert answer.status_code == status and says in answer.json()["detail"]


def test_the_report_shows_the_gates_with_their_truth_tables_and_what_they_look_like(service: Service) -> None:
    with Client(str(service.http.base_url)) as client:
        report = gather(client)
        html = " ".join(re.sub(r"<[^>]+>", " ", render(report)).split())
    (section,) = (section for section in report.sections if section.name == "gates")
    best = service.get("/v1/gates", sort="gain", limit=10, cells=True)
    assert [example["gate"] for example in section.shown["examples"]] == best["items"] and section.shown["certain"]
    for row in best["counts"]:
        kind = "2 of 3" if row["kind"] == "k_of_n" else row["kind"].replace("_", " ")
        assert f"{row['pair'][0]} → {row['pair'][1]} {kind} {row['gate']} {row['joint']} {row['none']}" in html
    for gate in best["items"]:
        assert f"{gate['child']} = {formula(gate)} gate F1 {gate['f1']:.3f} Precision" in html
        for silent, fires in zip(gate["cells"][::2], gate["cells"][1::2], strict=True):
            active, holding = ", ".join(silent["active"]) or "none", "holds" if silent["holds"] else "–"
            assert f"{active} {holding} {silent['tokens']:,} {fires['tokens']:,}" in html
    labels = [label for example in section.shown["examples"] for label, _ in example["texts"]]
    assert "All parents fire: the gate holds, and the child fires." in labels
    assert all(label in html for label in labels) and "The activations were pushed: this run has no text." in html

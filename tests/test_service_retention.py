"""A disk quota, through the real server: text goes, counts stay, uploads go on; or nothing goes and uploads are refused."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from engine.corpus.quota import Quota
from engine.corpus.segment_file import HEADER_ALONE, read_segment_header
from tests.service import Service, eventually, pack_frame, serving, sparse

SIZES = (64, 64)
TOKENS = 250
QUOTA = 3_000_000
OPTIONS = ("--dictionary", ",".join(map(str, SIZES)), "--disk-quota", str(QUOTA))
ENVIRONMENT = {"SAESTREAM_SEGMENT_TOKENS": "500", "SAESTREAM_CHECKPOINT_INTERVAL": "0.2", "SAESTREAM_PUBLISH_INTERVAL": "0.2"}


def document(number: int) -> bytes:
    """About 120 kB. Feature 0:1 is strongest in the first one, 0:2 in the last."""
    random = np.random.default_rng(number)
    layers = [np.where(random.random((TOKENS, size)) < 0.5, random.random((TOKENS, size)) + 0.1, 0) for size in SIZES]
    layers[0][3, 1:3] = 100 - number, 100 + number
    return pack_frame(f"document {number}", [sparse(layer) for layer in layers])


def push(service: Service, number: int) -> httpx.Response:
    headers = {"Content-Type": "application/x-msgpack", "Idempotency-Key": f"document {number}"}
    return service.http.post("/v1/activations", content=document(number), headers=headers, params={"name": "pushed"})


def contexts(service: Service, feature: str) -> Any:
    return service.get(f"/v1/features/{feature.replace(':', '/')}/contexts", k=1)


def test_with_a_quota_the_oldest_counted_text_goes_and_its_counts_stay(tmp_path: Path) -> None:
    documents = 40  # 4.8 MB of bodies, and as much again of segments
    with serving(tmp_path, *OPTIONS, "--retention", "drop", environment=ENVIRONMENT) as service:
        for number in range(documents):
            deadline = time.monotonic() + 60
            while (answer := push(service, number)).status_code == 507 and time.monotonic() < deadline:
                assert int(answer.headers["retry-after"]) >= 1
                time.sleep(0.2)
            assert answer.status_code == 202, answer.text
        eventually("all is counted", lambda: service.get("/v1/status")["tokens"] == documents * TOKENS)
        eventually("there is room", lambda: Quota(tmp_path, QUOTA, 0).used() < 0.8 * QUOTA)
        missing = contexts(service, "0:1")["missing"]
        assert "dropped" in missing[0]["reason"] and "newest text" in missing[0]["reason"]
        (shown,) = contexts(service, "0:2")["contexts"]
        assert shown["document"]["name"] == f"document {documents - 1}"
        before = service.get("/v1/features/0/1"), service.get("/v1/similarity", up="0:1", down="1:1")
        assert "dropped" in before[0]["strongest_reason"]
        headers = [read_segment_header(tmp_path / "log", number) for number in range(len(list((tmp_path / "log").glob("*.seg"))))]
        dropped = [header.dropped for header in headers]
        assert dropped == sorted(dropped, reverse=True) and 5 < sum(dropped) < len(dropped)
        assert HEADER_ALONE in (tmp_path / "log" / "00000000.seg").read_bytes()[8:9]
        assert push(service, 0).status_code == 200  # the key of an upload whose body is gone
        engine = service.child("engine.main")
        assert engine is not None
        engine.kill()
        eventually("another engine is ready", lambda: service.child("engine.main") not in (None, engine) and service.is_ready())
        assert push(service, documents).status_code == 202
        eventually("that is counted too", lambda: service.get("/v1/status")["tokens"] == (documents + 1) * TOKENS)
    with serving(tmp_path, *OPTIONS, "--retention", "drop", environment=ENVIRONMENT) as service:
        assert service.get("/v1/status")["tokens"] == (documents + 1) * TOKENS
        assert service.get("/v1/features/0/1")["count"] >= before[0]["count"]
        assert service.get("/v1/corpora/pushed")["documents_counted"] == documents + 1


def test_without_retention_a_full_quota_refuses_uploads_and_keeps_every_text(tmp_path: Path) -> None:
    with serving(tmp_path, *OPTIONS, environment=ENVIRONMENT) as service:
        taken = 0
        while (answer := push(service, taken)).status_code == 202:
            taken += 1
            service.until_counted(answer.json())
        assert answer.status_code == 507 and "disk_quota" in answer.json()["detail"] and taken > 5
        assert service.get("/v1/status")["tokens"] == taken * TOKENS and service.is_ready()
        (shown,) = contexts(service, "0:1")["contexts"]
        assert shown["document"]["name"] == "document 0"

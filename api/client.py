"""The command line's side of HTTP: one client, whose errors are the server's own sentences."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx

from engine.errors import BadInput, Calibrating, NotReady, SaestreamError

MEDIA_TYPES = {
    ".txt": "text/plain",
    ".md": "text/plain",
    ".jsonl": "application/x-ndjson",
    ".ndjson": "application/x-ndjson",
    ".parquet": "application/vnd.apache.parquet",
    ".msgpack": "application/x-msgpack",
}
_CHUNK = 1 << 18
_TRIES = 10
_PATIENCE = 10.0  # seconds that a command waits when it is told to ask again later; for more it says so and ends


class Refused(SaestreamError):
    """The server answered with a problem; the message is its `detail`."""


class Client:
    """A running server, by its address."""

    def __init__(self, url: str, api_key: str | None = None, timeout: float = 30.0) -> None:
        """`api_key`: sent with every request, to no other server (redirects are not followed)."""
        self.url = url.rstrip("/")
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.close()

    def get(self, path: str, **query: Any) -> Any:
        """GET a route and decode its JSON; where the server says that it is asked too often, ask again when it says.

        Raises:
            NotReady: nothing listens at the address, or the server says 503 or that it calibrates. Refused: any other problem.
        """
        return self._decode(lambda: self._http.get(path, params=_given(query)), _TRIES)

    def every(self, path: str, **query: Any) -> Any:
        """GET a list page by page: its first answer, with the `items` of all pages. The server keeps them of one snapshot."""
        answer = page = self.get(path, limit=1_000, **query)
        while page["next"] is not None:
            page = self.get(path, limit=1_000, cursor=page["next"], **query)
            answer["items"] += page["items"]
        return answer

    def post(self, path: str, body: Any) -> Any:
        """POST a JSON body; errors as `get`."""
        return self._decode(lambda: self._http.post(path, json=body), _TRIES)

    def upload(self, path: str, body: Iterable[bytes], media_type: str, key: str | None = None, **query: Any) -> Any:
        """POST a body in chunks; without a key each call is an upload of its own, retried or not."""
        headers = {"Content-Type": media_type, "Idempotency-Key": key or uuid.uuid4().hex}
        timeout = httpx.Timeout(30.0, read=90.0)  # `wait=visible` may take a minute
        return self._decode(lambda: self._http.post(path, content=body, headers=headers, params=_given(query), timeout=timeout))

    def _decode(self, request: Callable[[], httpx.Response], tries: int = 1) -> Any:
        try:
            answer = request()
            while answer.status_code == 429 and (tries := tries - 1) > 0 and (wait := _wait(answer)) <= _PATIENCE:
                time.sleep(wait)
                answer = request()
        except httpx.TransportError as error:
            raise NotReady(f"no answer from {self.url} ({error.__class__.__name__}): is `saestream serve` running?") from error
        if answer.is_success:
            return answer.json()
        problem = answer.json() if "json" in answer.headers.get("content-type", "") else {}
        detail = problem.get("detail") or problem.get("title") or f"{self.url} answered {answer.status_code} {answer.reason_phrase}"
        if answer.status_code == 503 or problem.get("title") == Calibrating.title:
            raise NotReady(detail)
        raise Refused(detail)


def _wait(answer: httpx.Response) -> float:
    told = answer.headers.get("retry-after", "1")
    return float(told) if told.isdigit() else 1.0


def _given(query: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if value is not None}


def media_type(path: Path) -> str:
    """The content type of a file to feed, by its suffix.

    Raises:
        BadInput: no such file, or a suffix that no reader knows; the message lists the known ones.
    """
    if not path.is_file():
        raise BadInput(f"{path}: there is no such file")
    try:
        return MEDIA_TYPES[path.suffix.lower()]
    except KeyError:
        raise BadInput(f"{path}: can't tell what it holds; known suffixes are {', '.join(MEDIA_TYPES)}") from None


def chunks(path: Path, progress: Callable[[int], None]) -> Iterator[bytes]:
    """A file's bytes, telling `progress` how many each time."""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
            progress(len(chunk))

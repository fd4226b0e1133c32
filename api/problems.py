"""Every error of the server as one RFC 9457 problem.

1. An error of ours (`SaestreamError`) carries its own status, title and a message that was written for a client.
2. An error of the web framework (no such route, a query parameter of the wrong type) is put into the same form.
3. Redis out of reach is 503 with `Retry-After`: everything in it can be had again a moment later.
4. Anything else is a defect: it is logged with its traceback, and the client reads a sentence that says nothing of it.
"""

from __future__ import annotations

import logging
import re
from http import HTTPStatus
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException, ValidationException
from redis.exceptions import BusyLoadingError, ConnectionError, TimeoutError

from engine.errors import SaestreamError

log = logging.getLogger(__name__)

PROBLEM_JSON = "application/problem+json"
_REDIS_RETRY_SECONDS = 2  # the supervisor restarts its Redis within 0.1 s, and the engine republishes at its next tick


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """RFC 9457, section 3.1. `type` is a stable name to switch on, `detail` a sentence for a person."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[dict[str, str]] = []


def problem(
    request: Request[Any, Any, Any],
    status: int,
    title: str,
    detail: str,
    *,
    retry_after: int | None = None,
    headers: dict[str, str] | None = None,
    errors: list[dict[str, str]] | None = None,
) -> Response[Problem]:
    """Build the response of one problem."""
    body = _problem(request.url.path, status, title, detail, errors)
    sent = {**_headers(retry_after), **(headers or {})}
    return Response(body, status_code=status, headers=sent, media_type=PROBLEM_JSON)


def sendable(error: SaestreamError, path: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an error that no route has raised."""
    body = msgspec.json.encode(_problem(path, error.status, error.title, error.message))
    return error.status, {"Content-Type": PROBLEM_JSON, **_headers(error.retry_after)}, body


def _problem(path: str, status: int, title: str, detail: str, errors: list[dict[str, str]] | None = None) -> Problem:
    name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    return Problem(
        type=f"urn:saestream:problem:{name}", title=title, status=status, detail=detail, instance=path, errors=errors or []
    )


def _headers(retry_after: int | None) -> dict[str, str]:
    return {"Cache-Control": "no-store"} | ({} if retry_after is None else {"Retry-After": str(retry_after)})


def ours(request: Request[Any, Any, Any], error: SaestreamError) -> Response[Problem]:
    """An error with a message for the client, but for those that tell of our own files (status 500)."""
    if error.status == 500:
        return unexpected(request, error)
    if error.status > 500:
        log.warning("%s %s: %s: %s", request.method, request.url.path, error.title, error.message)
    return problem(request, error.status, error.title, error.message, retry_after=error.retry_after)


def redis_away(request: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
    """Redis does not answer, or is still loading."""
    log.warning("%s %s: Redis: %s", request.method, request.url.path, error)
    detail = "the store of the published views does not answer; nothing counted is lost, and it is published again when it is back"
    return problem(request, 503, "Not ready", detail, retry_after=_REDIS_RETRY_SECONDS)


def framework(request: Request[Any, Any, Any], error: HTTPException) -> Response[Problem]:
    """An error that Litestar raised before or instead of a route."""
    path, status = request.url.path, error.status_code
    headers = dict(error.headers or {})
    if isinstance(error, ValidationException):
        return _validation(request, error)
    if isinstance(error, NotFoundException):
        return problem(request, status, "Not found", f"there is no {path} here; /schema lists every route")
    if isinstance(error, MethodNotAllowedException):
        allowed = headers.get("allow") or headers.get("Allow") or "other methods"
        return problem(request, status, "Method not allowed", f"{path} answers {allowed}, not {request.method}", headers=headers)
    if status >= 500:
        return unexpected(request, error)
    return problem(request, status, HTTPStatus(status).phrase, HTTPStatus(status).description or error.detail, headers=headers)


def _validation(request: Request[Any, Any, Any], error: ValidationException) -> Response[Problem]:
    """Parameters that are missing or of the wrong type, each by name with the value that was sent."""
    found = [item for item in error.extra or [] if isinstance(item, dict)] if isinstance(error.extra, list) else []
    errors = [{"parameter": str(item.get("key", "")), "message": str(item.get("message", ""))} for item in found]
    sentences = []
    for item in errors:
        sent = request.query_params.get(item["parameter"]) or request.path_params.get(item["parameter"])
        sentences.append(f"{item['parameter']}: {item['message']}" + (f", got {sent!r}" if sent is not None else ""))
    if not sentences:  # Litestar names a missing parameter in the detail alone, without `extra`
        missing = re.search(r"Missing required (\w+) parameter '?(\w+)'?", error.detail)
        sentences = (
            [f"the {missing[1]} parameter {missing[2]} is missing"] if missing else ["a parameter is missing or of a wrong type"]
        )
    return problem(request, 400, "Bad input", "; ".join(sentences), errors=errors)


def unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
    """A defect of ours: everything goes to the log, nothing of it to the client."""
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem(request, 500, "Internal error", "the server failed on this request; its log says why")


HANDLERS: dict[int | type[Exception], Any] = {
    SaestreamError: ours,
    ConnectionError: redis_away,
    TimeoutError: redis_away,
    BusyLoadingError: redis_away,
    HTTPException: framework,
    Exception: unexpected,
}

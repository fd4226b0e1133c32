"""`GET /`: the page and its files, as they lie in `api/web`: plain HTML, CSS and ES modules, nothing built."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from litestar import Response, Router, get
from litestar.connection import ASGIConnection
from litestar.datastructures import CacheControlHeader
from litestar.exceptions import NotFoundException
from litestar.handlers import BaseRouteHandler
from litestar.static_files import create_static_files_router

from api.parameters import FREE_QUERY

WEB = Path(__file__).parent / "web"

# The page needs only its own files, styles set by script, and images that it draws itself (a view saved as PNG); whatever a corpus
# holds can't load or run anything.
_POLICY = ("default-src 'self'", "img-src 'self' data:", "base-uri 'none'", "form-action 'self'", "frame-ancestors 'none'")
SECURITY_HEADERS = (
    (b"content-security-policy", "; ".join(_POLICY).encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),  # the page's address holds what somebody looks at
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
"""Of every answer, the page's or not: `gate` adds them."""


def html(name: str) -> bytes:
    """One HTML file of the page."""
    return (WEB / name).read_bytes()


@get("/", media_type="text/html", include_in_schema=False, sync_to_thread=False, opt={FREE_QUERY: True})
def page() -> Response[bytes]:
    """The page."""
    return Response(html("index.html"), media_type="text/html", headers={"Cache-Control": "no-cache"})


def web_files() -> Router:
    """`/web/…`: style, scripts and icon."""
    return create_static_files_router(
        path="/web",
        directories=[WEB],
        guards=[_only_our_files],
        include_in_schema=False,
        cache_control=CacheControlHeader(no_cache=True),
    )


def _only_our_files(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Ask the disk for nothing but what is there: some names alone are faults (too long, or with a zero byte)."""
    if str(connection.path_params["file_path"]).lstrip("/") not in _files():
        raise NotFoundException


@cache
def _files() -> frozenset[str]:
    return frozenset(path.relative_to(WEB).as_posix() for path in WEB.rglob("*") if path.is_file())

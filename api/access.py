"""Who gets in: names under which this server may be asked, pages that may ask, and keys.

1. `Host` names this machine, or what the settings allow. A page whose own name is made to lead here (DNS rebinding) gives that
   name.
2. Nothing is written for a page from elsewhere: browsers say where a page is from, and send what it asks for with the key that they
   were given for us.
3. Where there are keys everything needs one, by default; writing needs one that may write. On a port that only this machine reaches
   there may be none.

`gate` asks all three before a route sees the request.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import logging
from urllib.parse import urlsplit

from litestar.datastructures import Headers

from engine.api_keys import FROM_SETTINGS, ApiKey, is_loopback, matching
from engine.errors import DamagedFile, Forbidden, NeedsKey
from engine.settings import Settings

log = logging.getLogger(__name__)

PROBES = ("/livez", "/readyz")
"""For whoever watches the server: no key, no limit, under any name."""
READING = ("GET", "HEAD", "OPTIONS")
READING_BY_POST = ("/v1/graph",)
"""A prompt is too long for an address, and counted nowhere. Whatever else is no `READING` method writes."""


class Access:
    """Answers for one server."""

    def __init__(self, settings: Settings) -> None:
        self._file = settings.api_keys
        self._own = () if settings.api_key is None else (ApiKey(FROM_SETTINGS, "write", settings.api_key, 0.0),)
        self.needs_key = settings.open_port
        """Once it does it always will: whoever removes the last key has not opened the server."""
        self._hosts = {settings.host.lower(), *(host.lower() for host in settings.allowed_hosts)}
        self._any_host = settings.open_port and not settings.allowed_hosts
        self._origins = frozenset(settings.cors_origins)
        self._fault = ""

    def check_host(self, headers: Headers) -> None:
        """Raises Forbidden: the request asks for another server."""
        host = headers.get("host", "")
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        if not (self._any_host or name.lower() in self._hosts or is_loopback(name)):
            raise Forbidden(f"this server is not called {host!r}: ask for it by its address, or allow that name (allowed_hosts)")

    def check_origin(self, method: str, headers: Headers) -> None:
        """Raises Forbidden: a page from elsewhere wants to write."""
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if method in READING or (origin is None and site is None) or self.allows(origin):
            return
        ours = site in ("same-origin", "none") if site else urlsplit(origin or "").netloc.lower() == headers.get("host", "").lower()
        if not ours:
            raise Forbidden(f"a page from {origin or 'elsewhere'} may not write here, unless the settings allow it (cors_origins)")

    def allows(self, origin: str | None) -> bool:
        """Whether pages of this origin may read and write here."""
        return origin in self._origins

    def key_of(self, headers: Headers) -> ApiKey | None:
        """The key that a request brings; None where none is needed.

        Raises:
            NeedsKey: it brings none, or one that is not known here.
        """
        known = self._keys()
        if not self.needs_key:
            return None
        presented = _presented(headers.get("authorization", ""))
        if presented is None:
            raise NeedsKey(
                "this server needs an API key, as `Authorization: Bearer KEY`, or as the password that a browser asks for; whoever "
                "runs it makes one with `saestream keys add`"
            )
        key = matching(known, presented)
        if key is None:
            raise NeedsKey("this server does not know that API key: it was removed, or is of another server")
        return key

    def check_scope(self, key: ApiKey | None, method: str, path: str) -> None:
        """Raises Forbidden: the key may read only."""
        if key is not None and key.scope != "write" and method not in READING and path not in READING_BY_POST:
            raise Forbidden(f"the API key {key.name} may read; {method} {path} needs one that may write")

    def _keys(self) -> tuple[ApiKey, ...]:
        """The keys there are now. A file that can't be read has none, and nobody gets in by it."""
        try:
            kept, fault = self._file.read(), ""
        except (DamagedFile, OSError) as error:
            kept, fault = (), str(error)
            self.needs_key = True
        if fault != self._fault:
            log.error("no key of %s is taken: %s", self._file.path, fault) if fault else log.info("keys are read again")
            self._fault = fault
        self.needs_key = self.needs_key or bool(kept or self._own)
        return (*self._own, *kept)


# How a key is brought, each way in a header of its own: of two in one, Chromium reads the first. It asks its user once, for the
# page, its modules and its event stream.
CHALLENGES = (
    (b"www-authenticate", b'Bearer realm="saestream"'),
    (b"www-authenticate", b'Basic realm="saestream", charset="UTF-8"'),
)


def address_of(client: tuple[str, int] | None) -> str:
    """Who asks, where no key says so: an IPv4 address, or the /64 network of an IPv6 one, of which one machine has all."""
    if client is None:
        return "local"
    try:
        address = ipaddress.ip_address(client[0].partition("%")[0])
    except ValueError:  # a proxy's word for it
        return client[0][:64]
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(getattr(address, "ipv4_mapped", address))


def _presented(authorization: str) -> str | None:
    """The key in an Authorization header: `Bearer KEY`, or `Basic` with it as password (or as name, with an empty password)."""
    scheme, _, value = authorization.strip().partition(" ")
    if scheme.lower() == "bearer":
        return value.strip() or None
    if scheme.lower() != "basic":
        return None
    try:
        name, _, password = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return password or name or None

"""The page in a real browser for the tests: requests to other servers are refused, and what goes wrong is remembered."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Browser, Page, Route, expect

VIEWS = ("/", "/?view=graph", "/?view=feature", "/?view=search", "/?view=compare")


class Sight:
    """A browser page on one server. `wrong` is what nobody wants to see: console errors, exceptions, requests to elsewhere."""

    def __init__(self, browser: Browser, url: str, **context: Any) -> None:
        self.url = url
        self.wrong: list[str] = []
        self.page = browser.new_page(**{"viewport": {"width": 1280, "height": 900}, "accept_downloads": True, **context})
        self.page.on("console", lambda said: self.wrong.append(said.text) if said.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.route(lambda address: not address.startswith((url, "data:", "blob:")), self._refuse)

    def _refuse(self, route: Route) -> None:
        self.wrong.append(f"asked for {route.request.url}")
        route.abort()

    def open(self, path: str = "/") -> Page:
        """Go there and wait until the page is live."""
        self.page.goto(self.url + path)
        expect(self.page.locator("#link")).to_have_text("live")
        return self.page

    def close(self) -> None:
        self.page.close()

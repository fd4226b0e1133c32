"""Every Redis key of a run, in one place: a prefix and a name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys under one prefix. Two engines need two prefixes, or two servers."""

    prefix: str

    @property
    def marker(self) -> str:
        """String: the epoch of the engine that publishes here. Missing after FLUSHALL or in a new server."""
        return f"{self.prefix}marker"

    @property
    def snapshot(self) -> str:
        """String: the pointer, an order-preserving version (`Version.order`) followed by a packed `Snapshot`."""
        return f"{self.prefix}snapshot"

    @property
    def run(self) -> str:
        """String: the packed `RunDescription`."""
        return f"{self.prefix}run"

    @property
    def status(self) -> str:
        """String: the packed `StatusRecord`, rewritten by every heartbeat."""
        return f"{self.prefix}status"

    @property
    def convergence(self) -> str:
        """String: the packed `ConvergenceRecord`."""
        return f"{self.prefix}convergence"

    @property
    def uploads(self) -> str:
        """Hash: upload id → packed `UploadRecord`."""
        return f"{self.prefix}uploads"

    @property
    def events(self) -> str:
        """Stream of packed `Snapshot`s whose entry ids are the snapshots' versions."""
        return f"{self.prefix}events"

    @property
    def requests(self) -> str:
        """List: the queue of live requests from the API to the engine."""
        return f"{self.prefix}requests"

    @property
    def analysis(self) -> str:
        """List: the queue of requests from the API to the analysis worker."""
        return f"{self.prefix}analysis"

    def reply(self, request: str) -> str:
        """List of one element: the answer to a live request, gone after a minute."""
        return f"{self.prefix}reply:{request}"

    def bucket(self, who: str) -> str:
        """Hash of the rate limit: the `tokens` of an API key or an address, and `at` which second; gone when it is full again."""
        return f"{self.prefix}bucket:{who}"

    @property
    def records(self) -> str:
        """What the keys of all records begin with. A record K is two strings, `K:0` and `K:1`: two versions of it, each behind its
        `Version.order`."""
        return f"{self.prefix}record:"

    def layer(self, layer: int) -> str:
        """A `LayerRecord`."""
        return f"{self.records}layer:{layer}"

    def lists(self, layer: int, other: int, block: int) -> str:
        """A block of a layer's lists towards another one (`engine.views.blocks`)."""
        return f"{self.records}lists:{layer}:{other}:{block}"

    def intervals(self, layer: int, other: int, block: int) -> str:
        """A block of a layer's watched pairs with another one."""
        return f"{self.records}intervals:{layer}:{other}:{block}"

    def strengths(self, layer: int, block: int) -> str:
        """A block of a layer's strongest activations and histograms."""
        return f"{self.records}strengths:{layer}:{block}"

    def hidden(self, up: int, down: int, block: int) -> str:
        """A `HiddenRecord`."""
        return f"{self.records}hidden:{up}-{down}:{block}"

    def siblings(self, up: int, down: int) -> str:
        """A layer pair's `SiblingRecord`."""
        return f"{self.records}siblings:{up}:{down}"

    def gates(self, up: int, down: int, block: int) -> str:
        """A `GatesRecord`."""
        return f"{self.records}gates:{up}-{down}:{block}"

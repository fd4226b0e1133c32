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

    def feature(self, layer: int, index: int) -> str:
        """Hash of two versions of a `FeatureRecord`: packed records in `0` and `1`, their `Version.order` in `v0` and `v1`."""
        return f"{self.prefix}feature:{layer}:{index}"

    def hidden(self, up: int, down: int, block: int) -> str:
        """Hash of two versions of a `HiddenRecord`, as of a feature's record."""
        return f"{self.prefix}hidden:{up}-{down}:{block}"

    def siblings(self, up: int, down: int) -> str:
        """Hash of two versions of a layer pair's `SiblingRecord`, as of a feature's."""
        return f"{self.prefix}siblings:{up}:{down}"

    def gates(self, up: int, down: int, block: int) -> str:
        """Hash of two versions of a `GatesRecord`, as of a feature's record."""
        return f"{self.prefix}gates:{up}-{down}:{block}"

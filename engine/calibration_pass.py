"""The calibration pass: drives a `Calibration` over the start of the log, before a run with relative thresholds counts anything.

1. Take the next sealed segment; text is taken in, tokenised and sealed as always.
2. In micro-batches: model and SAEs → sparse batch → maxima.
3. Between them tell how far it is; there is no snapshot and there are no live answers until the counting loop takes over.
4. When it is enough, save the thresholds.

No pair table is needed for that, and none is allocated yet.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from engine.calibration import Calibration, FrozenThresholds
from engine.corpus.ingest import Ingest
from engine.corpus.log import CorpusLog
from engine.corpus.segment import Segment
from engine.counts.ledger import Ledger
from engine.counts.shape import RunShape
from engine.counts.state import State
from engine.encoder.description import RunDescription
from engine.errors import StorageFault
from engine.loop import Encoder
from engine.pace import MicroBatchSize, Rate
from engine.uploads import Uploads
from engine.views.figures import Figures
from engine.views.publisher import Publisher
from engine.views.records import EngineState, LayerStatus, StatusRecord

log = logging.getLogger(__name__)

_IDLE_SECONDS = 0.05  # how long a pass without text waits for the next segment, and with it how long `stop` may take
_BEAT_SECONDS = 0.25  # between reports: the progress is all that there is to see
_FULL_SECONDS = 5.0  # between attempts to save on a full disk


@dataclass
class CalibrationPass:
    """Everything that a calibration needs, wired together by `engine.main`; `path` is where the thresholds go."""

    calibration: Calibration
    path: Path
    encoder: Encoder
    description: RunDescription
    fingerprint: dict[str, str]
    shape: RunShape
    corpus: CorpusLog
    ingest: Ingest
    uploads: Uploads
    publisher: Publisher
    micro_batch: MicroBatchSize
    stop: threading.Event
    rate: Rate = field(default_factory=Rate)
    storage_problem: str | None = None
    _beat_at: float = 0.0

    def run(self) -> FrozenThresholds | None:
        """Calibrate; None when `stop` came first.

        Raises:
            DoesNotFit: the tables that are to follow need more memory than there is.
            Whatever ended the ingest thread.
        """
        State.require_memory(self.shape)
        self.ingest.start()
        try:
            while not self.calibration.done and not self.stop.is_set():
                self.ingest.check()
                self.beat_when_due()
                segment = self.corpus.next_segment(self.calibration.segments, wait=_IDLE_SECONDS)
                if segment is not None:
                    self.look_at(segment)
            frozen = self.freeze() if self.calibration.done else None
            self.beat("calibrating" if frozen else "stopping")
            return frozen
        finally:
            self.ingest.stop()
            self.ingest.join()  # to its very end: another one seals into the same log next

    def look_at(self, segment: Segment) -> None:
        """Take the maxima of one segment; a `stop` in the middle leaves it unfinished, and with it the calibration."""
        for _, encoded in self.micro_batch.encode(self.encoder.encode, segment):
            self.calibration.add(encoded.batch)
            self.rate.add(encoded.batch.tokens)
            self.beat_when_due()
            if self.stop.is_set():
                return
        self.calibration.finish(segment)
        self.ingest.consumed(segment.number)

    def freeze(self) -> FrozenThresholds | None:
        """Save the thresholds; None when `stop` came while the disk was full."""
        frozen = self.calibration.freeze(self.description.threshold.value)
        while not self.stop.is_set():
            try:
                frozen.save(self.path, self.fingerprint)
            except StorageFault as error:
                log.error("the thresholds were not saved: %s", error.message)
                self.storage_problem = error.message
                self.beat("calibrating")
                self.stop.wait(_FULL_SECONDS)
                continue
            log.info("calibrated on %d tokens; counting begins at the first one", frozen.tokens)
            return frozen
        return None

    def beat_when_due(self) -> None:
        if time.monotonic() >= self._beat_at:
            self.beat("calibrating")

    def beat(self, state: EngineState) -> None:
        """Tell how far it is."""
        self.publisher.beat(self.status(state), self.uploads.records(Ledger.zero(self.shape)))
        self._beat_at = time.monotonic() + _BEAT_SECONDS

    def status(self, state: EngineState) -> StatusRecord:
        """How the engine is: nothing is counted yet, so all that has arrived is still to be."""
        queue = self.ingest.queue_tokens + self.corpus.end_position(self.calibration.segments - 1)
        durable = self.corpus.sealed_tokens
        return StatusRecord(
            state=state,
            tokens=0,
            tokens_per_second=self.rate.per_second(),
            queue_tokens=queue,
            layers=[
                LayerStatus(layer=layer.layer, hook=layer.hook, features=layer.features, dead=layer.features)
                for layer in self.description.layers
            ],
            pairs=list(self.shape.pairs),
            checkpoint=None,
            memory_bytes=psutil.Process().memory_info().rss,
            problem=self.storage_problem or self.ingest.problem or self.publisher.problem,
            updated_at=time.time(),
            calibration=self.calibration.status(),
            figures=Figures(tokens_received=queue, tokens_durable=durable, tokens_waiting=durable),
        )

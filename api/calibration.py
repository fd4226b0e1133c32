"""While a run with relative thresholds calibrates there are no statistics: their routes say so, and how long that will be."""

from __future__ import annotations

import math
from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from engine.errors import Calibrating
from engine.settings import Settings
from engine.views.reader import Views
from engine.views.records import StatusRecord

TAG = "statistics"
"""The tag of the routes whose numbers depend on the thresholds."""

_LONGEST = 60  # seconds that a client is told to wait, at most: a small upload may end the calibration any time


class RefuseWhileCalibrating:
    """A guard for all routes, of one API process."""

    def __init__(self, views: Views, settings: Settings) -> None:
        self._views = views
        self._over = settings.threshold.kind == "absolute"  # a calibration that has ended stays so: nobody is asked again

    async def __call__(self, connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        """Let a request pass unless it asks for statistics that can't be counted yet.

        Raises:
            Calibrating: it does.
        """
        if self._over or TAG not in (getattr(handler, "tags", None) or ()):
            return
        status = await self._views.status()
        if status is not None and status.state == "calibrating":
            raise refusal(status)
        self._over = status is not None and status.calibration is not None and status.calibration.done


def refusal(status: StatusRecord) -> Calibrating:
    """The error of a run that is calibrating."""
    assert status.calibration is not None, "a run that is calibrating says how far it is"
    seen, wanted = status.calibration.tokens, status.calibration.calibration_tokens
    needed = max(0, wanted - seen)
    seconds = math.ceil(needed / status.tokens_per_second) if status.tokens_per_second else Calibrating.retry_after
    return Calibrating(
        f"the run is calibrating: its thresholds are relative to each feature's maximum over the first {wanted:,} tokens (or the "
        f"first upload, if that ends earlier); {seen:,} were seen, {needed:,} are still needed, and then counting begins",
        retry_after=min(_LONGEST, max(1, seconds or 1)),
    )

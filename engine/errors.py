"""Every error that a user of saestream can meet, in one hierarchy.

A message is written for the person who reads it: it names the thing, the value that was wrong and what would be right. The
API turns each class into an RFC 9457 problem by `status` and `title`; the command line prints the message. Anything that is not a
`SaestreamError` is a defect of ours, and its text never reaches a client.
"""


class SaestreamError(Exception):
    """Base of all errors with a message for the user; `status` is the HTTP status that the API answers with."""

    status = 500
    title = "Internal error"
    retry_after: int | None = None

    def __init__(self, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        if retry_after is not None:
            self.retry_after = retry_after


class BadInput(SaestreamError):
    """A request, file or option whose content is wrong."""

    status = 400
    title = "Bad input"


class BadValue(BadInput):
    """A well-formed request with a value out of range (k = 0, an unknown measure)."""

    status = 422
    title = "Value out of range"


class NeedsKey(SaestreamError):
    """A request without an API key, or with one that this server does not know."""

    status = 401
    title = "API key needed"


class Forbidden(SaestreamError):
    """A request that its key does not allow, or that a page from elsewhere has sent."""

    status = 403
    title = "Not allowed"


class TooSlow(SaestreamError):
    """A body that arrives at next to nothing a second."""

    status = 408
    title = "Too slow"


class Unknown(SaestreamError):
    """A layer, feature, upload or corpus that this run does not have."""

    status = 404
    title = "Not found"


class Conflict(SaestreamError):
    """The request contradicts something already stored (an idempotency key used for other content)."""

    status = 409
    title = "Conflict"


class Busy(Conflict):
    """The same idempotency key is still arriving on another connection."""

    title = "Upload still arriving"
    retry_after = 1


class Calibrating(Conflict):
    """Statistics were asked for before the thresholds are known that they are counted with."""

    title = "Calibrating"
    retry_after = 5


class Gone(SaestreamError):
    """A page of a list that is not kept any more."""

    status = 410
    title = "Gone"


class TooLarge(SaestreamError):
    """A document or body over its limit."""

    status = 413
    title = "Too large"


class UnsupportedMedia(SaestreamError):
    """A content type that the route does not read."""

    status = 415
    title = "Unsupported content type"


class TooMany(SaestreamError):
    """Too many requests of a kind wait already; nothing is wrong with this one."""

    status = 429
    title = "Too many requests"
    retry_after = 1


class NotReady(SaestreamError):
    """The engine has not published what the request needs yet (it is starting, or Redis is away)."""

    status = 503
    title = "Not ready"
    retry_after = 2


class StorageFault(SaestreamError):
    """The disk under the data directory can't be written to; nothing already stored is lost."""

    status = 507
    title = "Storage fault"
    retry_after = 30


class StorageFull(StorageFault):
    """It is full."""

    title = "Storage full"


class DamagedFile(SaestreamError):
    """A file of ours whose magic or checksum is not what it must be."""

    title = "Damaged file"


class UnknownVersion(DamagedFile):
    """A whole file of ours whose format this program does not know: one that was written by another version of it."""

    title = "Unknown format version"


class DroppedSegment(DamagedFile):
    """A segment of the corpus log of which retention has left the header alone."""


class DoesNotFit(SaestreamError):
    """Model, SAEs, tokenizer and settings that can't work together, or tables larger than the memory."""

    title = "Configuration does not fit"


class OtherRun(SaestreamError):
    """The data directory was written by a run with another model, other SAEs or other settings."""

    status = 409
    title = "Data directory of another run"


class AlreadyRunning(SaestreamError):
    """Another engine holds the data directory, or another server the port."""

    status = 409
    title = "Already running"


class NoRedis(SaestreamError):
    """No redis-server could be found or reached."""

    status = 503
    title = "No Redis"

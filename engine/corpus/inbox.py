"""The inbox: where the API lays down what arrives, and where the engine finds it.

    inbox/uploads/<id>/manifest, body    taken: whole, synced, acknowledged
    inbox/incoming/<random>/body         arriving, or left by a crash
    inbox/keys/<hash>                    held (flock) while a body with that idempotency key is arriving
    inbox/writer.lock, commit.lock

1. `receive` opens a folder under incoming/ and claims the idempotency key.
2. `write` appends to the body there, hashes it, and runs the check over it.
3. `commit` ends the check, syncs the body, writes the manifest beside it, and renames the folder into uploads/: the upload exists
   from that rename on. The id is made there, under a lock: ids sort by arrival, and none ever appears below one already seen.

A crash before the rename leaves nothing but a folder in incoming/, which the next writer deletes. Duplicates are recognised by the
sender's key and never by content: identical text is counted as often as it is sent.

What is synced, and why in that order: body and manifest, their names in the folder, then the rename, then uploads/; the answer
comes last. A power cut before the last sync may take the upload back, but nobody was told of it. Nobody else acts on it before that
either: whoever finds an upload (the engine, which will count it; the API, which answers a repeated key) syncs uploads/ first, for
its writer may have been killed between rename and sync. Otherwise a segment could outlive the upload that it was made of, and the
client, who sends again what was not acknowledged, would be counted twice.

The manifest holds the sha256 of the body: a body that was damaged since is not counted.
"""

from __future__ import annotations

import bisect
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from engine import durable
from engine.corpus.body import BodyCheck
from engine.corpus.manifest import ID_LENGTH, Manifest, Route, next_id, read_manifest, write_manifest
from engine.corpus.quota import Quota
from engine.errors import BadInput, Busy, Conflict, DamagedFile

CORPUS_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SETTLED_SECONDS = 0.1  # a folder's mtime moves in ticks of up to 10 ms: a younger one may hide a second change in its tick
_HASHED = 1 << 20  # bytes of a body that are hashed at a time


class _Claim(NamedTuple):
    """An idempotency key that is arriving: a file under keys/ and the descriptor that holds its flock."""

    path: Path
    descriptor: int

    def release(self) -> None:
        self.path.unlink(missing_ok=True)  # while it is held: whoever opened it before finds another inode and tries again
        os.close(self.descriptor)


class Inbox:
    """Uploads under `root`. The API process receives, the engine reads; both through an object of this class, from any thread."""

    def __init__(self, root: Path, quota: Quota | None = None) -> None:
        """The quota is for who receives."""
        self.root = root
        self.quota = quota
        self._uploads, self._incoming, self._keys = root / "uploads", root / "incoming", root / "keys"
        for folder in (root, self._uploads, self._incoming, self._keys):
            durable.make_folders(folder)
        self._lock = threading.Lock()
        self._manifests: list[Manifest] = []
        self._by_id: dict[str, Manifest] = {}
        self._by_key: dict[tuple[str, str], Manifest] = {}
        self._seen_mtime, self._seen_at, self._listed_at = -1, 0.0, 0.0  # the last two: of the monotonic clock, which never jumps
        self._writer: int | None = None

    # reading

    def manifests(self, after: str = "") -> list[Manifest]:
        """The uploads that arrived after the one with id `after`, in order of arrival. Costs one `stat` when nothing is new."""
        with self._lock:
            self._refresh()
            return self._manifests[bisect.bisect_right(self._manifests, after, key=lambda manifest: manifest.id) :]

    def get(self, upload_id: str) -> Manifest | None:
        with self._lock:
            if upload_id not in self._by_id:
                self._refresh()
            return self._by_id.get(upload_id)

    def body(self, upload_id: str) -> Path:
        """Where the body of an acknowledged upload lies."""
        return self._uploads / upload_id / "body"

    def sync(self) -> None:
        """All uploads that were found stay found, also after a power cut. Raises StorageFault."""
        try:
            durable.disk.sync_folder(self._uploads)
        except OSError as error:
            raise durable.storage_error(error, self._uploads) from error

    def check_body(self, manifest: Manifest) -> None:
        """Read the body of an upload once, for its hash (1.3 GB/s).

        Raises:
            DamagedFile: it is not the body that was acknowledged. OSError: the disk's fault.
        """
        path, found = self.body(manifest.id), hashlib.sha256()
        with open(path, "rb") as file:
            while chunk := file.read(_HASHED):
                found.update(chunk)
        if found.hexdigest() != manifest.sha256:
            raise DamagedFile(
                f"the body of upload {manifest.id} is damaged: sha256 {found.hexdigest()[:12]}…, {manifest.sha256[:12]}… arrived"
            )

    def drop_body(self, upload_id: str) -> int:
        """Forget the body of an upload that is in the log, whole; its manifest, and with that its key, stay. Returns bytes."""
        body = self.body(upload_id)
        size = body.stat().st_size if body.exists() else 0
        body.unlink(missing_ok=True)
        return size

    # writing

    def receive(self, corpus: str, media_type: str, route: Route, key: str | None, check: BodyCheck) -> Receiving:
        """Begin to take a body; use it as a context: what is not committed at its end is gone.

        Raises:
            BadInput: a corpus name that is not 1–64 of letters, digits, dot, dash, underscore, or an empty or endless key.
            Busy: a body with this key is arriving right now.
            Conflict: this key was used for another corpus or content type on this route (other content is found at `commit`).
            StorageFault: the disk fails or is full, or what this run may have of it is.
        """
        if not CORPUS_NAME.fullmatch(corpus):
            raise BadInput(f"corpus name {corpus!r}: it must be 1 to 64 letters, digits, dots, dashes or underscores")
        if key is not None and not 1 <= len(key) <= 255:
            raise BadInput(f"an idempotency key has 1 to 255 characters, this one has {len(key)}")
        if self.quota is not None:
            self.quota.take(0)
        try:
            self._become_writer()
            claim = None if key is None else self._claim(route, key)
        except OSError as error:
            raise durable.storage_error(error, self._keys) from error
        try:
            with self._lock:
                self._refresh()
                known = None if key is None else self._by_key.get((route, key))
            if known is not None and (known.corpus, known.media_type) != (corpus, media_type):
                raise Conflict(
                    f"idempotency key {key!r} belongs to upload {known.id}: {known.media_type} for corpus {known.corpus!r}; "
                    f"this is {media_type} for corpus {corpus!r}"
                )
            return Receiving(self, corpus, media_type, route, key, check, known, claim)
        except BaseException:
            if claim is not None:
                claim.release()
            raise

    def _refresh(self) -> None:
        """Read the manifests that are new. Called with the lock held."""
        mtime, now = os.stat(self._uploads).st_mtime_ns, time.monotonic()
        if mtime != self._seen_mtime:
            self._seen_mtime, self._seen_at = mtime, now
        elif self._listed_at >= self._seen_at + _SETTLED_SECONDS:
            return
        names = [entry.name for entry in os.scandir(self._uploads) if len(entry.name) == ID_LENGTH]
        for upload_id in sorted(name for name in names if name not in self._by_id):
            self._add(read_manifest(self._uploads / upload_id))
        self._listed_at = now

    def _add(self, manifest: Manifest) -> None:
        self._by_id[manifest.id] = manifest
        bisect.insort(self._manifests, manifest, key=lambda manifest: manifest.id)
        if manifest.key is not None:
            self._by_key[manifest.route, manifest.key] = manifest

    def _become_writer(self) -> None:
        """Writers share a lock for as long as they live; whoever finds himself alone first clears what a crash has left."""
        with self._lock:
            if self._writer is not None:
                return
            lock = os.open(self.root / "writer.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass  # another writer lives: what lies in incoming/ may be his
            else:
                for left in self._incoming.iterdir():
                    shutil.rmtree(left)
                for left in self._keys.iterdir():
                    left.unlink()
            fcntl.flock(lock, fcntl.LOCK_SH)
            self._writer = lock

    def close(self) -> None:
        """Give the writer's lock back (it also goes with the process)."""
        with self._lock:
            if self._writer is not None:
                os.close(self._writer)
                self._writer = None

    def _claim(self, route: Route, key: str) -> _Claim:
        path = self._keys / hashlib.sha256(f"{route}\0{key}".encode("utf-8", "surrogatepass")).hexdigest()
        while True:
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
                    return _Claim(path, descriptor)
            except BlockingIOError:
                os.close(descriptor)
                raise Busy(f"a body with idempotency key {key!r} is still arriving; ask again when it has") from None
            except FileNotFoundError:
                pass  # its last holder deleted the file between our open and our flock
            os.close(descriptor)

    @contextmanager
    def _committing(self) -> Iterator[str]:
        """Yield the next id, with every other commit kept out until its folder is in its place."""
        with self._lock, open(self.root / "commit.lock", "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._refresh()
            yield next_id(self._manifests[-1].id if self._manifests else "")


class Receiving:
    """A body on its way in. `commit` answers for it; leaving the context without that is `abort`."""

    def __init__(
        self,
        inbox: Inbox,
        corpus: str,
        media_type: str,
        route: Route,
        key: str | None,
        check: BodyCheck,
        known: Manifest | None,
        claim: _Claim | None,
    ) -> None:
        self._inbox, self._corpus, self._media_type, self._key = inbox, corpus, media_type, key
        self._route: Route = route
        self._check, self._known, self._claim = check, known, claim
        self._hash, self.bytes = hashlib.sha256(), 0
        self.repeated = known is not None
        """The key is known: the body is compared, not stored."""
        self._folder: Path | None = None
        self._body: durable.PendingFile | None = None
        if known is None:
            folder = inbox._incoming / secrets.token_hex(8)
            try:
                durable.disk.make_folder(folder)
            except OSError as error:
                raise durable.storage_error(error, folder) from error
            self._folder = folder
            try:
                self._body = durable.PendingFile(folder / "body")
            except BaseException:
                self._remove_folder()
                raise

    def write(self, chunk: bytes) -> None:
        """Take the next bytes. Raises BadInput, TooLarge (the check) or StorageFault; nothing of the upload is left then."""
        self._hash.update(chunk)
        self.bytes += len(chunk)
        if self._body is None:
            return
        try:
            self._check.feed(chunk)
            if self._inbox.quota is not None:
                self._inbox.quota.take(len(chunk))
            self._body.write(chunk)
        except BaseException:
            self.abort()
            raise

    def commit(self) -> Manifest:
        """Take the upload: it is durable when this returns. Blocks for the disk: call it from a thread.

        Returns:
            its manifest; the existing one if the same key came with the same content before (`repeated`).

        Raises:
            Conflict: the key was used for other content.
            BadInput, TooLarge, StorageFault: as `write`.
        """
        try:
            if self._known is not None:
                self._inbox.sync()
                return self._same_as_before(self._known)
            assert self._folder is not None and self._body is not None, "already committed or aborted"
            self._body.commit()
            documents = self._check.finish(self._folder / "body")
            with self._inbox._committing() as upload_id:
                manifest = Manifest(
                    id=upload_id,
                    route=self._route,
                    corpus=self._corpus,
                    key=self._key,
                    sha256=self._hash.hexdigest(),
                    media_type=self._media_type,
                    bytes=self.bytes,
                    documents=documents,
                    received_at=time.time(),
                )
                write_manifest(self._folder, manifest)
                self._move_to(self._inbox._uploads / upload_id)
                self._inbox._add(manifest)
            return manifest
        finally:
            self.abort()

    def abort(self) -> None:
        """Forget the body; after `commit` this does nothing."""
        if self._body is not None:
            self._body.abort()
            self._body = None
        self._remove_folder()
        if self._claim is not None:
            self._claim.release()
            self._claim = None

    def _same_as_before(self, known: Manifest) -> Manifest:
        if known.sha256 != self._hash.hexdigest():
            raise Conflict(
                f"idempotency key {known.key!r} belongs to upload {known.id} with other content "
                f"({known.bytes:,} bytes, sha256 {known.sha256[:12]}…; these are {self.bytes:,}, {self._hash.hexdigest()[:12]}…)"
            )
        return known

    def _move_to(self, target: Path) -> None:
        assert self._folder is not None
        try:
            durable.disk.rename(self._folder, target)
            self._folder = None
            durable.disk.sync_folder(target.parent)
        except OSError as error:
            raise durable.storage_error(error, target) from error

    def _remove_folder(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def __enter__(self) -> Receiving:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

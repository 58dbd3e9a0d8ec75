"""The model store: which version answers for a model, loaded, verified and kept in memory.

The registry's serving item is read at most once per refresh interval and model; on the warm path
between two reads neither the registry nor S3 is touched. A version's artifact and signature are
downloaded once, checked against their registered SHA-256, and kept until memory is short: the
least recently used version goes first, so a rollback to a version still in memory loads nothing.

A version that cannot be loaded leaves the last good one answering and is tried again at the next
refresh. One thread loads while the others keep answering from what they have.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime

from millrace import onnx_session
from millrace.aws.s3 import ObjectStore
from millrace.documents import read_signature
from millrace.errors import (
    ArtifactError,
    FinalError,
    MillraceError,
    NotFoundError,
    RetryableError,
    ThrottledError,
)
from millrace.registry.records import ServingRecord
from millrace.serving import telemetry
from millrace.serving.codec import DEFAULT_LIMITS, Batch, Limits, SignatureCodec
from millrace.signature import Signature

type _Key = tuple[str, int, str, str]

MAX_ABSENT: Final = 1_000
"""Names of unknown models remembered; the oldest is forgotten first."""
MAX_LOOKUPS_PER_INTERVAL: Final = 200
"""Names looked up in the registry for the first time, per refresh interval: a caller who invents
names reaches the table no faster."""


class ServingSource(Protocol):
    """Tells what to serve: the registry, or a bundle on disk."""

    def get_serving(self, model: str) -> ServingRecord:
        """The version that answers for a model.

        Raises:
            NotFoundError: There is no such model.
            NoChampionError: The model has no champion.
        """
        ...


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """One model version in memory.

    Attributes:
        record: What the registry says of it.
        signature: What it takes and gives.
        codec: Reads requests and writes answers.
        session: The model.
        size: Bytes of its artifact, the measure of the cache.
    """

    record: ServingRecord
    signature: Signature
    codec: SignatureCodec
    session: onnxruntime.InferenceSession
    size: int

    @property
    def version(self) -> int:
        """The model version."""
        return self.record.version

    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Probabilities [rows, classes], or predictions [rows] of a regression."""
        return onnx_session.predict(self.session, self.signature, batch.numeric, batch.categorical)


@dataclass(slots=True)
class _Entry:
    """What is known of one model name."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    current: LoadedModel | None = None
    failure: FinalError | None = None
    """Why there is nothing to serve; given again until the next refresh."""
    due: float = float("-inf")
    """When the registry is to be asked again."""


class ModelStore:
    """Gives the loaded champion of a model.

    Args:
        source: Tells what to serve.
        objects: Reads artifacts.
        bucket: The artifact bucket.
        refresh_seconds: How long an answer of the source holds.
        clock: Monotonic seconds.
        limits: How much one request may carry.
        capacity_bytes: Artifact bytes kept in memory; one model is kept whatever its size.
    """

    def __init__(
        self,
        source: ServingSource,
        objects: ObjectStore,
        bucket: str,
        *,
        refresh_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        limits: Limits = DEFAULT_LIMITS,
        capacity_bytes: int = 256 * 2**20,
    ) -> None:
        self._source = source
        self._objects = objects
        self._bucket = bucket
        self._refresh_seconds = refresh_seconds
        self._clock = clock
        self._limits = limits
        self._capacity = capacity_bytes
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}
        self._absent: OrderedDict[str, _Entry] = OrderedDict()
        self._loaded: OrderedDict[_Key, LoadedModel] = OrderedDict()
        self._window_ends = float("-inf")
        self._lookups = 0

    def get(self, model: str) -> LoadedModel:
        """The version that answers for a model now.

        Raises:
            NotFoundError: There is no such model.
            NoChampionError: The model has no champion.
            ArtifactError: The champion cannot be loaded, and no earlier version is in memory.
            RetryableError: The registry or S3 cannot be reached, and nothing is in memory.
        """
        entry = self._entries.get(model) or self._entry(model)
        current = entry.current
        if current is not None:
            if self._clock() < entry.due:
                return current
            # Whoever has something to answer with does not wait for the thread that refreshes.
            if not entry.lock.acquire(blocking=False):
                return current
        else:
            entry.lock.acquire()
        try:
            if self._clock() >= entry.due:
                self._refresh(model, entry)
            if entry.current is not None:
                return entry.current
            raise entry.failure or ThrottledError(f"model {model} is being loaded")
        finally:
            entry.lock.release()

    def _entry(self, model: str) -> _Entry:
        with self._lock:
            known = self._entries.get(model) or self._absent.get(model)
            if known is not None:
                return known
            now = self._clock()
            if now >= self._window_ends:
                self._window_ends = now + self._refresh_seconds
                self._lookups = 0
            self._lookups += 1
            if self._lookups > MAX_LOOKUPS_PER_INTERVAL:
                raise ThrottledError("too many models were asked for that are not known here")
            entry = self._absent[model] = _Entry()
            while len(self._absent) > MAX_ABSENT:
                self._absent.popitem(last=False)
            return entry

    def _refresh(self, model: str, entry: _Entry) -> None:
        """Asks the source and loads what it names; the entry's lock is held."""
        try:
            record = self._source.get_serving(model)
        except NotFoundError as exc:
            entry.current, entry.failure = None, exc
            self._forget(model, entry)
        except RetryableError as exc:
            if entry.current is None:
                raise
            telemetry.note_stale(model=model, version=entry.current.version, error=exc)
        else:
            self._adopt(model, entry, record)
        entry.due = self._clock() + self._refresh_seconds

    def _adopt(self, model: str, entry: _Entry, record: ServingRecord) -> None:
        current = entry.current
        if current is not None and _key(current.record) == _key(record):
            self._keep(current)
            return
        try:
            entry.current = self._load(record)
            entry.failure = None
        except MillraceError as exc:
            telemetry.note_load_failure(
                model=record.model,
                version=record.version,
                error=exc,
                still_serving=None if current is None else current.version,
            )
            if current is None:
                if isinstance(exc, FinalError):
                    entry.failure = exc
                else:
                    raise
        with self._lock:
            self._absent.pop(model, None)
            self._entries[model] = entry

    def _forget(self, model: str, entry: _Entry) -> None:
        with self._lock:
            self._entries.pop(model, None)
            self._absent[model] = entry
            self._absent.move_to_end(model)

    # ── Loading ─────────────────────────────────────────────────────────────────────────────────

    def _load(self, record: ServingRecord) -> LoadedModel:
        key = _key(record)
        with self._lock:
            kept = self._loaded.get(key)
            if kept is not None:
                self._loaded.move_to_end(key)
                return kept
        started = time.perf_counter()
        what = f"{record.model}@{record.version}"
        try:
            signature = read_signature(
                self._objects, self._bucket, record.signature_key, record.signature_sha256, what
            )
            body = self._objects.read(self._bucket, record.model_key)
        except NotFoundError as exc:
            raise ArtifactError(f"{what}: a registered object does not exist: {exc}") from exc
        if signature.model != record.model:
            raise ArtifactError(
                f"signature of {what}: expected model {record.model}, got {signature.model}"
            )
        session = onnx_session.load_session(body, record.sha256, what)
        loaded = LoadedModel(
            record=record,
            signature=signature,
            codec=SignatureCodec(signature, self._limits),
            session=session,
            size=len(body),
        )
        self._keep(loaded)
        telemetry.note_load(
            model=record.model,
            version=record.version,
            size=len(body),
            seconds=time.perf_counter() - started,
        )
        return loaded

    def _keep(self, loaded: LoadedModel) -> None:
        """Marks a version as just used, and lets go of those unused for longest."""
        key = _key(loaded.record)
        with self._lock:
            self._loaded[key] = loaded
            self._loaded.move_to_end(key)
            total = sum(m.size for m in self._loaded.values())
            while total > self._capacity and len(self._loaded) > 1:
                _, evicted = self._loaded.popitem(last=False)
                total -= evicted.size
                entry = self._entries.get(evicted.record.model)
                if entry is not None and entry.current is evicted:
                    entry.current, entry.due = None, float("-inf")


def _key(record: ServingRecord) -> _Key:
    return record.model, record.version, record.sha256, record.signature_sha256

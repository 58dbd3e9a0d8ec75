"""The model store: which version answers for a model, loaded, verified and kept in memory.

**Freshness.** What the registry said holds for the refresh interval and no longer: an answer comes
from a version that was champion within it. Between two readings the warm path touches neither the
registry nor S3. In the last third of the interval the first request starts a reading on a thread
and is answered at once from what is there; what the reading found, a newly loaded version perhaps,
is taken by the next request that finds it ready. Only a request that comes when the interval is
over waits: because nobody asked in its last third, or the load takes longer than that. A frozen
environment (Lambda runs nothing between two requests) changes nothing: a reading is as old as its
beginning, so one that slept too long is done again.

**One load.** Any number of requests for a version that is not in memory cause one load, and one
model is loaded at a time, which bounds the memory that loading takes.

**Memory.** A version counts with what it takes in memory, a multiple of its file (`footprint`).
When memory is short the version that answered least recently goes first: one hot model among
hundreds is never loaded twice, and a rollback to a version still in memory loads nothing.

**Rollouts.** The challenger of a rollout is loaded behind the answers too, and answers its share
(`routing`) from then on; until then, and when it cannot be loaded, the champion answers for it.

**Failure.** A version that cannot be loaded, or a registry that cannot be reached, leaves the last
good version answering; the former counts for an alarm. Both are tried again at the next refresh.
"""

import ctypes
import itertools
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

from millrace.attestation import Attestation
from millrace.aws.objects import ObjectReader
from millrace.errors import (
    ArtifactError,
    ConflictError,
    FinalError,
    MillraceError,
    NotFoundError,
    ServiceUnavailableError,
    ThrottledError,
)
from millrace.registry.serving import Offer, RolloutRoute, ServingRecord
from millrace.serving import telemetry
from millrace.serving.codec import DEFAULT_LIMITS, Limits, SignatureCodec
from millrace.serving.features import Batch
from millrace.serving.identity import Role
from millrace.serving.model import Model, load_model
from millrace.serving.routing import Chosen, alone, shared
from millrace.signature import Signature
from millrace.signature_file import read_signature

type _Name = tuple[str, int | None]
type _Key = tuple[str, int, str, str]
type State = Literal["READY", "UNAVAILABLE"]

MAX_ABSENT: Final = 1_000
"""Names of unknown models and versions remembered; the oldest is forgotten first."""
MAX_LOOKUPS_PER_INTERVAL: Final = 200
"""Names looked up in the registry for the first time, per refresh interval: a caller who invents
names reaches the table no faster."""
AHEAD: Final = 1 / 3
"""The last part of the refresh interval, in which the registry is read behind the answer."""
PATIENCE_SECONDS: Final = 10.0
"""How long a request waits for a load that another one began; API Gateway gives up after 29."""


class ServingSource(Protocol):
    """Tells what to serve: the registry, or a bundle on disk."""

    def get_serving(self, model: str, version: int | None = None) -> ServingRecord:
        """A version that may answer: the champion, or the one that is named.

        Raises:
            NotFoundError: There is no such model or version.
            NoChampionError: The model has no champion.
            ConflictError: The version may not answer: it has not passed its gates.
        """
        ...

    def list_serving(self) -> Sequence[Offer]:
        """Every registered model, by name."""
        ...


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """One model version in memory.

    Attributes:
        record: What the registry says of it.
        signature: What it takes and gives.
        codec: Reads requests and writes answers.
        model: Gives answers.
        size: Bytes of its artifact.
    """

    record: ServingRecord
    signature: Signature
    codec: SignatureCodec
    model: Model
    size: int

    @property
    def version(self) -> int:
        """The model version."""
        return self.record.version

    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Probabilities [rows, classes], or predictions [rows] of a regression."""
        return self.model.run(batch)


@dataclass(frozen=True, slots=True)
class ModelState:
    """One line of the repository index.

    Attributes:
        name: The model.
        version: Its champion, None when it has none.
        state: Whether it can answer, as far as is known without loading it.
        reason: Why not.
    """

    name: str
    version: int | None
    state: State
    reason: str = ""


@dataclass(slots=True)
class _Resident:
    """A version in the cache."""

    model: LoadedModel
    cost: int
    """Bytes it takes in memory."""
    used: int
    """When it last answered, in ticks of the store."""


@dataclass(slots=True)
class _Reading:
    """One question to the registry, with the load that it may lead to."""

    begun: float
    behind: bool
    """On a thread, while the last version answers."""
    done: threading.Event = field(default_factory=threading.Event)
    record: ServingRecord | None = None
    resident: _Resident | None = None
    load_seconds: float | None = None
    """How long the load took, if there was one."""
    error: Exception | None = field(default_factory=lambda: ServiceUnavailableError("interrupted"))


@dataclass(slots=True)
class _Entry:
    """What is known of a model's champion, or of one version."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    resident: _Resident | None = None
    failure: FinalError | None = None
    """Why there is nothing to serve; given again until the next refresh."""
    checked: float = float("-inf")
    """When the registry was asked for what is known here."""
    ahead: float = float("-inf")
    """When it is to be asked again, behind the answer."""
    reading: _Reading | None = None
    record: ServingRecord | None = None
    """What the registry said last, and was adopted: a version's own record may be another entry's."""
    challenger: _Resident | None = None
    """The version that a rollout brings, once it is in memory."""
    loading: bool = False
    """Whether a thread is about it."""


class ModelStore:
    """Gives the loaded version that answers for a model.

    Args:
        source: Tells what to serve.
        objects: Reads artifacts.
        bucket: The artifact bucket.
        refresh_seconds: How long an answer of the source holds.
        clock: Seconds that never go back; see `unfrozen_clock`.
        limits: How much one request may carry.
        capacity_bytes: Memory for loaded models (`capacity_of`); one is kept whatever its size.
        patience_seconds: How long a request waits for a load that another one began.
        attestation: Checks who signed a version before it is loaded; none where nobody need have.
        chance: A number from 0 to below 1, for requests of a rollout that name no entity.
    """

    def __init__(
        self,
        source: ServingSource,
        objects: ObjectReader,
        bucket: str,
        *,
        refresh_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        limits: Limits = DEFAULT_LIMITS,
        capacity_bytes: int = 256 * 2**20,
        patience_seconds: float = PATIENCE_SECONDS,
        attestation: Attestation | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._source = source
        self._objects = objects
        self._bucket = bucket
        self._refresh_seconds = refresh_seconds
        self._clock = clock
        self._limits = limits
        self._capacity = capacity_bytes
        self._patience = patience_seconds
        self._attestation = attestation
        self._chance = chance
        self._lock = threading.Lock()
        self._one_load = threading.Lock()
        self._ticks = itertools.count(1)
        self._entries: dict[_Name, _Entry] = {}
        self._absent: OrderedDict[_Name, _Entry] = OrderedDict()
        self._loaded: dict[_Key, _Resident] = {}
        self._untrimmed = False
        self._window_ends = float("-inf")
        self._lookups = 0
        self._offers: Sequence[Offer] = ()
        self._offers_due = float("-inf")

    def get(self, model: str, version: int | None = None) -> LoadedModel:
        """The version that answers now.

        Args:
            model: The model.
            version: A version that may answer; without one, the champion.

        Raises:
            NotFoundError: There is no such model or version.
            NoChampionError: The model has no champion.
            ConflictError: The version has not passed its gates, or was rejected.
            ArtifactError: It cannot be loaded, and no earlier version is in memory.
            RetryableError: The registry or S3 cannot be reached, and nothing is in memory.
        """
        name = (model, version)
        entry = self._entries.get(name) or self._entry(name)
        resident = entry.resident
        if resident is not None and self._clock() < entry.ahead:
            resident.used = next(self._ticks)
            return resident.model
        return self._renewed(name, entry)

    def choose(self, model: str, version: int | None = None, entity: bytes | None = None) -> Chosen:
        """What answers one request now: the champion, a rollout's challenger, or what is named.

        Args:
            model: The model.
            version: A version that may answer, whatever is rolled out.
            entity: The caller's key, by which a rollout divides.

        Raises:
            MillraceError: As `get`.
        """
        loaded = self.get(model, version)
        if version is not None:
            return alone(loaded, version)
        entry = self._entries.get((model, None))
        record = None if entry is None else entry.record
        if entry is None or record is None or record.version != loaded.version:
            return alone(loaded)
        route = record.rollout
        if route is None:
            role = Role.CHAMPION if record.sequence else Role.UNREGISTERED
            return Chosen(loaded, role, record.sequence)
        resident = entry.challenger
        challenger: LoadedModel | None = None
        if resident is not None and resident.model.record.sha256 == route.sha256:
            resident.used = next(self._ticks)
            challenger = resident.model
        return shared(loaded, challenger, route, record.sequence, entity, self._chance)

    def is_ready(self, model: str, version: int | None = None) -> bool:
        """Whether a version can answer now; loads it if it is not in memory.

        Raises:
            NotFoundError: There is no such model or version.
            RetryableError: The registry cannot be reached, and nothing is in memory.
        """
        try:
            self.get(model, version)
        except (ArtifactError, ConflictError):
            return False
        return True

    def models(self) -> tuple[ModelState, ...]:
        """Every registered model by name, as the registry knew it within the refresh interval.

        Raises:
            RetryableError: The registry cannot be reached, and was not reached before.
        """
        now = self._clock()
        if now >= self._offers_due:
            self._offers = self._source.list_serving()
            self._offers_due = now + self._refresh_seconds
        return tuple(self._state_of(offer) for offer in self._offers)

    def preload(self) -> int:
        """Loads the champions that fit into memory, before the first request.

        A registry that cannot be reached only costs the head start: the first request asks again.

        Returns:
            How many are in memory.
        """
        try:
            states = self.models()
        except MillraceError as exc:
            telemetry.note_not_preloaded(model="", error=exc)
            states = ()
        for state in states:
            if state.version is None:
                continue
            if sum(r.cost for r in self._loaded.values()) >= self._capacity:
                break
            try:
                self.get(state.name)
            except MillraceError as exc:
                telemetry.note_not_preloaded(model=state.name, error=exc)
        return len(self._loaded)

    def expire(self) -> None:
        """Lets nothing that the registry said hold any longer; what is loaded stays.

        For an environment restored from a snapshot: days may have passed that no clock here saw.
        """
        with self._lock:
            entries = [*self._entries.values(), *self._absent.values()]
            self._offers_due = self._window_ends = float("-inf")
        for entry in entries:
            with entry.lock:
                entry.ahead = entry.checked = float("-inf")
                entry.reading = None

    def _state_of(self, offer: Offer) -> ModelState:
        if offer.version is None:
            return ModelState(offer.model, None, "UNAVAILABLE", "it has no champion")
        entry = self._entries.get((offer.model, None))
        failure = None if entry is None or entry.resident is not None else entry.failure
        if failure is not None:
            return ModelState(offer.model, offer.version, "UNAVAILABLE", type(failure).__name__)
        return ModelState(offer.model, offer.version, "READY")

    def _entry(self, name: _Name) -> _Entry:
        with self._lock:
            known = self._entries.get(name) or self._absent.get(name)
            if known is not None:
                return known
            now = self._clock()
            if now >= self._window_ends:
                self._window_ends = now + self._refresh_seconds
                self._lookups = 0
            self._lookups += 1
            if self._lookups > MAX_LOOKUPS_PER_INTERVAL:
                raise ThrottledError("too many models were asked for that are not known here")
            entry = self._absent[name] = _Entry()
            while len(self._absent) > MAX_ABSENT:
                self._absent.popitem(last=False)
            return entry

    # ── Refreshing ──────────────────────────────────────────────────────────────────────────────

    def _renewed(self, name: _Name, entry: _Entry) -> LoadedModel:
        """What answers when the registry is to be asked, or there is nothing to answer with."""
        asked = self._clock()
        joined: _Reading | None = None
        while True:
            with entry.lock:
                reading = entry.reading
                if reading is not None and reading.done.is_set():
                    entry.reading = None
                    self._adopt(name, entry, reading)
                    reading = None
                now = self._clock()
                resident = entry.resident
                # A reading begun after the request came is fresh for it, however long it took.
                just_read = entry.checked >= asked
                holds = just_read or now < entry.checked + self._refresh_seconds
                if holds and entry.failure is not None:
                    raise entry.failure
                if resident is None and joined is not None and joined.error is not None:
                    # Whoever waited shares the outcome: each asking anew would be a stampede.
                    raise joined.error
                if resident is not None and (just_read or now < entry.ahead):
                    return self._touched(resident)
                behind = holds and resident is not None
                ours = reading is None
                if reading is None:
                    reading = entry.reading = _Reading(begun=now, behind=behind)
            if resident is not None and behind:
                if ours:
                    threading.Thread(
                        target=self._read, args=(name, reading, resident), daemon=True
                    ).start()
                return self._touched(resident)
            joined = reading
            if ours:
                self._read(name, reading, resident)
            elif not reading.done.wait(self._patience):
                late = ServiceUnavailableError(f"model {name[0]} is being loaded")
                if resident is None:
                    raise late
                telemetry.note_stale(model=name[0], version=resident.model.version, error=late)
                return self._touched(resident)

    def _touched(self, resident: _Resident) -> LoadedModel:
        resident.used = next(self._ticks)
        return resident.model

    def _read(self, name: _Name, reading: _Reading, current: _Resident | None) -> None:
        """Asks the source and loads what it names; changes nothing but the reading."""
        try:
            reading.record = record = self._source.get_serving(*name)
            if current is not None and _key(current.model.record) == _key(record):
                reading.resident = current
            else:
                reading.resident, reading.load_seconds = self._load(record, current)
            reading.error = None
        except Exception as exc:  # noqa: BLE001 - the outcome of a reading, raised by who adopts it
            reading.error = exc
        finally:
            reading.done.set()

    def _adopt(self, name: _Name, entry: _Entry, reading: _Reading) -> None:
        """Makes a finished reading what is known; the entry's lock is held."""
        error, record = reading.error, reading.record
        if error is not None and reading.behind and self._is_over(reading.begun):
            return  # Frozen on its way, its connections broke: the registry is asked again.
        if record is None:
            if isinstance(error, NotFoundError | ConflictError):
                entry.resident, entry.failure = None, error
                self._forget(name, entry)
            elif entry.resident is None:
                return
            else:
                telemetry.note_stale(
                    model=name[0], version=entry.resident.model.version, error=error
                )
        elif reading.resident is None:
            serving = entry.resident
            telemetry.note_load_failure(
                model=record.model,
                version=record.version,
                role=Role.CHAMPION if name[1] is None else Role.PINNED,
                error=error,
                still_serving=None if serving is None else serving.model.version,
            )
            if serving is None and not isinstance(error, FinalError):
                return
            entry.failure = error if serving is None and isinstance(error, FinalError) else None
            self._remember(name, entry)
        else:
            resident = reading.resident
            if resident.model.record != record:
                # The same version under new facts, such as its sampling rate.
                resident.model = replace(resident.model, record=record)
            entry.resident, entry.failure = resident, None
            entry.record = record
            self._remember(name, entry)
            self._keep(resident)
            self._follow(entry, record, resident)
            if reading.load_seconds is not None:
                telemetry.note_load(
                    model=record.model,
                    version=record.version,
                    size=resident.model.size,
                    seconds=reading.load_seconds,
                )
        entry.checked = reading.begun
        entry.ahead = reading.begun + self._refresh_seconds * (1 - AHEAD)

    def _follow(self, entry: _Entry, record: ServingRecord, champion: _Resident) -> None:
        """Has the challenger of a rollout in memory, behind the answers; its entry's lock is held.

        One that cannot be loaded is tried again at the next reading.
        """
        if record.rollout is None:
            entry.challenger = None
            return
        wanted = _challenger(record, record.rollout)
        kept = self._loaded.get(_key(wanted))
        if kept is not None:
            if kept.model.record != wanted:
                kept.model = replace(kept.model, record=wanted)
            entry.challenger = kept
            return
        entry.challenger = None
        if not entry.loading:
            entry.loading = True
            threading.Thread(
                target=self._load_challenger, args=(entry, wanted, champion), daemon=True
            ).start()

    def _load_challenger(self, entry: _Entry, wanted: ServingRecord, champion: _Resident) -> None:
        try:
            resident, seconds = self._load(wanted, champion)
            entry.challenger = resident
            if seconds is not None:
                telemetry.note_load(
                    model=wanted.model,
                    version=wanted.version,
                    size=resident.model.size,
                    seconds=seconds,
                )
        except Exception as exc:  # noqa: BLE001 - whatever it is, the champion goes on answering
            telemetry.note_load_failure(
                model=wanted.model,
                version=wanted.version,
                role=Role.CHALLENGER,
                error=exc,
                still_serving=champion.model.version,
            )
        finally:
            entry.loading = False

    def _is_over(self, begun: float) -> bool:
        return self._clock() >= begun + self._refresh_seconds

    def _remember(self, name: _Name, entry: _Entry) -> None:
        with self._lock:
            self._absent.pop(name, None)
            self._entries[name] = entry

    def _forget(self, name: _Name, entry: _Entry) -> None:
        with self._lock:
            self._entries.pop(name, None)
            self._absent[name] = entry
            self._absent.move_to_end(name)

    # ── Loading ─────────────────────────────────────────────────────────────────────────────────

    def _load(
        self, record: ServingRecord, current: _Resident | None
    ) -> tuple[_Resident, float | None]:
        """A version in memory, and how long its load took unless it was there.

        Args:
            record: The version.
            current: What answers meanwhile, and if this fails: memory is never made by its loss.
        """
        kept = self._loaded.get(_key(record))
        if kept is not None:
            return kept, None
        started = time.perf_counter()
        what = f"{record.model}@{record.version}"
        try:
            with ThreadPoolExecutor(1) as pool:
                fetching = pool.submit(self._objects.read, self._bucket, record.model_key)
                if self._attestation is not None:
                    self._attestation.check(record)
                signature = read_signature(
                    self._objects, self._bucket, record.signature_key, record.signature_sha256, what
                )
                body = fetching.result()
        except NotFoundError as exc:
            raise ArtifactError(f"{what}: a registered object does not exist: {exc}") from exc
        if signature.model != record.model:
            raise ArtifactError(
                f"signature of {what}: expected model {record.model}, got {signature.model}"
            )
        with self._one_load:
            kept = self._loaded.get(_key(record))
            if kept is not None:
                return kept, None
            cost = footprint(len(body))
            with self._lock:
                self._make_room(cost, {id(current)})
            self._return_memory()
            model = load_model(body, record.sha256, what, signature)
            loaded = LoadedModel(
                record=record,
                signature=signature,
                codec=SignatureCodec(signature, self._limits),
                model=model,
                size=len(body),
            )
            resident = _Resident(loaded, cost, next(self._ticks))
            with self._lock:
                self._loaded[_key(record)] = resident
        return resident, time.perf_counter() - started

    def _keep(self, resident: _Resident) -> None:
        """Marks a version as just used, and lets go of those unused for longest."""
        resident.used = next(self._ticks)
        with self._lock:
            self._loaded[_key(resident.model.record)] = resident
            self._make_room(0, {id(resident)})

    def _return_memory(self) -> None:
        """Gives the operating system back what models that were let go of have left."""
        trim = _malloc_trim()
        if self._untrimmed and trim is not None:
            self._untrimmed = False
            trim(0)

    def _make_room(self, cost: int, spared: set[int]) -> None:
        """Lets go of the versions unused for longest, until `cost` more fits; the lock is held."""
        total = before = sum(r.cost for r in self._loaded.values()) + cost
        by_age = sorted(self._loaded.items(), key=lambda item: item[1].used)
        for key, resident in by_age:
            if total <= self._capacity:
                break
            if id(resident) in spared:
                continue
            del self._loaded[key]
            total -= resident.cost
            for entry in self._entries.values():
                if entry.resident is resident:
                    entry.resident = None
                if entry.challenger is resident:
                    entry.challenger = None
        self._untrimmed |= total < before


FOOTPRINT_FACTOR: Final = 6
FOOTPRINT_BASE: Final = 512 * 2**10
"""What `tests/bench/test_many_models.py` measures: a session takes 4.4 to 5.7 times its file (trees
are kept as the graph's attributes and once more by the operator), and something for itself, its
codec and its signature."""
LIBRARIES_BYTES: Final = 192 * 2**20
"""What the process takes with all it imports, before the first model."""
REQUEST_SHARE: Final = 1 / 4
"""Part of the memory that is kept free for requests and for loading."""


def footprint(file_bytes: int) -> int:
    """Bytes that a loaded model takes in memory, by the size of its file."""
    return FOOTPRINT_BASE + FOOTPRINT_FACTOR * file_bytes


def capacity_of(memory_bytes: int) -> int:
    """Bytes that loaded models may take together, of a function's or a container's memory."""
    return max(0, int(memory_bytes * (1 - REQUEST_SHARE)) - LIBRARIES_BYTES)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    """Of glibc, which keeps what is freed until it is asked; other systems do without."""
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return None
    return trim


def unfrozen_clock() -> Callable[[], float]:
    """Seconds that go on while the environment is frozen.

    What a monotonic clock does while Lambda freezes an environment is nowhere promised; the wall
    clock is right again afterwards, but may be set back. The larger of both is never too early.
    """
    # nosemgrep: clock-read-in-the-domain -- this is the clock that the store is given
    monotonic, wall = time.monotonic(), time.time()
    # nosemgrep: clock-read-in-the-domain -- as above
    return lambda: max(time.monotonic() - monotonic, time.time() - wall)


def _challenger(record: ServingRecord, route: RolloutRoute) -> ServingRecord:
    """The record of a rollout's challenger."""
    return replace(
        record,
        version=route.version,
        run_id=route.run_id,
        model_key=route.model_key,
        sha256=route.sha256,
        signature_key=route.signature_key,
        signature_sha256=route.signature_sha256,
        kms_signature=route.kms_signature,
        kms_key_id=route.kms_key_id,
        rollout=None,
        sequence=0,
    )


def _key(record: ServingRecord) -> _Key:
    return record.model, record.version, record.sha256, record.signature_sha256

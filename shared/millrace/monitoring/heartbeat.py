"""The heartbeat: one known row, asked of the deployed API as a client would ask, and its answer judged.

Well is a model whose champion, or a rollout's challenger, answers in time, and answers what it answered
before: a version is immutable, so the same row has the same answer for ever. The first answer of a version
is kept as what is known; so the check finds artifacts, encodings and runtimes that change under a version,
and not a version that was wrong from the start (training's parity check and gates are for that).

The row is `known_rows.known_row`: typical values, of no person. The request carries a mark that the
registry proves (`registry.heartbeats`), so that nothing counts or captures it. Idempotent: a look changes
what the registry knows of the heartbeat itself and nothing else, on the condition of what was read.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, Protocol

from millrace.aws.execute_api import Answered
from millrace.aws.table import Item, Key, Update
from millrace.errors import ConditionFailedError, MillraceError, ServiceUnavailableError
from millrace.known_rows import known_row
from millrace.registry.heartbeats import HEADER, SECONDS, digest_of, heartbeat_key
from millrace.registry.serving import ServingRecord
from millrace.signature import Signature

TOLERANCE: Final = 1e-4
"""How far numbers may be off, absolutely and of their size: 32-bit kernels differ between processors."""
GRACE: Final = timedelta(seconds=10)
"""Beyond the refresh interval, in which the former version may still answer."""
_VERSIONS: Final = 4
"""Versions whose answers are kept."""
_KEPT_SECONDS: Final = 30 * 86_400
_OK: Final = 200


class Api(Protocol):
    """The API's door: `aws.execute_api.ApiCaller`."""

    def call(
        self,
        method: str,
        route: str,
        body: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        seconds: float,
    ) -> Answered:
        """Sends one request, once."""
        ...


class HeartbeatTable(Protocol):
    """What is needed of the registry's table."""

    def get(self, key: Key) -> Item | None:
        """The item with this key."""
        ...

    def update(self, write: Update) -> None:
        """Updates one item."""
        ...


@dataclass(frozen=True, slots=True)
class Beat:
    """One look at one model, or at the API alone.

    Attributes:
        model: The model; empty for the API alone.
        reason: What is not well; empty when all is.
        version: What answered, if anything did.
        seconds: How long the answer took, if one came.
        skipped: Another heartbeat looked at the model at the same time: nothing was found out.
    """

    model: str
    reason: str = ""
    version: int | None = None
    seconds: float | None = None
    skipped: bool = False


class _Expected(NamedTuple):
    """What is known before a call."""

    item: Item
    answers: dict[str, Any]
    row: str


class Heartbeat:
    """Looks at models.

    Args:
        table: The registry's table.
        serving: What serves a model, anew at each call.
        signature: A serving version's signature.
        api: The API.
        now: The moment.
        new_mark: A fresh random text.
        refresh: How long the former version may still answer after a change of traffic.
        deadline: Seconds within which an answer has to come.
    """

    def __init__(
        self,
        *,
        table: HeartbeatTable,
        serving: Callable[[str], ServingRecord],
        signature: Callable[[ServingRecord], Signature],
        api: Api,
        now: Callable[[], datetime],
        new_mark: Callable[[], str],
        refresh: timedelta,
        deadline: float,
    ) -> None:
        self._table = table
        self._serving = serving
        self._signature = signature
        self._api = api
        self._now = now
        self._new_mark = new_mark
        self._refresh = refresh
        self._deadline = deadline

    def api(self) -> Beat:
        """Looks whether the API answers at all; for a deployment without a champion."""
        try:
            came = self._api.call("GET", "/v1/health", seconds=self._deadline)
        except ServiceUnavailableError as exc:
            return Beat("", str(exc))
        return Beat("", self._late(came) or _refused(came), seconds=came.seconds)

    def model(self, model: str) -> Beat:
        """Asks a model its known row."""
        try:
            serving = self._serving(model)
            row = known_row(self._signature(serving))
            expected = self._expect(model, row)
        except MillraceError as exc:
            return Beat(model, f"{type(exc).__name__}: {exc}")
        mark = self._new_mark()
        try:
            self._write(model, expected, mark=digest_of(mark), valid_until=self._seconds(SECONDS))
        except ConditionFailedError:
            return Beat(model, skipped=True)
        body = json.dumps({"rows": [row]}).encode()
        route = f"/v1/models/{model}/predict"
        try:
            came = self._api.call(
                "POST", route, body, headers={HEADER.lower(): mark}, seconds=self._deadline
            )
        except ServiceUnavailableError as exc:
            return Beat(model, str(exc))
        return self._judge(model, serving, expected, came)

    def _judge(
        self, model: str, serving: ServingRecord, expected: _Expected, came: Answered
    ) -> Beat:
        refused = _refused(came)
        if refused:
            return Beat(model, refused, seconds=came.seconds)
        try:
            answer = json.loads(came.body)
            version, outputs = int(answer["version"]), answer["predictions"]
        except (ValueError, KeyError, TypeError):
            return Beat(model, "the answer is no prediction", seconds=came.seconds)
        reason = self._late(came) or self._stranger(model, serving, version)
        known = expected.answers.get(str(version))
        known = known["outputs"] if known and known["row"] == expected.row else None
        if not reason and known is not None and not same(known, outputs):
            reason = f"{model}@{version} answers its known row otherwise than it did before"
        if not reason and known is None:
            answers = {**expected.answers, str(version): {"row": expected.row, "outputs": outputs}}
            newest = sorted(answers, key=int)[-_VERSIONS:]
            kept = json.dumps({one: answers[one] for one in newest})
            try:
                revision = int(expected.item.get("revision", 0)) + 1
                self._write(model, expected._replace(item={"revision": revision}), answers=kept)
            except ConditionFailedError:
                return Beat(model, version=version, seconds=came.seconds)
        return Beat(model, reason, version=version, seconds=came.seconds)

    def _stranger(self, model: str, serving: ServingRecord, version: int) -> str:
        """Why a version may not have answered; empty when it may."""
        if version in _serving_versions(serving):
            return ""
        current = self._serving(model)
        if version in _serving_versions(current):
            return ""
        if self._now() - current.updated_at < self._refresh + GRACE:
            return ""
        wanted = " or ".join(f"{model}@{one}" for one in _serving_versions(current))
        return f"expected {wanted} to answer, got {model}@{version}"

    def _late(self, came: Answered) -> str:
        if came.seconds <= self._deadline:
            return ""
        return f"expected an answer within {self._deadline:g} s, got one in {came.seconds:.1f} s"

    def _expect(self, model: str, row: Mapping[str, Any]) -> _Expected:
        item = self._table.get(heartbeat_key(model)) or {}
        digest = hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()
        return _Expected(item, json.loads(item.get("answers", "{}")), digest)

    def _write(self, model: str, expected: _Expected, **values: str | int) -> None:
        revision = expected.item.get("revision")
        kept = {"revision": int(revision or 0) + 1, "expires_at": self._seconds(_KEPT_SECONDS)}
        key = heartbeat_key(model)
        when = {"revision": revision}
        self._table.update(Update("heartbeat", key, {**values, **kept}, when, exists=False))

    def _seconds(self, later: float) -> int:
        return math.ceil(self._now().timestamp() + later)


def same(one: Any, other: Any) -> bool:
    """Whether two answers say the same, their numbers within `TOLERANCE`."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if _is_number(one) and _is_number(other):
        return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return type(one) is type(other) and bool(one == other)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _serving_versions(serving: ServingRecord) -> list[int]:
    challenger = [] if serving.rollout is None else [serving.rollout.version]
    return [serving.version, *challenger]


def _refused(came: Answered) -> str:
    """What a refusal says, without the words that the API has for people."""
    if came.status == _OK:
        return ""
    try:
        code = str(json.loads(came.body)["code"])
    except (ValueError, KeyError, TypeError):
        code = "no problem details"
    return f"expected status 200, got {came.status} ({code[:100]})"

"""What a prediction costs beyond the model itself, by format and number of rows.

Subject: the predict function's gateway on a REST event, through Mangum, the hot route, validation, the
model, encoding, and the line with metrics and capture. Reference: `InferenceSession.run` of the same
model on the same rows, prepared as arrays. Both run through different requests in turn, and through as
many that the processor cannot know them by heart: of eight requests of ten rows it predicts every
branch of every tree, and the model takes half the time that it takes with new rows.
"""

import base64
import hashlib
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path
from typing import Any

import nanoarrow as na
import numpy as np
import pytest
from nanoarrow.c_array import c_array_from_buffers
from nanoarrow.ipc import StreamWriter

from millrace import layout
from millrace.http.gateway import Gateway
from millrace.http.service import create_service
from millrace.onnx_session import load_session
from millrace.registry.serving import Offer, RolloutRoute, RolloutStrategy, ServingRecord
from millrace.serving.identity import new_prediction_id
from millrace.serving.routing import ENTITY_HEADER
from millrace.serving.store import ModelStore
from millrace.signature import (
    CATEGORICAL_INPUT,
    NUMERIC_INPUT,
    PROBABILITIES_OUTPUT,
    Signature,
)
from tests.bench.conftest import ARTIFACTS, Learned
from tests.bench.measure import Comparison, compare
from tests.fakes.cloud import LambdaContext
from tests.fakes.gateway import event
from tests.fakes.store import FakeStore
from tests.until import until

RUN = "bench-run"
TYPES = {
    "rows": "application/json",
    "columns": "application/json",
    "csv": "text/csv",
    "arrow": "application/vnd.apache.arrow.stream",
}
REQUESTS = {1: 64, 10: 64, 100: 32, 1000: 8}
"""Different requests, by their rows."""
REPEAT = {1: 128, 10: 64, 100: 16, 1000: 4}
"""Requests of one turn."""
ROUNDS = 25


class OneModel:
    """A registry that knows one champion."""

    def __init__(self, record: ServingRecord) -> None:
        self._record = record

    def get_serving(self, model: str, version: int | None = None) -> ServingRecord:
        """The champion."""
        return self._record

    def list_serving(self) -> list[Offer]:
        """The one model."""
        return [Offer(self._record.model, self._record.version)]


def gateway_of(
    learned: Learned, route: RolloutRoute | None = None, capture_rate: float = 1.0
) -> Gateway:
    """The predict function's service on objects in memory.

    Args:
        learned: The champion.
        route: A rollout of the same model as its own challenger: its digests are filled in.
        capture_rate: Share of the requests that are captured.
    """
    name, store = learned.spec.name, FakeStore()
    body = learned.signature.to_json()
    for key, content in (
        (layout.model_key(name, RUN), learned.fit.onnx),
        (layout.signature_key(name, RUN), body),
    ):
        store.write(ARTIFACTS, key, content, content_type="application/octet-stream")
    sha256, signature_sha256 = (hashlib.sha256(c).hexdigest() for c in (learned.fit.onnx, body))
    if route is not None:
        route = replace(
            route,
            model_key=layout.model_key(name, RUN),
            sha256=sha256,
            signature_key=layout.signature_key(name, RUN),
            signature_sha256=signature_sha256,
        )
    record = ServingRecord(
        model=name,
        version=1,
        run_id=RUN,
        model_key=layout.model_key(name, RUN),
        sha256=sha256,
        signature_key=layout.signature_key(name, RUN),
        signature_sha256=signature_sha256,
        updated_at=datetime(2026, 11, 1, tzinfo=UTC),
        sequence=1,
        rollout=route,
        capture_rate=capture_rate,
    )
    models = ModelStore(
        OneModel(record), store, ARTIFACTS, refresh_seconds=3600, clock=time.monotonic
    )
    service = create_service(models, new_id=new_prediction_id)
    models.get(name)
    if route is not None:
        until(lambda: models.choose(name, entity=b"anybody").shadow or _answers(models, name))
    return Gateway(service, never_waits=service.never_waits)


def _answers(models: ModelStore, name: str) -> bool:
    """Whether the challenger is in memory."""
    return any(models.choose(name, entity=b"%d" % n).instead for n in range(50))


@pytest.fixture(scope="module")
def gateway(mixed: Learned) -> Gateway:
    """The predict function's service with one model."""
    return gateway_of(mixed)


@pytest.fixture
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lines go to a file, as a runtime's go to its log."""
    with (tmp_path / "lines").open("w", encoding="utf-8") as lines:
        monkeypatch.setattr(sys, "stdout", lines)
        yield
        monkeypatch.undo()


def documents(signature: Signature, numeric: Any, categorical: Any) -> list[dict[str, Any]]:
    """Rows as a caller has them."""
    kinds: dict[str, Callable[[Any], Any]] = {
        "integer": int,
        "boolean": bool,
        "number": lambda v: float(str(v)),
    }
    return [
        {
            f.name: None if np.isnan(v) else kinds[f.type](v)
            for f, v in zip(signature.numeric, numbers, strict=True)
        }
        | {f.name: v or None for f, v in zip(signature.categorical, texts, strict=True)}
        for numbers, texts in zip(numeric, categorical, strict=True)
    ]


def body_of(form: str, rows: list[dict[str, Any]], signature: Signature) -> bytes:
    """The rows in one of the formats."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    if form == "rows":
        return json.dumps({"rows": rows}, separators=(",", ":")).encode()
    if form == "columns":
        document = {"columns": columns, "form": "columns"}
        return json.dumps(document, separators=(",", ":")).encode()
    if form == "csv":
        cells = [["" if v is None else str(v) for v in row.values()] for row in rows]
        return "\n".join([",".join(columns), *map(",".join, cells), ""]).encode()
    kinds = {"integer": na.int64(), "boolean": na.bool_(), "number": na.float64()}
    types = {f.name: kinds.get(f.type, na.string()) for f in signature.features}
    table = c_array_from_buffers(
        na.struct(types),
        len(rows),
        [None],
        null_count=0,
        children=[na.c_array(columns[name], kind) for name, kind in types.items()],
    )
    out = io.BytesIO()
    with StreamWriter.from_writable(out) as writer:
        writer.write_array(table)
    return out.getvalue()


type Arrays = list[tuple[Any, Any]]


def requests_of(learned: Learned, form: str, rows: int, **headers: str) -> tuple[Arrays, list[Any]]:
    """Different requests as arrays and as events."""
    numeric, categorical = learned.test.features()
    signature = learned.signature
    starts = [int(s) for s in np.linspace(0, len(numeric) - rows, REQUESTS[rows])]
    arrays = [(numeric[s : s + rows], categorical[s : s + rows]) for s in starts]
    events = [
        event(
            "POST",
            f"/v1/models/{learned.spec.name}/predict",
            base64.b64encode(body_of(form, documents(signature, *pair), signature)),
            headers={"Content-Type": TYPES[form], "Accept": TYPES[form], **headers},
            base64_encoded=True,
        )
        for pair in arrays
    ]
    return arrays, events


def bare_runs(learned: Learned, arrays: Arrays) -> Callable[[], Any]:
    """The reference: `InferenceSession.run`, and nothing else, of each request in turn."""
    digest = hashlib.sha256(learned.fit.onnx).hexdigest()
    run = load_session(learned.fit.onnx, digest, "mixed").run
    names = [PROBABILITIES_OUTPUT]
    texts = bool(learned.signature.categorical)
    feeds = cycle(
        [{NUMERIC_INPUT: n} | ({CATEGORICAL_INPUT: c} if texts else {}) for n, c in arrays]
    )
    return lambda: run(names, next(feeds))


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("rows", list(REQUESTS))
@pytest.mark.parametrize("form", list(TYPES))
@pytest.mark.parametrize("model", ["mixed", "coded", "heavy"])
def test_handler_time_over_the_bare_model(
    model: str,
    form: str,
    rows: int,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    learned: Learned = request.getfixturevalue(model)
    gateway = gateway_of(learned)
    arrays, events = requests_of(learned, form, rows)
    context = LambdaContext()
    answers = [gateway(asked, context) for asked in events]
    assert {answer["statusCode"] for answer in answers} == {200}, answers[0]["body"][:500]
    asking = cycle(events)

    measured = compare(
        f"predict handler {model} {form} {rows} rows",
        lambda: gateway(next(asking), context),
        bare_runs(learned, arrays),
        rounds=ROUNDS,
        repeat=REPEAT[rows],
        clock=time.process_time,
    )

    told(measured, capsys)
    assert measured.ratio > 1


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lines go through a pipe to another process, as a function's go to its runtime."""
    with subprocess.Popen(
        ["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, encoding="utf-8"
    ) as reader:
        monkeypatch.setattr(sys, "stdout", reader.stdin)
        yield
        monkeypatch.undo()


@pytest.mark.usefixtures("piped")
@pytest.mark.parametrize("rows", list(REQUESTS))
@pytest.mark.parametrize("model", ["mixed", "learned"])
def test_what_capture_adds_to_an_answer(
    model: str, rows: int, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """Subject: every request captured. Reference: none, and its line with metrics all the same."""
    champion: Learned = request.getfixturevalue(model)
    all_of_them, none = gateway_of(champion), gateway_of(champion, capture_rate=0.0)
    _, events = requests_of(champion, "rows", rows)
    named = f"predict capture {champion.spec.name} {rows} rows"

    measured = in_turns(named, all_of_them, none, events, rows)

    told(measured, capsys)
    assert measured.ratio < 1.5


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("rows", [1, 100])
@pytest.mark.parametrize(
    ("strategy", "weight", "most"),
    [
        # Half of the keys are answered by the challenger; the model is the same.
        pytest.param(RolloutStrategy.CANARY, 50.0, 1.3, id="canary"),
        pytest.param(RolloutStrategy.SHADOW, 100.0, 2.5, id="shadow"),
    ],
)
def test_what_a_rollout_adds_to_an_answer(
    gateway: Gateway,
    mixed: Learned,
    strategy: RolloutStrategy,
    weight: float,
    most: float,
    rows: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    route = RolloutRoute(
        rollout_id="mixed-2",
        step=0,
        strategy=strategy,
        weight=weight,
        version=2,
        run_id=RUN,
        model_key="",
        sha256="",
        signature_key="",
        signature_sha256="",
    )
    shared = gateway_of(mixed, route)
    _, events = requests_of(mixed, "rows", rows, **{ENTITY_HEADER: "customer-1"})
    named = f"predict handler {rows} rows in a rollout {strategy}"

    measured = in_turns(named, shared, gateway, events, rows)

    told(measured, capsys)
    assert measured.ratio < most


def in_turns(
    name: str, subject: Gateway, reference: Gateway, events: list[Any], rows: int
) -> Comparison:
    """The same requests to both."""
    context = LambdaContext()
    for one in (subject, reference):
        assert {one(asked, context)["statusCode"] for asked in events} == {200}
    asking, asked_alone = cycle(events), cycle(events)
    return compare(
        name,
        lambda: subject(next(asking), context),
        lambda: reference(next(asked_alone), context),
        rounds=ROUNDS,
        repeat=REPEAT[rows],
        clock=time.process_time,
    )


def told(measured: Comparison, capsys: pytest.CaptureFixture[str]) -> None:
    """Prints a line past the file that the log goes to."""
    with capsys.disabled():
        sys.stdout, kept = sys.__stdout__, sys.stdout
        measured.tell()
        sys.stdout = kept

"""What a prediction costs beyond the model itself, by format and number of rows.

Subject: the predict function's gateway on a REST event, through Mangum, the hot route, validation, the
model, encoding, and the line with metrics and capture. Reference: `InferenceSession.run` of the same
model on the same rows, prepared as arrays. Both run through eight different requests in turn, so that
the processor's memory of one request's branches flatters neither.
"""

import base64
import hashlib
import io
import json
import sys
import time
from collections.abc import Callable, Iterator
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
from millrace.onnx_session import load_session, predict
from millrace.registry.serving import Offer, ServingRecord
from millrace.serving.identity import new_prediction_id
from millrace.serving.store import ModelStore
from millrace.signature import Signature
from tests.bench.conftest import ARTIFACTS, Learned
from tests.bench.measure import compare
from tests.fakes.cloud import LambdaContext
from tests.fakes.gateway import event
from tests.fakes.store import FakeStore

RUN = "bench-run"
TYPES = {
    "rows": "application/json",
    "columns": "application/json",
    "csv": "text/csv",
    "arrow": "application/vnd.apache.arrow.stream",
}
REQUESTS = 8


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


@pytest.fixture(scope="module")
def gateway(mixed: Learned) -> Gateway:
    """The predict function's service on objects in memory."""
    name, store = mixed.spec.name, FakeStore()
    body = mixed.signature.to_json()
    for key, content in (
        (layout.model_key(name, RUN), mixed.fit.onnx),
        (layout.signature_key(name, RUN), body),
    ):
        store.write(ARTIFACTS, key, content, content_type="application/octet-stream")
    record = ServingRecord(
        model=name,
        version=1,
        run_id=RUN,
        model_key=layout.model_key(name, RUN),
        sha256=hashlib.sha256(mixed.fit.onnx).hexdigest(),
        signature_key=layout.signature_key(name, RUN),
        signature_sha256=hashlib.sha256(body).hexdigest(),
        updated_at=datetime(2026, 11, 1, tzinfo=UTC),
    )
    models = ModelStore(
        OneModel(record), store, ARTIFACTS, refresh_seconds=3600, clock=time.monotonic
    )
    service = create_service(models, new_id=new_prediction_id)
    return Gateway(service, never_waits=service.never_waits)


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


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(("rows", "repeat"), [(1, 160), (10, 80), (100, 24), (1000, 8)])
@pytest.mark.parametrize("form", list(TYPES))
def test_handler_time_over_the_bare_model(
    gateway: Gateway,
    mixed: Learned,
    form: str,
    rows: int,
    repeat: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    numeric, categorical = mixed.test.features()
    signature = mixed.signature
    session = load_session(mixed.fit.onnx, hashlib.sha256(mixed.fit.onnx).hexdigest(), "mixed")
    starts = [int(s) for s in np.linspace(0, len(numeric) - rows, REQUESTS)]
    arrays = [(numeric[s : s + rows], categorical[s : s + rows]) for s in starts]
    events = [
        event(
            "POST",
            f"/v1/models/{mixed.spec.name}/predict",
            base64.b64encode(body_of(form, documents(signature, *pair), signature)),
            headers={"Content-Type": TYPES[form], "Accept": TYPES[form]},
            base64_encoded=True,
        )
        for pair in arrays
    ]
    context = LambdaContext()
    answers = [gateway(asked, context) for asked in events]
    assert {answer["statusCode"] for answer in answers} == {200}, answers[0]["body"][:500]
    asking, running = cycle(events), cycle(arrays)

    measured = compare(
        f"predict handler {form} {rows} rows",
        lambda: gateway(next(asking), context),
        lambda: predict(session, signature, *next(running)),
        rounds=15,
        repeat=repeat,
        clock=time.process_time,
    )

    with capsys.disabled():
        sys.stdout, kept = sys.__stdout__, sys.stdout
        measured.tell()
        sys.stdout = kept
    assert measured.ratio > 1

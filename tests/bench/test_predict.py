"""What a prediction costs beyond the model itself.

Subject: the predict function's handler on an API Gateway event, through Mangum, FastAPI,
validation, the model, encoding, log and metrics. Reference: `InferenceSession.run` of the same
model on the same rows, prepared as arrays.
"""

import hashlib
import json
import time
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from millrace import layout
from millrace.http.gateway import Gateway
from millrace.http.service import create_service
from millrace.onnx_session import load_session, predict
from millrace.registry.serving import Offer, ServingRecord
from millrace.serving.codec import Limits
from millrace.serving.store import ModelStore
from tests.bench.conftest import ARTIFACTS, Learned
from tests.bench.measure import compare
from tests.fakes.cloud import LambdaContext
from tests.fakes.gateway import event
from tests.fakes.store import FakeStore

RUN = "bench-run"


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
def gateway(learned: Learned) -> Gateway:
    """The predict function's app on objects in memory."""
    name, store = learned.spec.name, FakeStore()
    body = learned.signature.model_dump_json().encode()
    for key, content in (
        (layout.model_key(name, RUN), learned.fit.onnx),
        (layout.signature_key(name, RUN), body),
    ):
        store.write(ARTIFACTS, key, content, content_type="application/octet-stream")
    record = ServingRecord(
        model=name,
        version=1,
        run_id=RUN,
        model_key=layout.model_key(name, RUN),
        sha256=hashlib.sha256(learned.fit.onnx).hexdigest(),
        signature_key=layout.signature_key(name, RUN),
        signature_sha256=hashlib.sha256(body).hexdigest(),
        updated_at=datetime(2026, 11, 1, tzinfo=UTC),
    )
    models = ModelStore(
        OneModel(record), store, ARTIFACTS, refresh_seconds=3600, clock=time.monotonic
    )
    limits = Limits()
    return Gateway(create_service(models, new_id=lambda: str(uuid4()), limits=limits))


@pytest.mark.parametrize(("rows", "repeat"), [(1, 50), (100, 20), (1000, 5)])
def test_handler_time_over_the_bare_model(
    gateway: Gateway,
    learned: Learned,
    rows: int,
    repeat: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    numeric, categorical = learned.test.features()
    numeric, categorical = numeric[:rows], categorical[:rows]
    session = load_session(
        learned.fit.onnx, hashlib.sha256(learned.fit.onnx).hexdigest(), "bench model"
    )
    numbers = [f.name for f in learned.signature.numeric]
    texts = [f.name for f in learned.signature.categorical]
    integers = {f.name for f in learned.signature.numeric if f.type == "integer"}
    documents = [
        {n: int(v) if n in integers else float(v) for n, v in zip(numbers, numeric[i], strict=True)}
        | dict(zip(texts, categorical[i], strict=True))
        for i in range(rows)
    ]
    request = event(
        "POST",
        f"/v1/models/{learned.spec.name}/predict",
        json.dumps({"rows": documents}),
        headers={"Content-Type": "application/json"},
    )
    context = LambdaContext()
    answer = gateway(request, context)
    assert answer["statusCode"] == 200, answer["body"]

    measured = compare(
        f"predict handler {rows} rows",
        lambda: gateway(request, context),
        lambda: predict(session, learned.signature, numeric, categorical),
        rounds=15,
        repeat=repeat,
    )

    capsys.readouterr()
    with capsys.disabled():
        measured.tell()
    assert len(json.loads(answer["body"])["predictions"]) == rows

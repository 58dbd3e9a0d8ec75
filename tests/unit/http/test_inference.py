"""The Open Inference Protocol's routes: statuses, forms, encodings, and what is told of them."""

import asyncio
import gzip
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from millrace.bundle import Shelf
from millrace.errors import (
    ArtifactError,
    ConflictError,
    MillraceError,
    NoChampionError,
    ServiceUnavailableError,
)
from millrace.http.inference_models import (
    IndexedModel,
    InferenceError,
    InferResponse,
    ModelMetadata,
    ServerMetadata,
)
from millrace.http.service import Service, create_service
from millrace.serving.codec import Limits
from millrace.serving.prediction import Prediction
from millrace.serving.routing import Chosen
from millrace.serving.store import LoadedModel, ModelState, ModelStore
from tests.fakes.bundles import bundled

ROW = {"age": 41, "plan": "basic", "tenure": 3.5, "active": True, "city": "Graz"}
TYPES = {"age": "INT64", "plan": "BYTES", "tenure": "FP64", "active": "BOOL", "city": "BYTES"}
INFER = "/v2/models/churn/infer"


def document(rows: int = 1, **rest: Any) -> dict[str, Any]:
    """A request for one row, many times."""
    return {
        "inputs": [
            {"name": n, "datatype": TYPES[n], "shape": [rows], "data": [v] * rows}
            for n, v in ROW.items()
        ],
        **rest,
    }


@dataclass
class Notes:
    """A journal that keeps what it is told."""

    predictions: list[Prediction] = field(default_factory=list)
    refusals: list[tuple[str, str | None]] = field(default_factory=list)

    def answered(self, prediction: Prediction, *, seconds: float, correlation_id: str) -> None:
        self.predictions.append(prediction)

    def refused(
        self,
        error: Exception,
        *,
        model: str | None,
        seconds: float,
        correlation_id: str,
        failed: Chosen | None = None,
    ) -> None:
        self.refusals.append((type(error).__name__, model))


@dataclass(frozen=True)
class Reply:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


@dataclass
class Client:
    """Calls the application as a server does."""

    app: Service
    notes: Notes

    def __call__(
        self,
        method: str,
        path: str,
        body: Any = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        sent: list[dict[str, Any]] = []
        scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()],
        }

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        asyncio.run(self.app(scope, receive, send))
        start, end = sent
        told = {k.decode(): v.decode() for k, v in start["headers"]}
        return Reply(start["status"], told, end["body"])


@dataclass
class Troubled:
    """A store whose models have troubles."""

    error: MillraceError

    def get(self, model: str, version: int | None = None) -> LoadedModel:
        raise self.error

    def choose(self, model: str, version: int | None = None, entity: bytes | None = None) -> Chosen:
        raise self.error

    def models(self) -> tuple[ModelState, ...]:
        raise self.error


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    folder: Path = tmp_path_factory.mktemp("bundles")
    bundled(folder / "1.bundle", version=1, bias=-3.0)
    bundled(folder / "2.bundle", version=2)
    shelf = Shelf((folder,), on_damage=lambda *_: None)
    shelf.open()
    return ModelStore(shelf, shelf, "", refresh_seconds=3600.0)


def client_of(store: Any, limits: Limits | None = None) -> Client:
    notes = Notes()
    app = create_service(
        store, new_id=lambda *_: "prediction-1", journal=notes, limits=limits or Limits()
    )
    return Client(app, notes)


@pytest.fixture
def client(store: ModelStore) -> Client:
    return client_of(store)


def refused(reply: Reply, status: int, message: str) -> InferenceError:
    """The error of a refusal, in the protocol's form."""
    assert reply.status == status, reply.body
    assert reply.headers["content-type"] == "application/json"
    error = InferenceError.model_validate_json(reply.body)
    assert message in error.error
    assert error.correlation_id
    return error


def test_the_server_says_what_it_is(client: Client) -> None:
    for path in ("/v2", "/v2/"):
        told = ServerMetadata.model_validate(client("GET", path).json)
        assert told.name == "millrace"
    assert client("GET", "/v2/health/live").json == {"live": True}
    assert client("GET", "/v2/health/ready").json == {"ready": True}


def test_a_model_says_what_it_takes(client: Client) -> None:
    told = ModelMetadata.model_validate(client("GET", "/v2/models/churn").json)

    assert (told.name, told.versions, told.platform) == ("churn", ["2"], "onnxruntime_onnx")
    assert {i.name: i.datatype for i in told.inputs} == TYPES
    named = client("GET", "/v2/models/churn/versions/1").json
    assert named["versions"] == ["1"]


def test_models_are_ready_when_they_can_answer(client: Client) -> None:
    for path in ("/v2/models/churn/ready", "/v2/models/churn/versions/1/ready"):
        assert client("GET", path).json == {"name": "churn", "ready": True}


@pytest.mark.parametrize(("body", "listed"), [(b"", 1), (b'{"ready": true}', 1), (b"{}", 1)])
def test_the_index_lists_models(client: Client, body: bytes, listed: int) -> None:
    reply = client("POST", "/v2/repository/index", body)

    assert len([IndexedModel.model_validate(m) for m in reply.json]) == listed
    assert reply.json[0] == {"name": "churn", "version": "2", "state": "READY", "reason": ""}


@pytest.mark.parametrize("body", [b"[]", b'{"ready": 1}', b"{"])
def test_an_index_request_of_another_form_is_refused(client: Client, body: bytes) -> None:
    refused(client("POST", "/v2/repository/index", body), 400, "")


def test_an_answer_is_the_native_route_s(client: Client) -> None:
    native = client("POST", "/v1/models/churn/predict", {"rows": [ROW]}).json

    reply = client("POST", INFER, document(id="mine"))

    told = InferResponse.model_validate(reply.json)
    assert (told.model_name, told.model_version, told.id) == ("churn", "2", "mine")
    assert told.parameters == {"prediction_id": "prediction-1"}
    label, probabilities = told.outputs
    [row] = native["predictions"]
    assert label.data == [row["label"]]
    values = np.array(probabilities.data, dtype=np.float32)
    assert values.tolist() == np.array([*row["probabilities"].values()], np.float32).tolist()


def test_a_named_version_answers(client: Client) -> None:
    champion = client("POST", INFER, document()).json
    first = client("POST", "/v2/models/churn/versions/1/infer", document()).json

    assert first["model_version"] == "1"
    assert first["outputs"] != champion["outputs"]


def test_warnings_are_told_in_the_parameters(client: Client) -> None:
    request = document()
    request["inputs"][0]["data"] = [900]

    parameters = client("POST", INFER, request).json["parameters"]

    [warning] = orjson.loads(parameters["warnings"])
    assert (warning["field"], warning["count"]) == ("age", 1)


def test_predictions_and_refusals_are_told_to_the_journal(client: Client) -> None:
    client("POST", INFER, document())
    client("POST", INFER, {"inputs": []})
    client("POST", "/v2/models/nobody/infer", document())

    [prediction] = client.notes.predictions
    assert (prediction.model, prediction.version, prediction.batch.rows) == ("churn", 2, 1)
    assert client.notes.refusals == [("InvalidRequestError", "churn"), ("NotFoundError", None)]


@pytest.mark.parametrize(
    ("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
def test_bodies_come_and_go_compressed(client: Client, encoding: str, compress: Any) -> None:
    body = orjson.dumps(document(rows=2_000))
    plain = client("POST", INFER, body)

    reply = client(
        "POST",
        INFER,
        compress(body),
        {"Content-Encoding": encoding, "Accept-Encoding": f"br, {encoding};q=0.9"},
    )

    assert reply.headers["content-encoding"] == encoding
    assert reply.headers["vary"] == "accept-encoding"
    assert int(reply.headers["content-length"]) == len(reply.body) < len(plain.body)
    inflated = (gzip if encoding == "gzip" else zlib).decompress(reply.body)
    assert orjson.loads(inflated) == plain.json
    assert "content-encoding" not in plain.headers


@pytest.mark.parametrize("accepted", ["identity", "br", "gzip;q=0", ""])
def test_nothing_is_compressed_for_who_does_not_accept_it(client: Client, accepted: str) -> None:
    reply = client("POST", INFER, document(rows=2_000), {"Accept-Encoding": accepted})

    assert "content-encoding" not in reply.headers


def test_a_body_that_the_gateway_has_decompressed_is_taken_as_it_is(client: Client) -> None:
    for encoding in ("gzip", "deflate"):
        assert client("POST", INFER, document(), {"Content-Encoding": encoding}).status == 200


@pytest.mark.parametrize(
    ("body", "encoding", "status", "message"),
    [
        (gzip.compress(b"{}")[:-4], "gzip", 400, "truncated"),
        (zlib.compress(b"{}" * 99)[:-4], "deflate", 400, "truncated"),
        (b"\x1f\x8b" + b"x" * 30, "gzip", 400, "damaged"),
        (b"\x78\x9c" + b"x" * 30, "deflate", 400, "damaged"),
        (b"{}", "br", 415, "expected content encoding gzip, deflate or none"),
        (gzip.compress(b" " * 7_000_000), "gzip", 413, "after decompression"),
        (zlib.compress(b" " * 7_000_000), "deflate", 413, "after decompression"),
    ],
    ids=[
        "gzip cut",
        "deflate cut",
        "gzip damaged",
        "deflate damaged",
        "brotli",
        "gzip bomb",
        "deflate bomb",
    ],
)
def test_damaged_and_overlong_bodies_are_refused(
    client: Client, body: bytes, encoding: str, status: int, message: str
) -> None:
    refused(client("POST", INFER, body, {"Content-Encoding": encoding}), status, message)


@pytest.mark.parametrize("value", ["x", "-1", "1.5", "", "9" * 20])
def test_a_header_length_that_is_no_number_is_malformed(client: Client, value: str) -> None:
    reply = client("POST", INFER, document(), {"Inference-Header-Content-Length": value})

    refused(reply, 400, "Inference-Header-Content-Length")


def test_wrong_fields_are_named_beside_the_error(client: Client) -> None:
    request = document()
    request["inputs"][0]["data"] = [1.5]
    request["inputs"][2]["data"] = [1e39]

    error = refused(client("POST", INFER, document() | {"inputs": request["inputs"][1:]}), 400, "")

    assert error.code == "invalid_request"
    assert {e.field for e in error.errors} == {"age"}


def test_too_many_rows_and_bytes_are_refused(store: ModelStore) -> None:
    small = client_of(store, Limits(rows=5_000, body_bytes=5_000, answer_bytes=1_000))

    refused(small("POST", INFER, document(rows=900)), 413, "at most 5,000 bytes")
    refused(small("POST", INFER, document(rows=80)), 413, "divide the rows")
    refused(
        client_of(store)("POST", INFER, document(rows=5_001)), 413, "expected at most 5,000 rows"
    )


def test_bytes_count_as_the_text_they_leave_lambda_as(store: ModelStore) -> None:
    request = document(rows=60, outputs=[{"name": "probabilities"}])
    request["parameters"] = {"binary_data_output": True}
    length = len(client_of(store)("POST", INFER, request).body)

    tight = client_of(store, Limits(answer_bytes=length + 10))

    refused(tight("POST", INFER, request), 413, "divide the rows")


@pytest.mark.parametrize(
    ("method", "path", "message"),
    [
        ("GET", "/v2/models/nobody", "there is no model nobody"),
        ("GET", "/v2/models/nobody/ready", "there is no model nobody"),
        ("GET", "/v2/models/Not%20a%20name", "there is no model 'Not%20a%20name'"),
        ("GET", "/v2/models/churn/versions/9", "9"),
        ("GET", "/v2/models/churn/versions/0/ready", "there is no version '0' of model churn"),
        ("GET", "/v2/models/churn/versions/x", "there is no version 'x' of model churn"),
        ("GET", "/v2/models", "no route GET /v2/models"),
        ("GET", "/v2/nothing", "no route"),
        ("GET", INFER, "no route GET"),
        ("POST", "/v2/models/churn", "no route POST"),
        ("POST", "/v2/health/live", "no route POST"),
        ("POST", "/v2/repository/models/churn/load", "no route POST"),
    ],
)
def test_what_is_not_there_is_said(client: Client, method: str, path: str, message: str) -> None:
    refused(client(method, path), 404, message)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (NoChampionError("model churn has no champion"), 404, "model churn has no champion"),
        (ConflictError("churn@3 has not passed its gates"), 409, "has not passed its gates"),
        (ArtifactError("churn@3: bytes are damaged"), 503, "cannot be loaded"),
        (ServiceUnavailableError("DynamoDB is busy"), 503, "try again"),
    ],
    ids=["no champion", "gates", "artifact", "registry"],
)
def test_a_model_that_is_not_ready_says_why(
    error: MillraceError, status: int, message: str
) -> None:
    client = client_of(Troubled(error))

    told = refused(client("GET", "/v2/models/churn/versions/3/ready"), status, message)

    assert "bytes" not in told.error
    expected = 500 if isinstance(error, ArtifactError) else status
    assert client("POST", "/v2/models/churn/versions/3/infer", document()).status == expected


def test_a_server_that_cannot_learn_what_to_serve_is_live_and_not_ready() -> None:
    client = client_of(Troubled(ServiceUnavailableError("DynamoDB is busy")))

    assert client("GET", "/v2/health/live").status == 200
    reply = client("GET", "/v2/health/ready")
    refused(reply, 503, "try again")
    assert int(reply.headers["retry-after"]) > 0


def test_what_fails_inside_is_not_told(store: ModelStore) -> None:
    class Broken(Troubled):
        def get(self, model: str, version: int | None = None) -> LoadedModel:
            raise RuntimeError("secret detail")

    client = client_of(Broken(ArtifactError("")))

    error = refused(client("POST", INFER, document()), 500, "something failed inside")

    assert "secret" not in error.error

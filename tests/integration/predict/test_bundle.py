"""A version that is exported answers on premises what the function answers, byte for byte."""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from millrace.aws.clients import client
from millrace.aws.s3 import S3ObjectStore
from millrace.bundle import Bundle, Manifest, write_bundle
from millrace.errors import ArtifactError, ConflictError, DigestMismatchError, NotFoundError
from millrace.server import app as server_app
from millrace.server.settings import ServerSettings
from millrace.serving import telemetry
from millrace.spec import Task
from millrace_cli.bundles import chosen_version, collect
from tests.fakes import cases
from tests.fakes.onnx_models import stored
from tests.integration.predict.conftest import ROW, Serving

PATH = "/v1/models/churn/predict"
_IDS = re.compile(r'"(prediction_id|correlation_id)":"[^"]+"')

type Ask = Callable[[bytes, dict[str, str]], httpx.Response]


def exported(serving: Serving, path: Path, version: str | None = None) -> Manifest:
    """Exports churn from the stack, as the verb does."""
    record, record_of_serving = chosen_version(serving.stack.registry, "churn", version)
    contents = collect(
        S3ObjectStore(client("s3")), cases.ARTIFACT_BUCKET, record, record_of_serving, "edge"
    )
    return write_bundle(
        path,
        contents,
        kind="bundle",
        serving=record_of_serving,
        task=Task.BINARY,
        algorithm=record.algorithm,
        trained_at=record.created_at,
    )


def register_candidate(serving: Serving, number: int) -> None:
    """Registers a version that is not evaluated yet."""
    registry = serving.stack.registry
    spec = cases.spec("churn")
    cases.apply(registry, spec)
    run = cases.run(number, spec)
    registry.create_run(run)
    task, ingest = cases.training_input(run), cases.ingested(f"d{number}", "churn")
    registry.record_dataset(task, ingest, train_on_upload=True)
    registry.register_version(task, ingest, cases.fitted(run.run_id, "churn"))


@pytest.fixture
def ask(serving: Serving, tmp_path: Path) -> Iterator[Ask]:
    """Sends a request to a server of the champion's bundle."""
    serving.crown(1)
    exported(serving, tmp_path / "churn.bundle")
    app = server_app.build(ServerSettings(bundles=(tmp_path,), capture="off"))

    def one(body: bytes, headers: dict[str, str]) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as http:
                return await http.post(PATH, content=body, headers=headers)

        return asyncio.run(send())

    yield one
    telemetry.unobserve()


def without_ids(body: str) -> str:
    return _IDS.sub(r'"\1":""', body)


@pytest.mark.parametrize(
    "document",
    [
        {"rows": [ROW]},
        {"rows": [ROW | {"plan": None, "tenure": None}, ROW | {"plan": "never seen"}]},
        {"rows": [ROW | {"age": 17, "tenure": -1e30, "city": " Wien\t"}] * 50},
        {"columns": {name: [value, value] for name, value in ROW.items()}},
        {"rows": [ROW | {"age": 2**53 + 1}]},
        {"rows": [ROW | {"age": "41"}, ROW | {"plan": 7}, {"age": 1}]},
        {"rows": []},
        {"rows": [ROW], "extra": 1},
        [1, 2],
    ],
    ids=[
        "row",
        "missing-unseen",
        "outside",
        "columns",
        "integer",
        "wrong",
        "none",
        "extra",
        "list",
    ],
)
def test_answers_and_refusals_are_those_of_the_function(
    serving: Serving, ask: Ask, document: Any
) -> None:
    body = json.dumps(document).encode()

    here = ask(body, {"content-type": "application/json"})
    there = serving.predict(body)

    assert here.status_code == there.status
    assert without_ids(here.text) == without_ids(there.body)
    assert here.headers["content-type"] == there.headers["content-type"]


def test_a_version_that_is_no_champion_is_exported_by_its_number(
    serving: Serving, tmp_path: Path
) -> None:
    serving.crown(1)
    serving.crown(2)

    first = exported(serving, tmp_path / "a.bundle", "1")
    champion = exported(serving, tmp_path / "b.bundle")

    assert (first.version, champion.version) == (1, 2)
    assert exported(serving, tmp_path / "c.bundle", "champion") == champion
    assert (tmp_path / "b.bundle").read_bytes() == (tmp_path / "c.bundle").read_bytes()
    assert Bundle.open(tmp_path / "a.bundle").manifest == first
    with pytest.raises(NotFoundError):
        exported(serving, tmp_path / "d.bundle", "9")


def test_a_version_gives_the_same_bundle_before_and_after_it_was_champion(
    serving: Serving, tmp_path: Path
) -> None:
    serving.crown(1)
    exported(serving, tmp_path / "champion.bundle")
    serving.crown(2)
    exported(serving, tmp_path / "archived.bundle", "1")

    assert (tmp_path / "champion.bundle").read_bytes() == (
        tmp_path / "archived.bundle"
    ).read_bytes()


def test_a_version_that_did_not_pass_its_gates_is_not_exported(
    serving: Serving, tmp_path: Path
) -> None:
    serving.crown(1)
    register_candidate(serving, 2)

    with pytest.raises(ConflictError, match="passed their gates"):
        exported(serving, tmp_path / "churn.bundle", "2")


def test_what_is_not_what_was_registered_is_not_exported(serving: Serving, tmp_path: Path) -> None:
    model = serving.crown(1)
    serving.put(model.model_key, stored("other", bias=9.0).onnx)

    with pytest.raises(DigestMismatchError, match="model of churn@1"):
        exported(serving, tmp_path / "churn.bundle")
    client("s3").delete_object(Bucket=cases.ARTIFACT_BUCKET, Key=model.model_key)
    with pytest.raises(ArtifactError, match="the registered model does not exist"):
        exported(serving, tmp_path / "churn.bundle")
    assert not (tmp_path / "churn.bundle").exists()

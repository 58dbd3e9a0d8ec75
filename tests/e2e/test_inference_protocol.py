"""The public clients of the Open Inference Protocol, unmodified, through API Gateway."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from millrace.signature import FeatureField, Signature
from millrace.spec import Algorithm, ColumnType, Task
from millrace_cli.client import ApiClient
from tests.clients.asking import ask
from tests.clients.plans import plan_of
from tests.e2e.conftest import Sample
from tests.e2e.signing import reachable

pytestmark = pytest.mark.needs("rest-api")

ROWS = 5


@pytest.fixture(scope="module")
def url(api: ApiClient) -> Iterator[str]:
    """Where the clients ask."""
    with reachable(api) as found:
        yield found


@pytest.fixture(scope="module")
def plan(url: str, cancer: Sample, trained: dict[str, Any], api: ApiClient) -> dict[str, Any]:
    """What they ask: the champion that was trained on breast cancer data."""
    rows = [cancer.feature_row(index) for index in range(ROWS)]
    signature = Signature(
        model=trained["model"],
        task=Task.BINARY,
        target="target",
        features=tuple(
            FeatureField(name=name, type=ColumnType.NUMBER, nullable=False) for name in rows[0]
        ),
        classes=("0", "1"),
        target_type=ColumnType.INTEGER,
        algorithm=Algorithm.LINEAR,
        onnx_opset=17,
    )
    champion = api.get(f"/v1/models/{trained['model']}")["champion_version"]
    return plan_of(url, signature, rows, version=champion)


@pytest.fixture(scope="module")
def expected(api: ApiClient, cancer: Sample, plan: dict[str, Any]) -> dict[str, list[Any]]:
    """What the native route answers to the same rows, as outputs."""
    rows = [cancer.feature_row(index) for index in range(ROWS)]
    answer = api.post(f"/v1/models/{plan['model']}/predict", {"rows": rows})
    predictions = answer["predictions"]
    return {
        "label": [p["label"] for p in predictions],
        "probabilities": [x for p in predictions for x in p["probabilities"].values()],
    }


def flat(values: Any) -> list[Any]:
    """Elements of nested lists."""
    return [x for v in values for x in flat(v)] if isinstance(values, list) else [values]


def expect_answers(told: dict[str, Any], expected: dict[str, list[Any]]) -> None:
    """Every answer that a client had is the native route's."""
    for how, answer in told["answers"].items():
        assert answer["parameters"]["prediction_id"], how
        for name, output in answer["outputs"].items():
            assert flat(output["data"]) == pytest.approx(expected[name], rel=1e-6), how


STATUSES = {
    "missing model": "404",
    "wrong datatype": "400",
    "wrong shape": "400",
    "missing input": "400",
    "unknown input": "400",
    "unknown output": "400",
    "ragged rows": "400",
}


def expect_refusals(told: dict[str, Any]) -> None:
    """Every wrong request was refused, with words of ours."""
    assert {case: came["status"] for case, came in told["wrong"].items()} == STATUSES
    assert "there is no model" in told["wrong"]["missing model"]["message"]
    assert "is missing" in told["wrong"]["missing input"]["message"]


def test_triton_s_client_works(plan: dict[str, Any], expected: dict[str, list[Any]]) -> None:
    told = ask("triton", plan)

    assert told["live"] is told["ready"] is told["model ready"] is told["version ready"] is True
    assert told["missing ready"] is False
    assert told["metadata"] == told["version metadata"]
    assert told["metadata"]["versions"] == [plan["version"]]
    listed = {m["name"]: m for m in told["index"]}
    assert listed[plan["model"]]["state"] == "READY"
    assert listed[plan["model"]]["version"] == plan["version"]
    expect_answers(told, expected)
    assert told["answers"]["binary"]["id"] == "request-1"
    assert all(o["binary"] for o in told["answers"]["packed"]["outputs"].values())
    expect_refusals(told)


def test_kserve_s_client_works(plan: dict[str, Any], expected: dict[str, list[Any]]) -> None:
    told = ask("kserve", plan)

    assert told["live"] is told["ready"] is told["model ready"] is True
    assert told["missing ready"] is False
    expect_answers(told, expected)
    expect_refusals(told)


def test_the_open_inference_client_works(
    plan: dict[str, Any], expected: dict[str, list[Any]]
) -> None:
    told = ask("open_inference", plan)

    assert told["server"]["name"] == "millrace"
    assert told["missing ready"]["kind"] == "NotFoundError"
    expect_answers(told, expected)
    expect_refusals(told)


def test_the_pydantic_client_works(plan: dict[str, Any], expected: dict[str, list[Any]]) -> None:
    told = ask("pydantic", plan)

    assert told["ready"] is True
    assert told["refused"] == 404
    for name, values in told["answer"].items():
        assert flat(values) == pytest.approx(expected[name], rel=1e-6)


def test_a_damaged_header_length_is_refused_in_the_protocol_s_words(
    url: str, plan: dict[str, Any]
) -> None:
    answer = httpx.post(
        f"{url}/v2/models/{plan['model']}/infer",
        content=b'{"inputs": []}\xff\xfe',
        headers={"Inference-Header-Content-Length": "9000"},
        timeout=30,
    )

    assert answer.status_code == 400
    assert "Inference-Header-Content-Length" in answer.json()["error"]

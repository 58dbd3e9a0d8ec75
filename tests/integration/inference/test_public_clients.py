"""The public clients, unmodified, against `millrace serve`."""

import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from tests.clients.asking import ask
from tests.clients.plans import plan_of
from tests.integration.inference.conftest import ROWS, Served


def natively(served: Served, model: str) -> list[dict[str, Any]]:
    """What the native route answers to the same rows."""
    answer = httpx.post(f"{served.url}/v1/models/{model}/predict", json={"rows": ROWS})
    assert answer.status_code == 200, answer.text
    predictions: list[dict[str, Any]] = answer.json()["predictions"]
    return predictions


def flat(values: Any) -> list[Any]:
    """Elements of nested lists."""
    return [x for v in values for x in flat(v)] if isinstance(values, list) else [values]


def expect_answer(outputs: Mapping[str, Any], native: list[dict[str, Any]]) -> None:
    """Whatever outputs came hold what the native route answers."""
    assert outputs
    for name, output in outputs.items():
        expected = {
            "label": lambda: [p["label"] for p in native],
            "probabilities": lambda: [x for p in native for x in p["probabilities"].values()],
            "prediction": lambda: [p["value"] for p in native],
        }[name]()
        assert flat(output["data"]) == pytest.approx(expected, rel=1e-6), name
        rows, *rest = output["shape"]
        assert rows == len(native)
        assert rest == ([len(native[0]["probabilities"])] if name == "probabilities" else [])


@pytest.fixture(params=["churn", "spend"])
def model(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def plan(served: Served, model: str) -> dict[str, Any]:
    version = {"churn": 2, "spend": 1}[model]
    return plan_of(served.url, served.signatures[model], ROWS, version=version)


def test_triton_s_client_works(served: Served, model: str, plan: dict[str, Any]) -> None:
    told = ask("triton", plan)

    native = natively(served, model)
    assert told["live"] is told["ready"] is told["model ready"] is told["version ready"] is True
    assert told["missing ready"] is False
    assert told["server"]["name"] == "millrace"
    assert "binary_tensor_data" in told["server"]["extensions"]
    assert told["metadata"] == told["version metadata"]
    assert {i["name"] for i in told["metadata"]["inputs"]} == set(ROWS[0])
    assert told["metadata"]["outputs"] == plan["outputs"]
    assert told["index"] == [
        {"name": "churn", "version": "2", "state": "READY", "reason": ""},
        {"name": "spend", "version": "1", "state": "READY", "reason": ""},
    ]
    for how, answer in told["answers"].items():
        assert answer["model_version"] == plan["version"], how
        assert answer["parameters"]["prediction_id"], how
        expect_answer(answer["outputs"], native)
        binary = {name: o["binary"] for name, o in answer["outputs"].items()}
        wanted = {
            "json out": {plan["score"]: False},
            "mixed out": {plan["score"]: True, **dict.fromkeys(plan["others"], False)},
        }
        names = {o["name"] for o in plan["outputs"]}
        assert binary == wanted.get(how, dict.fromkeys(names, True)), how
    assert told["answers"]["binary"]["id"] == "request-1"
    assert told["aio"]["live"] is told["aio"]["ready"] is True
    expect_answer(told["aio"]["answer"]["outputs"], native)


def test_kserve_s_client_works(served: Served, model: str, plan: dict[str, Any]) -> None:
    told = ask("kserve", plan)

    assert told["live"] is told["ready"] is told["model ready"] is True
    assert told["missing ready"] is False
    for answer in told["answers"].values():
        assert answer["model_name"] == model
        assert answer["parameters"]["prediction_id"]
        expect_answer(answer["outputs"], natively(served, model))
    assert told["answers"]["json"]["id"] == "request-1"


def test_the_open_inference_client_works(served: Served, model: str, plan: dict[str, Any]) -> None:
    told = ask("open_inference", plan)

    assert told["server"]["name"] == "millrace"
    assert told["metadata"] == told["version metadata"]
    assert told["metadata"]["versions"] == [plan["version"]]
    assert told["missing ready"]["kind"] == "NotFoundError"
    for answer in told["answers"].values():
        assert answer["model_version"] == plan["version"]
        expect_answer(answer["outputs"], natively(served, model))
    assert told["answers"]["all"]["id"] == "request-1"
    assert list(told["answers"]["one output"]["outputs"]) == [plan["score"]]


def test_the_pydantic_client_works(served: Served, model: str, plan: dict[str, Any]) -> None:
    told = ask("pydantic", plan)

    assert told["ready"] is True
    assert told["refused"] == 404
    shapes = {o["name"]: [len(ROWS), *o["shape"][1:]] for o in plan["outputs"]}
    outputs = {n: {"data": v, "shape": shapes[n]} for n, v in told["answer"].items()}
    expect_answer(outputs, natively(served, model))


REFUSALS = {
    "missing model": ("404", "there is no model"),
    "wrong datatype": ("400", "age: expected datatype INT64 or another numeric one, got BYTES"),
    "wrong shape": ("400", "age: expected shape [n] or [n, 1], got [3, 2]"),
    "missing input": ("400", "age: is missing"),
    "unknown input": ("400", "inputs[5]: is no feature of model churn"),
    "unknown output": ("400", "outputs[0] is none of model churn"),
    "ragged rows": ("400", "city: has 2 values where the longest column has 3"),
}


@pytest.mark.parametrize("client", ["triton", "kserve", "open_inference"])
def test_each_client_reports_what_is_wrong(served: Served, client: str) -> None:
    told = ask(client, plan_of(served.url, served.signatures["churn"], ROWS, version=2))

    assert told["wrong"].keys() == REFUSALS.keys()
    for case, (status, message) in REFUSALS.items():
        came = told["wrong"][case]
        assert came is not None, f"{case} was answered"
        assert came["status"] == status, case
        assert message in came["message"], case
        if client == "open_inference" and status == "400":
            assert came["kind"] == "BadRequestError"


def test_what_clients_ask_is_captured_like_any_prediction(served: Served) -> None:
    before = len(served.lines.read_text(encoding="utf-8").splitlines())
    plan = plan_of(served.url, served.signatures["churn"], ROWS, version=2) | {"wrong": {}}

    told = ask("open_inference", plan)

    lines = [json.loads(x) for x in served.lines.read_text(encoding="utf-8").splitlines()[before:]]
    captured = {x["prediction_id"]: x for x in lines if x["message"] == "predicted"}
    for answer in told["answers"].values():
        line = captured[answer["parameters"]["prediction_id"]]
        assert line["Predictions"] == len(ROWS)
        assert line["capture"]["inputs"]["age"] == [row["age"] for row in ROWS]
        assert "city" not in line["capture"]["inputs"]

"""The committed OpenAPI document is valid, current, and says what the apps do."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import validate

import millrace
from millrace.http import api, predict
from millrace.http.openapi import document, render
from millrace.http.prediction_models import Predictions
from millrace.http.problems import Problem
from millrace.http.routes import ROUTES

COMMITTED = Path(millrace.__file__).parent / "http" / "openapi.json"


@pytest.fixture(scope="module")
def committed() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(COMMITTED.read_text(encoding="utf-8"))
    return loaded


def test_the_committed_document_is_current() -> None:
    assert COMMITTED.read_text(encoding="utf-8") == render(), "run `make openapi`"


def test_the_document_is_valid_openapi(committed: dict[str, Any]) -> None:
    validate(committed)


def test_the_document_has_every_route_and_no_other(committed: dict[str, Any]) -> None:
    described = {(m.upper(), p) for p, methods in committed["paths"].items() for m in methods}

    assert described == {(route.method, route.path) for route in ROUTES}


def test_each_app_has_its_routes_and_no_other() -> None:
    apps = {
        "api": api.create_app(_Nothing()),  # type: ignore[arg-type]
        "predict": predict.create_app(_Nothing()),  # type: ignore[arg-type]
    }
    for name, app in apps.items():
        served = {
            (method.upper(), path)
            for path, methods in app.openapi()["paths"].items()
            for method in methods
        }
        # The Open Inference Protocol is answered beside FastAPI.
        assert served == {
            (r.method, r.path)
            for r in ROUTES
            if r.function == name and not r.path.startswith("/v2")
        }


def test_every_error_is_documented_in_its_protocol_s_form(committed: dict[str, Any]) -> None:
    for path, methods in committed["paths"].items():
        for method, operation in methods.items():
            for status, response in operation["responses"].items():
                if int(status) < 400 or (path == "/v1/health" and status == "503"):
                    continue
                media_type, schema = "application/problem+json", "Problem"
                if path.startswith("/v2"):
                    media_type, schema = "application/json", "InferenceError"
                assert response["content"] == {
                    media_type: {"schema": {"$ref": f"#/components/schemas/{schema}"}}
                }, f"{method} {path} {status}"


def test_operations_have_unique_names(committed: dict[str, Any]) -> None:
    names = [o["operationId"] for methods in committed["paths"].values() for o in methods.values()]

    assert len(names) == len(set(names)) == len(ROUTES)


def test_path_parameters_are_described(committed: dict[str, Any]) -> None:
    for path, methods in committed["paths"].items():
        for operation in methods.values():
            told = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"}
            assert told == set(re.findall(r"{(\w+)}", path))


def test_the_hand_written_answers_have_the_documented_models() -> None:
    schemas = document()["components"]["schemas"]

    assert set(schemas["Predictions"]["properties"]) == set(Predictions.model_fields)
    assert set(schemas["Problem"]["properties"]) == set(Problem.model_fields)


class _Nothing:
    def __getattr__(self, name: str) -> None:
        return None

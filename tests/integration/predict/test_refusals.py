"""What bad input gets: a problem that names row and field. One stack serves them all."""

import base64
import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest

from functions.predict import handler as predict
from tests.fakes import cases, cloud
from tests.fakes.gateway import Caller, problem
from tests.integration.predict.conftest import ROW, Serving


@pytest.fixture(scope="module")
def serving() -> Iterator[Serving]:
    """One stack with a champion, which no test changes."""
    with pytest.MonkeyPatch.context() as patch, cloud.stack(patch) as stack:
        made = Serving(stack, Caller(predict.build(predict.PredictSettings.from_environment())))
        made.crown(1)
        cases.candidate(stack.registry, 1, cases.spec("waiting"))
        yield made


# ── Refusals ────────────────────────────────────────────────────────────────────────────────────

BODIES: list[tuple[str, Any, int, str, str | None, int | None]] = [
    (
        "missing feature",
        {"rows": [ROW, {k: v for k, v in ROW.items() if k != "age"}]},
        422,
        "invalid_request",
        "age",
        1,
    ),
    ("unknown feature", {"rows": [{**ROW, "agee": 1}]}, 422, "invalid_request", "agee", 0),
    ("wrong type", {"rows": [ROW, ROW, {**ROW, "age": "41"}]}, 422, "invalid_request", "age", 2),
    ("boolean for integer", {"rows": [{**ROW, "age": True}]}, 422, "invalid_request", "age", 0),
    ("null", {"rows": [{**ROW, "active": None}]}, 422, "invalid_request", "active", 0),
    ("fraction", {"rows": [{**ROW, "age": 1.5}]}, 422, "invalid_request", "age", 0),
    (
        "NaN",
        '{"columns": {"age": [1, NaN], "plan": ["a", "a"], "tenure": [1, 1], '
        '"active": [true, true], "city": ["x", "x"]}}',
        422,
        "invalid_request",
        "age",
        1,
    ),
    (
        "infinity",
        json.dumps({"rows": [{**ROW, "tenure": float("inf")}]}),
        422,
        "invalid_request",
        "tenure",
        0,
    ),
    (
        "number beyond a double",
        json.dumps({"rows": [{**ROW, "tenure": 777}]}).replace("777", "1e999"),
        422,
        "invalid_request",
        "tenure",
        0,
    ),
    (
        "integer beyond 2^53",
        {"rows": [{**ROW, "age": 2**53 + 1}]},
        422,
        "invalid_request",
        "age",
        0,
    ),
    (
        "ragged columns",
        {"columns": {**{n: [v, v] for n, v in ROW.items()}, "age": [1]}},
        422,
        "invalid_request",
        "age",
        None,
    ),
    ("no rows", {"rows": []}, 422, "invalid_request", "rows", None),
    ("neither rows nor columns", {"instances": [ROW]}, 422, "invalid_request", "body", None),
    (
        "duplicate key",
        '{"rows": [{"age": 1, "age": 2, "plan": "a", "tenure": 1, "active": true, "city": "x"}]}',
        422,
        "invalid_request",
        "age",
        None,
    ),
    ("huge batch", {"rows": [ROW] * 5_001}, 413, "request_too_large", "rows", None),
    ("huge body", '{"rows": [' + " " * 4_500_001 + "]}", 413, "request_too_large", None, None),
    ("invalid JSON", '{"rows": [', 400, "malformed_request", None, None),
    ("no body", None, 400, "malformed_request", None, None),
    ("nesting", "[" * 100_000, 400, "malformed_request", None, None),
]


@pytest.mark.parametrize(
    ("body", "status", "code", "field", "row"),
    [case[1:] for case in BODIES],
    ids=[case[0] for case in BODIES],
)
def test_a_bad_body_is_refused_by_name(
    serving: Serving, body: Any, status: int, code: str, field: str | None, row: int | None
) -> None:
    told = problem(serving.predict(body), status, code)

    assert told.instance == "/v1/models/churn/predict"
    assert told.type == f"urn:millrace:problem:{code.replace('_', '-')}"
    if field is None:
        assert told.errors == []
    else:
        assert [(e.field, e.row) for e in told.errors][:1] == [(field, row)]


def test_a_huge_batch_is_told_what_to_do(serving: Serving) -> None:
    told = problem(serving.predict({"rows": [ROW] * 5_001}), 413, "request_too_large")

    assert "at most 5,000 rows, got 5,001" in told.detail
    assert "several requests" in told.detail
    assert "POST /v1/models/churn/batch" in told.detail


@pytest.mark.parametrize("name", ["nobody", "No-Such", "a", "x" * 60, "..%2f..%2fetc"])
def test_an_unknown_model_is_not_found(serving: Serving, name: str) -> None:
    told = serving.predict({"rows": [ROW]}, name=name)

    assert told.status == 404
    assert told.json["code"] in ("not_found", "no_such_route")


def test_a_model_without_champion_says_so(serving: Serving) -> None:
    told = problem(serving.predict({"rows": [ROW]}, name="waiting"), 404, "no_champion")

    assert "waiting" in told.detail


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Content-Type": "application/xml"}, 415, "unsupported_media_type"),
        ({"Accept": "image/png"}, 406, "not_acceptable"),
        ({"Content-Encoding": "br"}, 415, "unsupported_media_type"),
        ({"Host": "a:b:c"}, 400, "malformed_request"),
    ],
    ids=["xml", "png", "brotli", "host"],
)
def test_headers_that_cannot_be_met_are_refused(
    serving: Serving, headers: dict[str, str], status: int, code: str
) -> None:
    problem(serving.predict(json.dumps({"rows": [ROW]}), headers=headers), status, code)


def test_a_gzip_bomb_is_refused(serving: Serving) -> None:
    bomb = base64.b64encode(gzip.compress(b" " * 50_000_000))

    reply = serving.predict(bomb, base64_encoded=True, headers={"Content-Encoding": "gzip"})

    problem(reply, 413, "request_too_large")


PACKED = gzip.compress(json.dumps({"rows": [ROW]}).encode())


@pytest.mark.parametrize(
    "body",
    [
        PACKED[:-9],
        PACKED[:15] + b"\xff" * 30 + PACKED[45:],
        PACKED.decode(errors="replace").encode(),
    ],
    ids=["truncated", "flipped", "read as text on its way"],
)
def test_a_damaged_gzip_is_refused(serving: Serving, body: bytes) -> None:
    damaged = base64.b64encode(body)

    reply = serving.predict(damaged, base64_encoded=True, headers={"Content-Encoding": "gzip"})

    problem(reply, 400, "malformed_request")


def test_a_body_that_is_no_base64_is_refused(serving: Serving) -> None:
    problem(serving.predict("x", base64_encoded=True), 400, "malformed_request")


def test_another_method_is_refused_with_what_is_possible(serving: Serving) -> None:
    reply = serving.call("GET", "/v1/models/churn/predict")

    problem(reply, 405, "method_not_allowed")
    assert reply.headers["allow"] == "POST"


def test_another_route_is_not_found(serving: Serving) -> None:
    problem(serving.call("GET", "/v1/nothing"), 404, "no_such_route")

"""Personal data put into every input of every route stays out of logs, metrics and errors.

A canary is a word that occurs nowhere else. Each route is asked with one in each place a caller can
write to: path, query, headers, cookies, the whole body, every key and every value the OpenAPI
document knows of, and values of wrong types. Routes come from the list of routes and bodies from
the document, so that a new route is covered without a change here.

Three things may hold a caller's words. The answer to a request names the path that was asked
(`instance`, and what is not found there). A prediction's captured record has its features, private
ones aside. And a spec is its writer's own document: what is wrong with it is told with its words.
"""

import io
import itertools
import json
from collections.abc import Iterator
from typing import Any, Final

import pytest

from millrace.http.openapi import document
from millrace.http.routes import ROUTES, Route
from millrace.observability import logger
from tests.fakes import cases
from tests.fakes.cloud import LambdaContext
from tests.fakes.gateway import event
from tests.integration.whole.conftest import Whole

HEADERS: Final = (
    "User-Agent",
    "Accept",
    "Accept-Language",
    "Authorization",
    "Content-Encoding",
    "Cookie",
    "Idempotency-Key",
    "If-Match",
    "Inference-Header-Content-Length",
    "Origin",
    "Referer",
    "X-Amzn-Trace-Id",
    "X-Api-Key",
    "X-Canary",
    "X-Correlation-Id",
    "X-Forwarded-For",
    "X-Request-Id",
)
ROW: Final = {"age": 41, "plan": "basic", "tenure": 3.5, "active": True, "city": "Graz"}
APPLY: Final = next(r for r in ROUTES if (r.method, r.path) == ("PUT", "/v1/specs/{name}"))
DOCUMENT: Final = document()


class Canaries:
    """Makes words that occur once."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self.flown: list[str] = []

    def new(self) -> str:
        """One more; a model may be called so."""
        self.flown.append(f"kanari{next(self._numbers):05d}x")
        return self.flown[-1]


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema without its outermost reference."""
    name = schema.get("$ref", "").rpartition("/")[2]
    return DOCUMENT["components"]["schemas"][name] if name else schema


def bodies(route: Route, canaries: Canaries) -> Iterator[tuple[str, bytes]]:
    """Bodies with a canary each; the content type before."""
    new = canaries.new
    operation = DOCUMENT["paths"][route.path][route.method.lower()]
    content = operation.get("requestBody", {}).get("content", {})
    for kind in (*content, new()):
        yield kind, new().encode()
        yield kind, json.dumps(new()).encode()
        yield kind, f'{{"{new()}": '.encode()
        yield kind, json.dumps([new()]).encode()
        yield kind, json.dumps({new(): new()}).encode()
        yield kind, json.dumps({new(): {new(): [new()]}}).encode()
    for kind, described in content.items():
        schema = resolved(described.get("schema", {}))
        for one in map(resolved, schema.get("oneOf", schema.get("anyOf", [schema]))):
            names = list(one.get("properties", {}))
            for name in names:
                for value in (new, lambda: [new()], lambda: {new(): new()}):
                    yield kind, json.dumps({name: value()}).encode()
                    whole = {n: new() for n in names if n != name}
                    yield kind, json.dumps({**whole, name: value()}).encode()
    if route.path.endswith("/predict"):
        yield from predictions(canaries)


def predictions(canaries: Canaries) -> Iterator[tuple[str, bytes]]:
    """Rows that are wrong in one place each."""
    new = canaries.new
    for name, value in ROW.items():
        wrongs: list[Any] = [[new()], {new(): new()}]
        if not isinstance(value, str):
            wrongs.append(new())
        for wrong in wrongs:
            yield "application/json", json.dumps({"rows": [ROW, {**ROW, name: wrong}]}).encode()
            columns = {k: [v, v] for k, v in ROW.items()} | {name: [value, wrong]}
            yield "application/json", json.dumps({"columns": columns}).encode()
        yield "application/json", json.dumps({"columns": {**columns, name: new()}}).encode()
    yield "application/json", json.dumps({"rows": [{**ROW, new(): 1}]}).encode()
    yield "application/json", json.dumps({"rows": [ROW], new(): new()}).encode()
    yield "application/json", json.dumps({"rows": [{**ROW, "city": new() + "\0"}]}).encode()
    text = f'{{"rows": [{{"age": NaN, "plan": "{new()}"}}]}}'
    yield "application/json", text.encode()
    key = new()
    yield "application/json", f'{{"rows": [{{"{key}": 1, "{key}": 2}}]}}'.encode()


def queries(route: Route) -> list[str]:
    """Query parameters the document knows of, and one it does not."""
    operation = DOCUMENT["paths"][route.path][route.method.lower()]
    named = [p["name"] for p in operation.get("parameters", []) if p["in"] == "query"]
    return [*named, "surprise"]


def requests(route: Route, canaries: Canaries) -> Iterator[tuple[dict[str, Any], bool]]:
    """Events for a function, and whether the canary is in the path."""
    parameters = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
    known = dict.fromkeys(parameters, "unheard-of") | {
        "name": cases.MODEL,
        "version": "1",
        "run_id": cases.run(1, cases.spec()).run_id,
    }
    path = route.path.format_map(known)
    new = canaries.new
    plain = json.dumps({"rows": [ROW]})
    sent = {"Content-Type": "application/json"}
    for parameter in parameters:
        wild = route.path.format_map({**known, parameter: new()})
        yield event(route.method, wild, plain, headers=sent), True
    for name in queries(route):
        yield event(route.method, f"{path}?{name}={new()}", plain, headers=sent), False
        yield event(route.method, f"{path}?{new()}={new()}", plain, headers=sent), False
    for name in HEADERS:
        yield event(route.method, path, plain, headers={**sent, name: new()}), False
    yield event(route.method, path, plain, headers={**sent, f"X-{new()}": new()}), False
    if route.method in ("POST", "PUT", "PATCH"):
        for kind, body in bodies(route, canaries):
            yield event(route.method, path, body, headers={"Content-Type": kind}), False


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: f"{r.method} {r.path}")
def test_what_a_caller_writes_reaches_no_log_no_metric_and_no_error(
    route: Route, whole: Whole, capsys: pytest.CaptureFixture[str], logged: io.StringIO
) -> None:
    canaries = Canaries()
    refused = 0

    for asked, in_path in requests(route, canaries):
        before = len(canaries.flown)
        reply = whole.handlers[route.function](asked, LambdaContext())
        told = reply["body"] + json.dumps(reply["headers"])
        if reply["statusCode"] >= 400 and not in_path and route != APPLY:
            refused += 1
            leaked = [c for c in canaries.flown if c in told]
            assert not leaked, f"{asked['path']} {asked['body']}: {told}"
        assert before == len(canaries.flown)

    written = capture(capsys) + logged.getvalue()
    assert canaries.flown
    assert [c for c in canaries.flown if c in written] == []


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Where the logger writes to: it took hold of standard output before a test could."""
    stream = io.StringIO()
    monkeypatch.setattr(logger.registered_handler, "stream", stream)
    return stream


def capture(capsys: pytest.CaptureFixture[str]) -> str:
    """Everything written to standard output and error so far, log lines and metrics among it."""
    out, err = capsys.readouterr()
    return out + err

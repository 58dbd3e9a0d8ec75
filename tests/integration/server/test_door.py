"""The server's application in this process: the door, the routes beside the service, its settings."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from millrace.errors import ConfigurationError
from millrace.server import app as server_app
from millrace.server.keys import read_keys
from millrace.server.settings import ServerSettings
from millrace.serving import telemetry
from tests.fakes.bundles import bundled
from tests.integration.server.conftest import ROW

KEY = "a-key-of-some-length"
BODY = json.dumps({"rows": [ROW]}).encode()

type Ask = Callable[..., httpx.Response]


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Callable[..., Ask]]:
    """Builds a server with settings; what it gives sends one request to it."""
    bundled(tmp_path / "churn.bundle")

    def made(**settings: Any) -> Ask:
        app = server_app.build(
            ServerSettings(
                **{"bundles": (tmp_path,), "capture": str(tmp_path / "lines.jsonl")} | settings
            )
        )

        def one(method: str, path: str, **how: Any) -> httpx.Response:
            async def send() -> httpx.Response:
                transport = httpx.ASGITransport(app)
                async with httpx.AsyncClient(transport=transport, base_url="http://here") as http:
                    return await http.request(method, path, **how)

            return asyncio.run(send())

        return one

    yield made
    telemetry.unobserve()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys.txt"
    path.write_text(f"# for the shop\n{KEY}\nanother-key-of-some-length\n")
    return path


@pytest.mark.parametrize("sent", [None, "", "wrong-key-of-some-length", KEY.upper()])
@pytest.mark.parametrize("path", ["/v1/models/churn/predict", "/v2/models/churn/infer", "/v2"])
def test_without_a_valid_key_nobody_is_let_in(
    ask: Callable[..., Ask], keys: Path, sent: str | None, path: str
) -> None:
    headers = {} if sent is None else {"x-api-key": sent}

    answer = ask(api_key_file=keys)("POST", path, content=BODY, headers=headers)

    assert answer.status_code == 401
    if path.startswith("/v2"):
        assert answer.json() == {"error": "expected a valid API key in the header x-api-key"}
    else:
        assert answer.json()["code"] == "unauthorized"
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("key", [KEY, "another-key-of-some-length"])
def test_every_key_of_the_file_lets_in(ask: Callable[..., Ask], keys: Path, key: str) -> None:
    one = ask(api_key_file=keys)

    answer = one("POST", "/v1/models/churn/predict", content=BODY, headers={"x-api-key": key})

    assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/v1/health", "/metrics"])
def test_probes_and_scrapers_need_no_key(ask: Callable[..., Ask], keys: Path, path: str) -> None:
    assert ask(api_key_file=keys)("GET", path).status_code == 200


@pytest.mark.parametrize(
    "content", ["", "# nothing\n", "short\n", f"{KEY}\nshort\n"], ids=["empty", "comment", "short", "one"]
)  # fmt: skip
def test_a_file_without_proper_keys_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.txt"
    path.write_text(content)

    with pytest.raises(ConfigurationError, match="at least 16 characters"):
        read_keys(path)


def test_a_file_of_keys_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_keys(tmp_path / "absent.txt")


def test_the_openapi_document_has_the_routes_that_are_here(ask: Callable[..., Ask]) -> None:
    one = ask()
    document = one("GET", "/v1/openapi.json").json()

    assert "/v1/models/{name}/predict" in document["paths"]
    assert "/v1/models/{name}/retrain" not in document["paths"]
    assert document["security"] == [{}]
    for path, operations in document["paths"].items():
        for method in operations:
            place = path.replace("{name}", "churn").replace("{version}", "1")
            answer = one(method.upper(), place, content=BODY if method == "post" else None)
            assert answer.status_code != 405, f"{method} {path}"
            assert "no_such_route" not in answer.text, f"{method} {path}"


def test_a_body_beyond_the_limit_is_refused(ask: Callable[..., Ask]) -> None:
    answer = ask(max_body_mb=0.001)("POST", "/v1/models/churn/predict", content=b" " * 1_001)

    assert answer.status_code == 413


def test_rows_beyond_the_limit_are_refused(ask: Callable[..., Ask]) -> None:
    body = json.dumps({"rows": [ROW] * 3}).encode()

    assert ask(max_rows=2)("POST", "/v1/models/churn/predict", content=body).status_code == 413


def test_a_body_that_trickles_in_is_given_up(ask: Callable[..., Ask]) -> None:
    async def never() -> AsyncIterator[bytes]:
        yield BODY[:10]
        await asyncio.get_running_loop().create_future()

    answer = ask(request_seconds=0.05)("POST", "/v1/models/churn/predict", content=never())

    assert answer.status_code == 408
    assert "within 0.05 seconds" in answer.json()["detail"]


def test_metrics_are_written_in_the_format_that_is_asked_for(ask: Callable[..., Ask]) -> None:
    one = ask()
    one("POST", "/v1/models/churn/predict", content=BODY)
    one("POST", "/v1/models/nowhere/predict", content=BODY)
    one("POST", "/v1/models/churn/predict", content=json.dumps({"rows": [ROW | {"age": 5}]}))

    plain = one("GET", "/metrics")
    openmetrics = one("GET", "/metrics", headers={"accept": "application/openmetrics-text"})

    assert plain.headers["content-type"].startswith("text/plain; version=")
    assert 'millrace_predictions_total{model="churn",version="1"} 2.0' in plain.text
    assert 'millrace_http_requests_total{route="predict",status="404"} 1.0' in plain.text
    assert 'millrace_rows_outside_contract_total{feature="age",model="churn"} 1.0' in plain.text
    assert 'error="NotFoundError",model=""' in plain.text
    assert "nowhere" not in plain.text, "a name that a caller invented is no label"
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
    assert openmetrics.text.endswith("# EOF\n")


def test_nothing_is_captured_when_it_is_off(
    ask: Callable[..., Ask], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    one = ask(capture="off")
    one("POST", "/v1/models/churn/predict", content=BODY)

    assert "predicted" not in capfd.readouterr().out
    assert not (tmp_path / "lines.jsonl").exists()


def test_settings_survive_the_environment(tmp_path: Path) -> None:
    settings = ServerSettings(
        bundles=(tmp_path / "a", tmp_path / "b"),
        workers=3,
        api_key_file=tmp_path / "k",
        capture="x",
    )

    assert ServerSettings.from_environment(settings.as_environment()) == settings


def test_every_model_is_loaded_before_the_first_request(tmp_path: Path) -> None:
    bundled(tmp_path / "a.bundle")
    bundled(tmp_path / "b.bundle", model="price")
    app = server_app.build(ServerSettings(bundles=(tmp_path,), capture="off"))
    sent: list[str] = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    receive: Callable[[], Awaitable[Any]] = _messages("lifespan.startup", "lifespan.shutdown")
    asyncio.run(app({"type": "lifespan"}, receive, send))
    telemetry.unobserve()

    body, _ = app.meters.exposition("")
    assert b'millrace_model_loads_total{model="churn"} 1.0' in body
    assert b'millrace_model_loads_total{model="price"} 1.0' in body
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def _messages(*kinds: str) -> Callable[[], Awaitable[Any]]:
    left = list(kinds)

    async def receive() -> dict[str, str]:
        return {"type": left.pop(0)}

    return receive

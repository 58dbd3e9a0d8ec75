"""What reads AWS without boto3 keeps the contract of what reads it with boto3."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from millrace.aws.clients import client
from millrace.aws.credentials import EARLY_SECONDS, Credentials, CredentialSource
from millrace.aws.dynamodb import DynamoTable, Key, Put
from millrace.aws.s3 import S3ObjectStore
from millrace.aws.wire import ATTEMPTS, Wire, WireObjects, WireTable
from millrace.errors import (
    AccessDeniedError,
    ConfigurationError,
    FinalError,
    NotFoundError,
    RetryableError,
    ServiceUnavailableError,
    ThrottledError,
)
from millrace.registry.serving import ServingReader
from tests.fakes import cases, cloud
from tests.fakes.onnx_models import crown

ENVIRONMENT = {"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}


def credentials() -> CredentialSource:
    return CredentialSource(lambda: 0.0, ENVIRONMENT)


# ── The contract ────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(params=["boto3", "wire"])
def table(request: pytest.FixtureRequest, stack: cloud.Cloud) -> DynamoTable | WireTable:
    if request.param == "boto3":
        return DynamoTable(client("dynamodb"), cloud.TABLE)
    return WireTable(Wire("dynamodb", credentials()), cloud.TABLE)


@pytest.fixture(params=["boto3", "wire"])
def objects(request: pytest.FixtureRequest, stack: cloud.Cloud) -> S3ObjectStore | WireObjects:
    if request.param == "boto3":
        return S3ObjectStore(client("s3"))
    return WireObjects(Wire("s3", credentials()))


def write(key: Key, item: dict[str, Any]) -> None:
    DynamoTable(client("dynamodb"), cloud.TABLE).transact([Put("item", key, item)], "write")


def test_an_item_comes_back_with_every_kind_of_value(table: DynamoTable | WireTable) -> None:
    item = {"text": 'ü"\n', "number": 3, "part": 0.1, "flag": True, "list": [1, "a"], "m": {"x": 1}}
    write(Key("MODEL#a", "SERVING"), item)

    found = table.get(Key("MODEL#a", "SERVING"))

    assert found == {"PK": "MODEL#a", "SK": "SERVING", **item}
    assert table.get(Key("MODEL#a", "nothing")) is None


def test_a_partition_of_the_index_comes_back_whole_and_in_order(
    table: DynamoTable | WireTable,
) -> None:
    for number in range(30):
        filler = "x" * 50_000  # a page ends at a megabyte
        key = {"GSI1PK": "MODELS", "GSI1SK": f"m{number:02d}", "filler": filler}
        write(Key(f"MODEL#m{number:02d}", "META"), key)

    page = table.query("MODELS", index=True)

    assert [i["GSI1SK"] for i in page.items] == [f"m{n:02d}" for n in range(30)]
    assert table.query("NOBODY", index=True).items == ()


def test_a_table_that_is_gone_is_the_deployments_fault(table: DynamoTable | WireTable) -> None:
    client("dynamodb").delete_table(TableName=cloud.TABLE)

    with pytest.raises(ConfigurationError, match="no table 'registry-table'"):
        table.get(Key("MODEL#a", "SERVING"))


@pytest.mark.parametrize("key", ["plain", "a/b c+ü.txt", "models/=&?#%/~x"])
def test_an_object_comes_back(objects: S3ObjectStore | WireObjects, key: str) -> None:
    body = bytes(range(256)) * 5_000
    client("s3").put_object(Bucket=cases.DATA_BUCKET, Key=key, Body=body)

    assert objects.read(cases.DATA_BUCKET, key) == body


@pytest.mark.parametrize(
    ("bucket", "code"), [(cases.DATA_BUCKET, "NoSuchKey"), ("no-such", "NoSuchBucket")]
)
def test_a_missing_object_is_not_found(
    objects: S3ObjectStore | WireObjects, bucket: str, code: str
) -> None:
    with pytest.raises(NotFoundError, match=f"read s3://{bucket}/nothing: .*{code}"):
        objects.read(bucket, "nothing")


def test_champion_versions_and_listing_are_those_of_the_registry(stack: cloud.Cloud) -> None:
    def put(key: str, body: bytes) -> None:
        client("s3").put_object(Bucket=cases.ARTIFACT_BUCKET, Key=key, Body=body)

    for number in (1, 2):
        crown(stack.registry, put, number)
    cases.candidate(stack.registry, 3, cases.spec())
    reader = ServingReader(WireTable(Wire("dynamodb", credentials()), cloud.TABLE))

    assert reader.get_serving("churn") == stack.registry.get_serving("churn")
    assert reader.get_serving("churn").version == 2
    assert (
        reader.get_serving("churn", 1).model_key == stack.registry.get_version("churn", 1).model_key
    )
    assert [(o.model, o.version) for o in reader.list_serving()] == [("churn", 2)]
    with pytest.raises(FinalError, match="churn@3 is candidate"):
        reader.get_serving("churn", 3)
    with pytest.raises(NotFoundError, match="no version 9"):
        reader.get_serving("churn", 9)
    with pytest.raises(NotFoundError, match="no model 'nobody'"):
        reader.get_serving("nobody", 1)


# ── Tries and connections, on a server that does as it is told ──────────────────────────────────


@dataclass
class Script:
    """Answers in turn: a status with a body, or None to hang up."""

    answers: list[tuple[int, bytes] | None] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    connections: set[Any] = field(default_factory=set)
    waits: list[float] = field(default_factory=list)
    url: str = ""

    def wire(self, service: str = "dynamodb", **environ: str) -> Wire:
        """Requests to this server."""
        return Wire(
            service,
            credentials(),
            environ={**ENVIRONMENT, "AWS_ENDPOINT_URL": self.url, **environ},
            wait=self.waits.append,
        )


@pytest.fixture
def script() -> Iterator[Script]:
    made = Script()

    class Answering(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            made.connections.add(self.client_address)
            made.asked.append(self.headers["authorization"])
            self.rfile.read(int(self.headers.get("content-length", 0)))
            answer = made.answers.pop(0)
            if answer is None:
                self.close_connection = True
                return
            status, body = answer
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST  # noqa: N815 - the name that http.server looks for

        def log_message(self, *_: Any) -> None:
            """Stays silent."""

    with serving(Answering) as url:
        made.url = url
        yield made


class serving:  # noqa: N801 - used as a function
    """A server on this machine for as long as the block runs."""

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join(timeout=10)
        self._server.server_close()


def error(code: str) -> bytes:
    return json.dumps(
        {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": "m"}
    ).encode()


FOUND = (200, b'{"Item": {"a": {"N": "1"}}}')
KEY = Key("MODEL#a", "SERVING")


@pytest.mark.parametrize(
    "passing",
    [(500, b"{}"), (503, b"busy"), (429, b""), (400, error("ThrottlingException")), None],
    ids=["500", "503", "429", "throttled", "hung up"],
)
def test_what_passes_is_tried_again(script: Script, passing: tuple[int, bytes] | None) -> None:
    script.answers = [passing, passing, FOUND]

    assert WireTable(script.wire(), "t").get(KEY) == {"a": 1}
    assert len(script.waits) == 2
    assert all(0 <= w <= 1 for w in script.waits)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ((400, error("ProvisionedThroughputExceededException")), ThrottledError),
        ((500, error("InternalServerError")), ServiceUnavailableError),
        (None, ServiceUnavailableError),
    ],
    ids=["throttled", "500", "hung up"],
)
def test_tries_are_bounded(
    script: Script, answer: tuple[int, bytes] | None, expected: type[RetryableError]
) -> None:
    script.answers = [answer] * (ATTEMPTS + 5)

    with pytest.raises(expected, match="read MODEL#a SERVING"):
        WireTable(script.wire(), "t").get(KEY)
    assert len(script.asked) == ATTEMPTS


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("AccessDeniedException", AccessDeniedError),
        ("ExpiredTokenException", AccessDeniedError),
        ("ValidationException", FinalError),
    ],
)
def test_what_is_final_is_not_tried_again(
    script: Script, code: str, expected: type[FinalError]
) -> None:
    script.answers = [(400, error(code))]

    with pytest.raises(expected, match=code):
        WireTable(script.wire(), "t").get(KEY)
    assert len(script.asked) == 1


def test_a_connection_is_used_again(script: Script) -> None:
    script.answers = [FOUND] * 3
    table = WireTable(script.wire(), "t")

    for _ in range(3):
        table.get(KEY)

    assert len(script.connections) == 1


def test_a_connection_that_was_closed_meanwhile_is_replaced_at_once(script: Script) -> None:
    script.answers = [FOUND, None, FOUND]
    table = WireTable(script.wire(), "t")
    table.get(KEY)

    assert table.get(KEY) == {"a": 1}
    assert script.waits == []
    assert len(script.connections) == 2


def test_connections_are_renewed_on_demand(script: Script) -> None:
    script.answers = [FOUND] * 2
    wire = script.wire()
    WireTable(wire, "t").get(KEY)

    wire.disconnect()

    WireTable(wire, "t").get(KEY)
    assert len(script.connections) == 2


def test_an_unreachable_service_is_worth_another_try() -> None:
    environ = {**ENVIRONMENT, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    wire = Wire("s3", credentials(), environ=environ, wait=lambda _: None)

    with pytest.raises(ServiceUnavailableError, match="read s3://b/k"):
        WireObjects(wire).read("b", "k")


def test_an_answer_that_is_no_json_is_the_services_fault(script: Script) -> None:
    script.answers = [(502, b"<html>")] * ATTEMPTS

    with pytest.raises(ServiceUnavailableError):
        WireTable(script.wire(), "t").get(KEY)


# ── Addresses ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("service", "environ", "host"),
    [
        ("dynamodb", {"AWS_REGION": "eu-central-1"}, "dynamodb.eu-central-1.amazonaws.com"),
        ("s3", {"AWS_DEFAULT_REGION": "us-east-1"}, "s3.us-east-1.amazonaws.com"),
        ("s3", {"AWS_REGION": "cn-north-1"}, "s3.cn-north-1.amazonaws.com.cn"),
        (
            "dynamodb",
            {"AWS_REGION": "us-gov-west-1", "AWS_USE_FIPS_ENDPOINT": "true"},
            "dynamodb-fips.us-gov-west-1.amazonaws.com",
        ),
        (
            "s3",
            {
                "AWS_REGION": "r",
                "AWS_ENDPOINT_URL": "http://all:1",
                "AWS_ENDPOINT_URL_S3": "http://one:2",
            },
            "one:2",
        ),
    ],
)
def test_addresses_are_those_of_the_region(
    service: str, environ: dict[str, str], host: str
) -> None:
    assert Wire(service, credentials(), environ=environ).host == host


@pytest.mark.parametrize(
    ("environ", "match"),
    [({}, "AWS_REGION"), ({"AWS_REGION": "r", "AWS_ENDPOINT_URL": "localhost:4566"}, "endpoint")],
)
def test_a_place_that_is_not_named_is_said(environ: dict[str, str], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        Wire("s3", credentials(), environ=environ)


def test_a_bucket_is_a_subdomain_on_aws_and_a_folder_on_local_engines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, str]] = []

    def send(self: Wire, method: str, path: str, what: str, host: str = "") -> Any:
        asked.append((host or self.host, path))
        raise NotFoundError("enough seen")

    monkeypatch.setattr(Wire, "send", send)
    for environ, bucket in (
        ({"AWS_REGION": "r"}, "plain"),
        ({"AWS_REGION": "r"}, "with.dot"),
        ({"AWS_REGION": "r", "AWS_ENDPOINT_URL": "http://here:1"}, "plain"),
    ):
        with pytest.raises(NotFoundError):
            WireObjects(Wire("s3", credentials(), environ=environ)).read(bucket, "a/b")

    assert asked == [
        ("plain.s3.r.amazonaws.com", "/a/b"),
        ("s3.r.amazonaws.com", "/with.dot/a/b"),
        ("here:1", "/plain/a/b"),
    ]


# ── Credentials ─────────────────────────────────────────────────────────────────────────────────


@dataclass
class Container:
    """Gives out credentials, as Lambda does to a function restored from a snapshot."""

    now: float = 1_000_000.0
    lifetime: float = 3_600.0
    given: int = 0
    broken: bool = False
    tokens: list[str] = field(default_factory=list)

    def source(self, url: str, **environ: str) -> CredentialSource:
        """The function's source."""
        environ = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{url}/v1?x=1", **environ}
        return CredentialSource(lambda: self.now, environ)

    def answer(self, token: str) -> tuple[int, bytes]:
        """The next credentials."""
        self.tokens.append(token)
        if self.broken:
            return 500, b"secret trouble"
        self.given += 1
        until = datetime.fromtimestamp(self.now, UTC) + timedelta(seconds=self.lifetime)
        document = {
            "AccessKeyId": f"key-{self.given}",
            "SecretAccessKey": "s",
            "Token": "t",
            "Expiration": until.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        return 200, json.dumps(document).encode()


@pytest.fixture
def container() -> Iterator[tuple[Container, Callable[..., CredentialSource]]]:
    held = Container()

    class Giving(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = held.answer(self.headers.get("authorization", ""))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Stays silent."""

    with serving(Giving) as url:
        yield held, lambda **environ: held.source(url, **environ)


def test_keys_of_the_environment_are_read_at_every_request() -> None:
    environ = dict(ENVIRONMENT)
    source = CredentialSource(lambda: 0.0, environ)
    assert source() == Credentials("a", "b")

    environ |= {"AWS_ACCESS_KEY_ID": "c", "AWS_SESSION_TOKEN": "d"}
    assert source() == Credentials("c", "b", "d")


def test_no_credentials_are_said() -> None:
    with pytest.raises(AccessDeniedError, match="environment"):
        CredentialSource(lambda: 0.0, {})()


def test_container_credentials_are_renewed_before_they_expire(
    container: tuple[Container, Callable[..., CredentialSource]],
) -> None:
    held, made = container
    source = made(AWS_CONTAINER_AUTHORIZATION_TOKEN="let me in")
    assert [source().access_key for _ in range(3)] == ["key-1"] * 3

    held.now += held.lifetime - EARLY_SECONDS + 1
    assert source().access_key == "key-2"
    source.forget()
    assert source().access_key == "key-3"
    assert set(held.tokens) == {"let me in"}


def test_container_credentials_outlive_a_failed_renewal(
    container: tuple[Container, Callable[..., CredentialSource]], tmp_path: Any
) -> None:
    held, made = container
    (tmp_path / "token").write_text("from a file\n")
    source = made(AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=str(tmp_path / "token"))
    source()
    held.broken = True

    held.now += held.lifetime - 10
    assert source().access_key == "key-1"
    held.now += 11
    with pytest.raises(ServiceUnavailableError, match="status 500") as caught:
        source()
    assert "secret" not in str(caught.value)
    assert set(held.tokens) == {"from a file"}

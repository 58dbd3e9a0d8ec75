"""AWS calls of function processes are recorded when the cloud was asked to, and only then."""

import base64
import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from infra.local.executor import Executor, Function, Invocation
from millrace_cli.cloud import tools_folder
from tests.e2e.conformance.conftest import PROJECT

CODE = """
import os, sys
import boto3
from botocore.config import Config
from botocore.exceptions import EndpointConnectionError

def handler(event, context):
    client = boto3.client("s3", config=Config(retries={"total_max_attempts": 1}))
    try:
        client.put_object(Bucket="data", Key="k", Body=b"secret")
    except EndpointConnectionError as exc:
        return {"error": type(exc).__name__, "environment": dict(os.environ), "argv": sys.argv,
                "modules": [name for name in sys.modules if "recorded" in name]}
"""
NOBODY_LISTENS = "http://127.0.0.1:1"


def _run(tmp_path: Path, calls: Path | None, **variables: str) -> dict[str, Any]:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("app.py", CODE)
    code = stream.getvalue()
    environment = {
        "AWS_ENDPOINT_URL": NOBODY_LISTENS,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        **variables,
    }
    function = Function(
        name="watched",
        arn="arn:aws:lambda:us-east-1:000000000000:function:watched",
        version="$LATEST",
        handler="app.handler",
        code_sha256=base64.b64encode(hashlib.sha256(code).digest()).decode(),
        timeout=30,
        memory=128,
        region="us-east-1",
        environment=tuple(environment.items()),
    )
    executor = Executor(
        interpreter=tools_folder(PROJECT).absolute() / "runtime" / "bin" / "python",
        code=tmp_path / "code",
        scratch=tmp_path / "scratch",
        limit=1,
        calls=calls,
    )
    try:
        event = Invocation(request_id="request", arn=function.arn, payload=b"{}")
        reply = executor.run(function, lambda: code, event)
    finally:
        executor.close()
    assert reply is not None
    assert isinstance(reply.body, dict), reply
    assert reply.body.get("error") == "EndpointConnectionError", reply
    return reply.body


def test_a_function_is_recorded_and_sees_nothing_of_it(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    calls.mkdir()

    seen = _run(tmp_path, calls)

    [file] = calls.iterdir()
    begun, call = [json.loads(line) for line in file.read_text().splitlines()]
    assert (begun["function"], begun["recording"]) == ("watched", True)
    assert (call["service"], call["operation"]) == ("s3", "PutObject")
    assert call["names"] == {"Bucket": "data", "Key": "k"}
    assert call["outcome"] == "EndpointConnectionError"
    assert "secret" not in file.read_text()
    assert not [name for name in seen["environment"] if "CALLS" in name]
    assert str(calls) not in str(seen["argv"])


@pytest.mark.parametrize("wish", [{}, {"MILLRACE_RECORD_CALLS": "own"}], ids=["plain", "own wish"])
def test_nothing_is_recorded_unless_the_cloud_was_asked(
    tmp_path: Path, wish: dict[str, str]
) -> None:
    own = {name: str(tmp_path / value) for name, value in wish.items()}

    seen = _run(tmp_path, None, **own)

    assert seen["modules"] == []
    assert not [name for name in seen["environment"] if "CALLS" in name]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["code", "scratch"]

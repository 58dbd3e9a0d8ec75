"""The cloud's life: what survives a stop, and what must not survive an end."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from millrace.errors import ConfigurationError
from millrace_cli import cloud
from tests.e2e.conformance.conftest import PROJECT, Stack, call_api, client, deploy
from tests.until import until


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A checkout of its own, so that the developer's embedded cloud is not touched."""
    (tmp_path / "infra").symlink_to(PROJECT / "infra")
    monkeypatch.setenv(cloud.TOOLS_VARIABLE, str(cloud.tools_folder(PROJECT)))
    yield tmp_path
    cloud.reset(tmp_path)


def test_everything_works_again_after_down_and_up(project: Path) -> None:
    first = _deployed(project)
    before = Stack.of(first)
    where = {"Bucket": before.outputs["Bucket"], "Key": "kept/a b.txt"}
    version = before.client("s3").put_object(**where, Body=b"one")["VersionId"]
    before.client("s3").put_object(**where, Body=b"two")
    key = "survivor"
    assert before.invoke({"do": "raise_times", "key": key, "times": 0})[0] == {"calls": 1}
    done = before.execute({"route": "map", "key": "k", "numbers": [2]})

    assert cloud.down(project)
    second = cloud.up(project)

    after = Stack.of(second)
    assert second.port == first.port
    assert after.outputs == before.outputs
    s3 = after.client("s3")
    assert s3.get_object(**where)["Body"].read() == b"two"
    assert s3.get_object(**where, VersionId=version)["Body"].read() == b"one"
    assert after.invoke({"do": "raise_times", "key": key, "times": 0})[0] == {"calls": 2}
    described = after.client("stepfunctions").describe_execution(executionArn=done["executionArn"])
    assert described["output"] == done["output"]
    again = after.execute({"route": "map", "key": "k", "numbers": [2]})
    assert again["output"] == done["output"]
    s3.put_object(Bucket=where["Bucket"], Key="incoming/later", Body=b"")
    after.received("Heard", lambda m: "incoming/later" in json.dumps(m))
    assert (
        after.client("dynamodb").describe_time_to_live(TableName=after.outputs["Table"])[
            "TimeToLiveDescription"
        ]["TimeToLiveStatus"]
        == "ENABLED"
    )
    assert call_api(after, "GET", "/v1/models/churn/versions/3")[0] == 201
    deploy(second)
    assert call_api(after, "GET", "/v1/models/churn/versions/3")[0] == 201


def test_an_execution_that_a_stop_interrupted_is_a_failure_that_is_told(project: Path) -> None:
    """Gap ``restart``."""
    first = Stack.of(_deployed(project))
    states = first.client("stepfunctions")
    arn = states.start_execution(
        stateMachineArn=first.outputs["Machine"], input='{"route": "long"}'
    )["executionArn"]
    cloud.down(project)

    after = Stack.of(cloud.up(project))

    event = after.received("Heard", lambda m: m.get("detail", {}).get("executionArn") == arn)
    assert event["detail"]["status"] == "FAILED"
    assert event["detail"]["error"] == "States.ServiceRestart"


def test_a_second_up_keeps_the_running_cloud(project: Path) -> None:
    first = cloud.up(project)

    assert cloud.up(project) == first
    assert cloud.status(project) == first
    with pytest.raises(ConfigurationError, match=f"already runs on port {first.port}"):
        cloud.up(project, port=_free_port())


def test_down_leaves_no_process(project: Path) -> None:
    info = cloud.up(project)
    pid = _function_process(info)

    assert cloud.down(project)

    assert not _alive(info.pid)
    assert not _alive(pid)
    assert cloud.status(project) is None
    assert not cloud.down(project)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="parent-death signal of Linux")
def test_functions_die_with_a_killed_cloud(project: Path) -> None:
    info = cloud.up(project)
    pid = _function_process(info)

    os.kill(info.pid, signal.SIGKILL)

    until(lambda: not _alive(info.pid) and not _alive(pid))
    assert cloud.status(project) is None


def test_an_ephemeral_cloud_ends_with_its_killed_owner(tmp_path: Path) -> None:
    script = tmp_path / "owner.py"
    script.write_text(
        "import sys, time\nfrom pathlib import Path\nfrom millrace_cli import cloud\n"
        f"with cloud.ephemeral(Path({str(PROJECT)!r})) as info:\n"
        "    print(info.pid, flush=True)\n    time.sleep(600)\n"
    )
    environment = os.environ | {
        "PYTHONPATH": str(PROJECT / "shared"),
        cloud.TOOLS_VARIABLE: str(cloud.tools_folder(PROJECT)),
    }
    with subprocess.Popen(
        [sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())

        owner.kill()

        until(lambda: not _alive(pid))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's tables")
def test_it_listens_on_loopback_alone(stack: Stack) -> None:
    """MiniStack binds every interface unless told otherwise."""
    listening = _listening_addresses(stack.info.pid)

    assert f"127.0.0.1:{stack.info.port}" in listening
    assert all(address.startswith("127.0.0.1:") for address in listening), listening


def test_a_taken_port_is_named(project: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]

        with pytest.raises(ConfigurationError, match=f"port {port} is taken"):
            cloud.up(project, port=port)


def test_a_cloud_that_cannot_start_shows_its_log(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDDED_CLOUD_WITHOUT", "no-such-gap")

    with pytest.raises(ConfigurationError, match="no-such-gap"):
        cloud.up(project)

    assert cloud.status(project) is None


def _deployed(project: Path) -> cloud.CloudInfo:
    info = cloud.up(project, port=_free_port())
    deploy(info)
    return info


def _function_process(info: cloud.CloudInfo) -> int:
    """Starts a function without a stack; the process it runs in."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as target:
        target.writestr("app.py", "import os\ndef handler(event, context): return os.getpid()\n")
    functions = client(info, "lambda")
    functions.create_function(
        FunctionName="alone",
        Runtime="python3.13",
        Handler="app.handler",
        Role="arn:aws:iam::000000000000:role/none",
        Code={"ZipFile": archive.getvalue()},
    )
    functions.get_waiter("function_active_v2").wait(FunctionName="alone", WaiterConfig={"Delay": 1})
    return int(functions.invoke(FunctionName="alone")["Payload"].read())


def _alive(pid: int) -> bool:
    return cloud._started(pid) is not None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _listening_addresses(pid: int) -> set[str]:
    """Addresses of the process's listening sockets, from Linux's tables."""
    tables: dict[str, Any] = {}
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                tables[fields[9]] = (name, fields[1])
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(descriptor.readlink())
        except FileNotFoundError:
            continue
        inode = target.removeprefix("socket:[").removesuffix("]")
        if inode in tables:
            family, local = tables[inode]
            address, port = local.split(":")
            shown = (
                ".".join(str(b) for b in reversed(bytes.fromhex(address)))
                if family == "tcp"
                else f"[{address}]"
            )
            found.add(f"{shown}:{int(port, 16)}")
    return found

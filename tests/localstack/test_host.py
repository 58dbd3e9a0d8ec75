"""LocalStack as a process: it stays on this machine, below its folder, and ends when told."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from infra.localstack.host import LOCALSTACK_VERSION
from millrace.errors import ConfigurationError
from millrace_cli import cloud
from millrace_cli.engines import LOCALSTACK, MINISTACK
from tests.e2e.conformance.conftest import PROJECT, Stack, client
from tests.e2e.conformance.test_lifecycle import _alive, _free_port, _listening_addresses
from tests.until import until

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's tables")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A checkout of its own, so that the developer's embedded cloud is not touched."""
    (tmp_path / "infra").symlink_to(PROJECT / "infra")
    monkeypatch.setenv(cloud.TOOLS_VARIABLE, str(cloud.tools_folder(PROJECT).absolute()))
    yield tmp_path
    cloud.reset(tmp_path)


def _up(project: Path) -> cloud.CloudInfo:
    return cloud.up(project, engine=LOCALSTACK, runtime="process", port=_free_port())


@LINUX
def test_it_and_its_functions_listen_on_loopback_alone(stack: Stack) -> None:
    """LocalStack binds every interface, whatever ``GATEWAY_LISTEN`` says."""
    stack.invoke({"do": "echo"})

    listening = _listening_addresses(stack.info.pid)

    assert f"127.0.0.1:{stack.info.port}" in listening
    assert all(address.startswith("127.0.0.1:") for address in listening), listening


def test_no_other_address_of_this_machine_answers(stack: Stack) -> None:
    """Asked by another process: tests themselves reach 127.0.0.1 alone."""
    ask = (
        "import socket, sys\n"
        "names = socket.getaddrinfo(socket.gethostname(), None, proto=socket.IPPROTO_TCP)\n"
        "others = {n[4][0] for n in names} | {'::1', '127.0.0.2'}\n"
        "for address in others - {'127.0.0.1'}:\n"
        "    for port in map(int, sys.argv[1:]):\n"
        "        try:\n"
        "            socket.create_connection((address, port), timeout=0.5).close()\n"
        "        except OSError:\n"
        "            continue\n"
        "        print(address, port)\n"
    )
    ports = [str(port) for port in (stack.info.port, *range(4510, 4560))]

    found = subprocess.run(
        [sys.executable, "-c", ask, *ports], capture_output=True, text=True, timeout=120, check=True
    )

    assert found.stdout == ""


@LINUX
def test_every_file_it_has_open_for_writing_is_below_its_folder(stack: Stack) -> None:
    stack.invoke({"do": "measure", "metric": "Rows", "value": 1, "service": "written"})
    for name in ("s3", "dynamodb", "logs", "cloudwatch"):
        assert stack.client(name)

    written = {path for path in _open_for_writing(stack.info.pid) if path.is_absolute()}

    outside = {
        path
        for path in written
        if not path.is_relative_to(stack.info.folder.resolve()) and path.parts[1] != "dev"
    }
    assert written
    assert not outside


def test_it_leaves_nothing_in_its_own_package_nor_in_the_home_folder(stack: Stack) -> None:
    package = next(
        (cloud.tools_folder(PROJECT) / "localstack" / "lib").glob("*/site-packages/localstack")
    )

    assert (stack.info.folder / "root").is_dir()
    assert not (package / ".filesystem").exists()
    for place in ("/var/lib/localstack", "/usr/lib/localstack", "/etc/localstack"):
        assert not Path(place).exists()
    assert not (Path.home() / ".localstack").exists()


def test_what_would_be_fetched_is_refused(stack: Stack) -> None:
    """Nothing reaches beyond this machine: a service that fetches a program cannot be used."""
    with pytest.raises(ClientError) as refused:
        stack.client("kinesis").list_streams()

    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] >= 500
    log = stack.info.log_file.read_text(errors="replace")
    assert "the embedded cloud fetches nothing" in log


def test_a_resource_type_that_it_does_not_know_fails_the_deployment(stack: Stack) -> None:
    template = {"Resources": {"Pool": {"Type": "AWS::Cognito::UserPool"}}}
    formation = stack.client("cloudformation")
    formation.create_change_set(
        StackName="unknown",
        ChangeSetName="first",
        ChangeSetType="CREATE",
        TemplateBody=json.dumps(template),
    )

    def failed() -> str | None:
        found = formation.describe_change_set(StackName="unknown", ChangeSetName="first")
        return str(found["StatusReason"]) if found["Status"] == "FAILED" else None

    assert "AWS::Cognito::UserPool" in until(failed)


def test_down_leaves_no_process_and_keeps_no_state(project: Path) -> None:
    info = _up(project)
    client(info, "s3").create_bucket(Bucket="gone")
    function = _function_process(info)

    assert cloud.down(project) == info

    assert not _alive(info.pid)
    assert not _alive(function)
    again = _up(project)
    assert client(again, "s3").list_buckets()["Buckets"] == []


def test_down_takes_seconds(project: Path) -> None:
    info = _up(project)
    client(info, "cloudwatch").describe_alarms()
    client(info, "stepfunctions").list_state_machines()
    client(info, "sqs").list_queues()

    started = time.monotonic()
    cloud.down(project)

    assert time.monotonic() - started < 20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="parent-death signal of Linux")
def test_functions_die_with_a_killed_engine(project: Path) -> None:
    info = _up(project)
    function = _function_process(info)

    os.kill(info.pid, signal.SIGKILL)

    until(lambda: not _alive(info.pid) and not _alive(function))
    assert cloud.status(project) is None
    assert cloud.killed(project) == LOCALSTACK


def test_an_ephemeral_engine_ends_with_its_killed_owner(tmp_path: Path) -> None:
    script = tmp_path / "owner.py"
    script.write_text(
        "import time\nfrom pathlib import Path\nfrom millrace_cli import cloud\n"
        "from millrace_cli.engines import LOCALSTACK\n"
        f"with cloud.ephemeral(Path({str(PROJECT)!r}), engine=LOCALSTACK, runtime='process') as i:\n"
        "    print(i.pid, flush=True)\n    time.sleep(600)\n"
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

        until(lambda: not _alive(pid), seconds=30)


def test_the_other_engine_is_refused_while_one_runs(project: Path) -> None:
    info = _up(project)

    with pytest.raises(ConfigurationError, match=r"LocalStack .* already runs .* not MiniStack"):
        cloud.up(project, engine=MINISTACK)

    assert cloud.up(project) == info
    assert cloud.healthy(info)


def test_a_gap_that_nobody_knows_is_named_with_the_log(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDDED_CLOUD_WITHOUT", "no-such-gap")

    with pytest.raises(ConfigurationError, match="(?s)ended while starting.*no-such-gap"):
        _up(project)

    assert cloud.status(project) is None
    assert cloud.killed(project) is None


def test_another_version_than_the_pinned_one_is_refused(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment is given another version of LocalStack, as far as its metadata says."""
    tools = tmp_path / "tools"
    (tools / "localstack" / "bin").mkdir(parents=True)
    (tools / "runtime").symlink_to(cloud.tools_folder(PROJECT).absolute() / "runtime")
    other = tmp_path / "other" / "localstack_core-4.13.0.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: localstack-core\nVersion: 4.13.0\n"
    )
    real = cloud.tools_folder(PROJECT).absolute() / "localstack" / "bin" / "python"
    python = tools / "localstack" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{other.parent}:$PYTHONPATH" exec "{real}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv(cloud.TOOLS_VARIABLE, str(tools))

    with pytest.raises(
        ConfigurationError,
        match=f"(?s)expected localstack-core {LOCALSTACK_VERSION}, found 4.13.0: run `make setup-loc",
    ):
        _up(project)


def test_a_start_that_was_killed_is_taken_over(project: Path) -> None:
    """What a killed `local up` leaves behind is known, and the next one waits for it."""
    script = (
        "from pathlib import Path\nfrom millrace_cli import cloud\n"
        "from millrace_cli.engines import LOCALSTACK\n"
        f"cloud.up(Path({str(project)!r}), engine=LOCALSTACK, runtime='process', "
        f"port={_free_port()})\n"
    )
    environment = os.environ | {"PYTHONPATH": str(PROJECT / "shared")}
    record = cloud.cloud_folder(project, LOCALSTACK) / "cloud.json"
    with subprocess.Popen([sys.executable, "-c", script], env=environment) as starter:
        until(record.exists)
        starter.kill()
    half = cloud.status(project)
    assert half is not None

    info = _wait_for(project)

    assert info.pid == half.pid
    assert cloud.healthy(info)


def _wait_for(project: Path) -> cloud.CloudInfo:
    def attempt() -> cloud.CloudInfo | None:
        running = cloud.status(project)
        return cloud.up(project) if running and cloud.healthy(running) else None

    return until(attempt, seconds=60)


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


def _open_for_writing(pid: int) -> set[Path]:
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            flags = Path(f"/proc/{pid}/fdinfo/{descriptor.name}").read_text().split("flags:")[1]
            if int(flags.split()[0], 8) & os.O_ACCMODE != os.O_RDONLY:
                found.add(descriptor.readlink())
        except FileNotFoundError:
            continue
    return found

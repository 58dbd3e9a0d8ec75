"""LocalStack in Docker, as far as that can be seen where there is no Docker engine.

A program called ``docker`` stands in for it: it writes down what it is asked, and answers on the
port as the container would. That LocalStack's image runs, and runs the functions, is not shown here.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.localstack.host import LOCALSTACK_VERSION
from millrace.errors import ConfigurationError
from millrace_cli import cloud
from millrace_cli.engines import LOCALSTACK
from tests.e2e.conformance.conftest import PROJECT, client
from tests.e2e.conformance.test_lifecycle import _alive, _free_port
from tests.until import until

HERE = PROJECT / "infra" / "localstack"

DOCKER = f"""#!{sys.executable}
import http.server, os, sys
with open({{log!r}}, "a") as log:
    print(*sys.argv[1:], file=log)
if "up" in sys.argv:
    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()
    print("Ready.", flush=True)
    port = int(os.environ["MILLRACE_CLOUD_PORT"])
    http.server.HTTPServer(("127.0.0.1", port), Health).serve_forever()
elif "down" not in sys.argv:
    print("27.0")
"""


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the program that stands in for Docker was asked, line by line."""
    folder, log = tmp_path / "bin", tmp_path / "asked"
    folder.mkdir()
    (folder / "docker").write_text(DOCKER.format(log=str(log)))
    (folder / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return log


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """A checkout of its own."""
    (tmp_path / "infra").symlink_to(PROJECT / "infra")
    yield tmp_path
    cloud.reset(tmp_path)


def test_where_docker_answers_the_container_is_started_and_removed(
    project: Path, asked: Path
) -> None:
    port = _free_port()

    info = cloud.up(project, engine=LOCALSTACK, port=port)
    logged = list(cloud.logs(project))
    stopped = cloud.down(project)

    assert (info.runtime, info.why, info.port) == ("docker", "a Docker engine answers", port)
    assert "Ready." in logged
    assert stopped == info
    assert not _alive(info.pid)
    compose = f"compose --project-name millrace-{port} --file {HERE / 'compose.yaml'}"
    assert asked.read_text().splitlines()[-2:] == [
        f"{compose} up --no-color --no-log-prefix --abort-on-container-exit",
        f"{compose} down --volumes --timeout 20",
    ]


def test_an_ephemeral_container_is_removed_with_its_killed_owner(
    asked: Path, tmp_path: Path
) -> None:
    script = (
        "import time\nfrom pathlib import Path\nfrom millrace_cli import cloud\n"
        "from millrace_cli.engines import LOCALSTACK\n"
        f"with cloud.ephemeral(Path({str(PROJECT)!r}), engine=LOCALSTACK, runtime='docker') as i:\n"
        "    print(i.pid, flush=True)\n    time.sleep(600)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(PROJECT / "shared")}
    with subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())

        owner.kill()

        until(lambda: not _alive(pid), seconds=30)
    assert " down " in asked.read_text().splitlines()[-1]


def test_a_container_that_ends_while_starting_shows_its_log(
    project: Path, asked: Path, tmp_path: Path
) -> None:
    (tmp_path / "bin" / "docker").write_text(
        '#!/bin/sh\ncase "$*" in *" up "*) echo "no such image" >&2; exit 18;; esac\n'
    )

    with pytest.raises(ConfigurationError, match="(?s)LocalStack ended while starting.*no such im"):
        cloud.up(project, engine=LOCALSTACK, runtime="docker", port=_free_port())

    assert cloud.status(project) is None


def _service() -> dict[str, Any]:
    document = yaml.safe_load((HERE / "compose.yaml").read_text())
    service: dict[str, Any] = document["services"]["localstack"]
    return service


def test_the_image_is_pinned_to_the_release_that_runs_as_a_process() -> None:
    image, _, digest = _service()["image"].partition("@")

    assert image == f"localstack/localstack:{LOCALSTACK_VERSION}"
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", digest)


def test_the_container_answers_on_loopback_alone() -> None:
    assert all(port.startswith("127.0.0.1:") for port in _service()["ports"])


def test_what_is_mounted_is_there_and_cannot_be_written() -> None:
    ours = [mount for mount in _service()["volumes"] if "docker.sock" not in mount]

    assert len(ours) == 2
    for mount in ours:
        source, _target, mode = mount.split(":")
        assert (HERE / source).exists()
        assert mode == "ro"


@pytest.fixture
def inside(tmp_path: Path) -> dict[str, str]:
    """Settings of LocalStack as its own image runs it, with the script that is mounted there."""
    scripts = tmp_path / "root" / "etc" / "localstack" / "init" / "start.d"
    scripts.mkdir(parents=True)
    (scripts / "millrace.py").symlink_to(HERE / "start.py")
    (tmp_path / "tmp").mkdir()
    return {
        "CFN_IGNORE_UNSUPPORTED_RESOURCE_TYPES": "0",
        "DISABLE_EVENTS": "1",
        "DNS_ADDRESS": "0",
        "FILESYSTEM_ROOT": str(tmp_path / "root"),
        "HOME": str(tmp_path),
        "OVERRIDE_IN_DOCKER": "0",
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(PROJECT),
        "SKIP_SSL_CERT_DOWNLOAD": "1",
        "TMPDIR": str(tmp_path / "tmp"),
    }


STOCK = (
    "from infra.localstack import loopback; loopback.stay()\n"
    "from localstack.runtime.main import main; main()"
)
"""LocalStack without our host, but on this machine alone."""


def _python() -> str:
    return str(cloud.tools_folder(PROJECT).absolute() / "localstack" / "bin" / "python")


def test_the_mounted_script_closes_the_gaps(inside: dict[str, str], tmp_path: Path) -> None:
    port = _free_port()
    info = cloud.CloudInfo(
        pid=0,
        started="",
        port=port,
        endpoint=f"http://127.0.0.1:{port}",
        folder=tmp_path,
        engine=LOCALSTACK,
    )
    with subprocess.Popen(
        [_python(), "-c", STOCK],
        env=inside | {"GATEWAY_LISTEN": f"127.0.0.1:{port}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as stock:
        try:
            until(lambda: cloud.healthy(info), seconds=60)
            formation = client(info, "cloudformation")
            formation.create_change_set(
                StackName="one",
                ChangeSetName="first",
                ChangeSetType="CREATE",
                TemplateBody='{"Resources": {"Topic": {"Type": "AWS::SNS::Topic"}}}',
            )

            def status() -> str | None:
                found = formation.describe_change_set(StackName="one", ChangeSetName="first")
                return (
                    str(found["Status"]) if found["Status"].split("_")[-1] != "PROGRESS" else None
                )

            # Without gap `catalog` it knows no resource type.
            assert until(status) == "CREATE_COMPLETE"
        finally:
            stock.send_signal(signal.SIGKILL)


def test_a_gap_that_cannot_be_closed_ends_the_container(inside: dict[str, str]) -> None:
    done = subprocess.run(
        [_python(), "-c", STOCK],
        env=inside
        | {
            "GATEWAY_LISTEN": f"127.0.0.1:{_free_port()}",
            "EMBEDDED_CLOUD_WITHOUT": "no-such-gap",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert "no-such-gap" in done.stderr

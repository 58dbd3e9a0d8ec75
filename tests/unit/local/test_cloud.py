"""The life of the embedded cloud, as far as no process is needed."""

import json
import os
from pathlib import Path

import pytest

from millrace.errors import ConfigurationError
from millrace_cli import cloud
from millrace_cli.engines import ENGINES, Engine


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(cloud.TOOLS_VARIABLE, raising=False)
    return tmp_path


def _record(project: Path, **changes: object) -> None:
    folder = cloud.cloud_folder(project)
    folder.mkdir(parents=True)
    known = {
        "pid": os.getpid(),
        "started": cloud._started(os.getpid()),
        "port": 4566,
        "endpoint": "http://127.0.0.1:4566",
    }
    (folder / "cloud.json").write_text(json.dumps(known | changes))


def test_nothing_runs_at_first(project: Path) -> None:
    assert cloud.status(project) is None
    assert not cloud.down(project)


def test_the_recorded_process_is_found(project: Path) -> None:
    _record(project)

    info = cloud.status(project)

    assert info is not None
    assert (info.pid, info.port) == (os.getpid(), 4566)


def test_a_recycled_process_id_is_neither_taken_for_the_cloud_nor_killed(project: Path) -> None:
    _record(project, started="long ago")

    assert cloud.status(project) is None
    assert not cloud.down(project)


def test_a_process_that_is_gone_is_not_running(project: Path) -> None:
    _record(project, pid=2**22 + 1)

    assert cloud.status(project) is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"pid": 1}', "null"])
def test_an_unreadable_record_is_named(project: Path, content: str) -> None:
    folder = cloud.cloud_folder(project)
    folder.mkdir(parents=True)
    (folder / "cloud.json").write_text(content)

    with pytest.raises(ConfigurationError, match=r"cloud\.json"):
        cloud.status(project)


@pytest.mark.parametrize("engine", ENGINES.values(), ids=lambda engine: engine.name)
def test_missing_tools_are_named_with_what_makes_them(project: Path, engine: Engine) -> None:
    host = project.joinpath(*engine.host.split(".")).with_suffix(".py")
    host.parent.mkdir(parents=True)
    host.touch()

    with pytest.raises(ConfigurationError, match=f"is missing: run `{engine.setup}`"):
        cloud.up(project, port=1, engine=engine, runtime="process")


def test_a_folder_that_is_no_checkout_is_refused(project: Path) -> None:
    with pytest.raises(ConfigurationError, match="not a Millrace checkout"):
        cloud.up(project, port=1)


def test_logs_before_the_first_start_say_so(project: Path) -> None:
    with pytest.raises(ConfigurationError, match="millrace local up"):
        next(cloud.logs(project))


def test_the_last_lines_are_shown(project: Path) -> None:
    folder = cloud.cloud_folder(project)
    folder.mkdir(parents=True)
    (folder / "cloud.log").write_text("one\ntwo\nthree\n")

    assert list(cloud.logs(project, lines=2)) == ["two", "three"]
    assert list(cloud.logs(project, lines=1, follow=True)) == ["three"]


def test_reset_leaves_nothing(project: Path) -> None:
    folder = cloud.cloud_folder(project)
    (folder / "state").mkdir(parents=True)

    cloud.reset(project)

    assert not folder.exists()


def test_the_environment_points_every_sdk_at_the_cloud_and_nowhere_else() -> None:
    info = cloud.CloudInfo(
        pid=1, started="1", port=4570, endpoint="http://127.0.0.1:4570", folder=Path("x")
    )

    environment = info.environment({"AWS_PROFILE": "prod", "AWS_SESSION_TOKEN": "t", "PATH": "/b"})

    assert environment["AWS_ENDPOINT_URL"] == info.endpoint
    assert environment["PATH"] == "/b"
    assert "AWS_PROFILE" not in environment
    assert "AWS_SESSION_TOKEN" not in environment

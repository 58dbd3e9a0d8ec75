"""The command line offline: parsing, exit codes, JSON errors and help."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from millrace import errors
from millrace.errors import MillraceError
from millrace_cli.app import app
from millrace_cli.exits import ExitCode, exit_code_for
from millrace_cli.models import split_reference
from millrace_cli.predictions import parse_row
from millrace_cli.target import aws_target, resolve_target

runner = CliRunner()

SPEC = """
name: churn
task: binary
data:
  columns:
    - {name: age, type: integer, min: 0}
    - {name: churned, type: integer, role: target}
"""


@pytest.mark.parametrize(
    ("reference", "expected"),
    [("churn", ("churn", None)), ("churn@3", ("churn", "3")), ("a@champion", ("a", "champion"))],
)
def test_a_reference_names_model_and_version(
    reference: str, expected: tuple[str, str | None]
) -> None:
    assert split_reference(reference) == expected


@pytest.mark.parametrize("reference", ["", "@3", "churn@", "churn@3@4"])
def test_a_malformed_reference_is_refused(reference: str) -> None:
    with pytest.raises(errors.InvalidRequestError, match="expected MODEL"):
        split_reference(reference)


@pytest.mark.parametrize("text", ["{", "[1]", "41"])
def test_a_row_that_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(errors.InvalidRequestError, match="expected a JSON object"):
        parse_row(text, 0)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidSpecError("x"), ExitCode.INVALID),
        (errors.NoChampionError("x"), ExitCode.NOT_FOUND),
        (errors.ChampionChangedError("x"), ExitCode.CONFLICT),
        (errors.ThrottledError("x"), ExitCode.UNREACHABLE),
        (errors.ConfigurationError("x"), ExitCode.UNREACHABLE),
        (errors.FinalError("x"), ExitCode.FAILED),
    ],
    ids=lambda v: type(v).__name__,
)
def test_each_error_has_its_exit_code(error: MillraceError, code: ExitCode) -> None:
    assert exit_code_for(error) is code


def test_every_verb_explains_itself() -> None:
    listed = runner.invoke(app, ["--help"])

    assert listed.exit_code == 0
    for verb in [
        "init",
        "validate",
        "apply",
        "upload",
        "status",
        "runs",
        "models",
        "show",
        "promote",
        "rollback",
        "compare",
        "history",
        "lineage",
        "prediction",
        "audit",
        "predict",
        "export",
        "serve",
        "local",
        "doctor",
    ]:
        shown = runner.invoke(app, [verb, "--help"])
        assert shown.exit_code == 0, verb
        assert verb in listed.output
        assert "Usage" in shown.output


def test_a_valid_spec_is_called_valid(tmp_path: Path) -> None:
    spec = tmp_path / "churn.yaml"
    spec.write_text(SPEC)

    result = runner.invoke(app, ["validate", str(spec)])

    assert result.exit_code == 0
    assert "valid churn: task binary" in result.output


def test_an_invalid_spec_names_every_field_and_exits_with_its_code(tmp_path: Path) -> None:
    spec = tmp_path / "churn.yaml"
    spec.write_text(SPEC.replace("task: binary", "task: binry") + "monitoring: {}\n")

    result = runner.invoke(app, ["validate", str(spec), "--json"])

    assert result.exit_code == ExitCode.INVALID
    document = json.loads(result.stdout)
    assert document["error"] == "InvalidSpecError"
    assert {p["field"] for p in document["problems"]} == {"task", "monitoring"}


def test_a_data_file_is_checked_offline_as_in_the_cloud(tmp_path: Path) -> None:
    spec, data = tmp_path / "churn.yaml", tmp_path / "data.csv"
    spec.write_text(SPEC)
    rows = [f"{20 + i % 50},{i % 2}" for i in range(200)]
    rows[3] = "-1,0"
    data.write_text("age,churned\n" + "\n".join(rows) + "\n")

    result = runner.invoke(app, ["validate", str(spec), "--data", str(data), "--json"])

    report = json.loads(result.stdout)
    assert result.exit_code == 0, result.output
    assert report["rows"] == {"read": 200, "accepted": 199, "quarantined": 1}
    assert (report["problems"][0]["column"], report["problems"][0]["first_row"]) == ("age", 4)


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", "--json"],
        ["show", "churn", "--bogus", "--json"],
        ["nonsense", "--json"],
        ["runs", "churn", "--limit", "0", "--json"],
        ["--target", "moon", "models", "--json"],
        ["upload", "churn", "no-such-file.csv", "--json"],
        ["local", "logs", "--follow", "--json"],
        ["local", "reset", "--json"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_json_where_json_is_asked_for(arguments: list[str]) -> None:
    result = runner.invoke(app, arguments)

    assert result.exit_code == ExitCode.USAGE
    document = json.loads(result.stdout)
    assert document["error"] == "UsageError"
    assert document["message"]


def test_a_wrong_command_line_is_told_to_a_person_on_stderr() -> None:
    result = runner.invoke(app, ["show"])

    assert result.exit_code == ExitCode.USAGE
    assert result.stdout == ""
    assert "Missing argument" in result.stderr


def test_a_surprise_is_json_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def surprise(*_: object, **__: object) -> None:
        raise RuntimeError("unheard of")

    monkeypatch.setattr("millrace_cli.app.diagnose", surprise)

    result = runner.invoke(app, ["doctor", "--json"])

    assert result.exit_code == ExitCode.FAILED
    assert json.loads(result.stdout)["message"] == "unheard of"


def test_ctrl_c_has_its_own_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("millrace_cli.app.diagnose", interrupted)

    told = runner.invoke(app, ["doctor"])
    as_json = runner.invoke(app, ["doctor", "--json"])

    assert told.exit_code == as_json.exit_code == ExitCode.INTERRUPTED
    assert "interrupted" in told.stderr
    assert json.loads(as_json.stdout)["error"] == "Interrupted"


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    data = tmp_path / "data.csv"
    data.write_text("age,churned\n" + "".join(f"{20 + i},{i % 2}\n" for i in range(40)))
    blocked = tmp_path / "file"
    blocked.touch()
    out = blocked / "churn.yaml"

    result = runner.invoke(
        app,
        ["init", "churn", "--data", str(data), "--target", "churned", "--out", str(out), "--json"],
    )

    assert result.exit_code == ExitCode.INVALID
    assert str(blocked) in json.loads(result.stdout)["message"]


def test_the_version_is_printed() -> None:
    result = runner.invoke(app, ["--version"])

    assert result.exit_code == 0
    assert result.stdout.startswith("millrace ")


def test_a_cloud_that_was_killed_never_gives_way_to_aws(tmp_path: Path) -> None:
    record = tmp_path / ".millrace" / "cloud" / "cloud.json"
    record.parent.mkdir(parents=True)
    gone = {
        "pid": 2**30,
        "started": "0",
        "port": 4566,
        "endpoint": "http://127.0.0.1:4566",
    }
    record.write_text(json.dumps(gone))

    with pytest.raises(errors.ConfigurationError, match="ended without being stopped"):
        resolve_target(kind=None, stack=None, endpoint_url=None, region=None, project=tmp_path)
    chosen = resolve_target(
        kind="aws", stack=None, endpoint_url=None, region="eu-west-1", project=tmp_path
    )
    assert chosen.endpoint_url is None


def test_aws_is_where_the_sdk_would_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:4999")

    chosen = aws_target(stack="one", region="eu-west-1")

    assert chosen.endpoint_url == "http://127.0.0.1:4999"
    assert chosen.where == "in eu-west-1 at http://127.0.0.1:4999"

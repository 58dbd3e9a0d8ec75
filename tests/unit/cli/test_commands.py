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
        "predict",
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

"""The commands a person types, against the deployed stack."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from millrace_cli.exits import ExitCode
from tests.e2e.conftest import Named, Sample

pytestmark = pytest.mark.needs("rest-api", "upload-events", "state-machine", "transactions")


def test_a_persons_first_ten_minutes(
    millrace: Any, named: Named, cancer: Sample, tmp_path: Path
) -> None:
    model = named("patients")
    data = cancer.write(tmp_path / "patients.csv", stop=300)
    spec = tmp_path / "patients.yaml"

    made = millrace("init", model, "--data", str(data), "--target", "target", "--out", str(spec))
    assert made.exit_code == 0, made.output
    document = yaml.safe_load(spec.read_text())
    document["train"] = {"trials": 3, "folds": 2}
    spec.write_text(yaml.safe_dump(document))
    checked = millrace("validate", str(spec), "--data", str(data))
    applied = millrace("apply", str(spec))
    followed = millrace("upload", model, str(data), "--follow")
    row = json.dumps(cancer.feature_row(3))
    predicted = millrace("predict", model, "--row", row, "--json")
    from_file = millrace("predict", model, "--file", str(data), "--limit", "3", "--json")

    for result in (checked, applied, followed, predicted, from_file):
        assert result.exit_code == 0, result.output
    assert "300 accepted" in followed.output
    assert "promoted to champion" in followed.output
    assert json.loads(predicted.stdout)["version"] == 1
    assert len(json.loads(from_file.stdout)["predictions"]) == 3


def test_listings_and_one_version(millrace: Any, trained: dict[str, Any]) -> None:
    model = trained["model"]
    listed = millrace("models", "--json")
    shown = millrace("show", f"{model}@champion", "--json")
    runs = millrace("runs", model, "--json")
    state = millrace("status", trained["run_id"])

    assert model in [m["name"] for m in json.loads(listed.stdout)["items"]]
    assert json.loads(shown.stdout)["status"] == "champion"
    assert trained["run_id"] in [r["run_id"] for r in json.loads(runs.stdout)["items"]]
    assert "400 accepted" in state.output


def test_what_a_model_costs_is_shown_with_its_training(
    millrace: Any, trained: dict[str, Any]
) -> None:
    told = json.loads(millrace("costs", trained["model"], "--json").stdout)
    shown = millrace("costs", trained["model"])

    assert trained["run_id"] in [run["run_id"] for run in told["trainings"]]
    assert all(run["usd"] > 0 for run in told["trainings"])
    assert told["usd"] >= sum(run["usd"] for run in told["trainings"]) > 0
    assert shown.exit_code == 0, shown.output
    assert trained["run_id"] in shown.output


def test_doctor_finds_nothing_wrong_with_the_deployment(millrace: Any) -> None:
    result = millrace("doctor", "--json")

    found = {f["check"]: f["level"] for f in json.loads(result.stdout)}
    assert found["stack"] == found["API"] == "ok"


def test_a_refused_upload_exits_with_the_outcome_code(
    millrace: Any, trained: dict[str, Any], tmp_path: Path
) -> None:
    empty = tmp_path / "empty.csv"
    empty.touch()

    result = millrace("upload", trained["model"], str(empty), "--follow")

    assert result.exit_code == ExitCode.OUTCOME
    assert "refused" in result.output


def test_an_unknown_model_is_not_found(millrace: Any, named: Named) -> None:
    result = millrace("show", named("nobody"))

    assert result.exit_code == ExitCode.NOT_FOUND


def test_a_wrong_delimiter_in_rows_to_predict_is_told_by_the_header(
    millrace: Any, trained: dict[str, Any], tmp_path: Path
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("radius;texture\n1;2\n")

    result = millrace("predict", trained["model"], "--file", str(rows), "--json")

    assert result.exit_code == ExitCode.INVALID
    assert "the header lacks" in json.loads(result.stdout)["message"]

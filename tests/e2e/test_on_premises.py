"""A version leaves the cloud as a file, and answers elsewhere what the cloud answers."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from millrace.bundle import Bundle
from millrace_cli.app import app
from millrace_cli.client import ApiClient
from millrace_cli.target import Target
from tests.e2e.conftest import Named, Sample, Upload, spec_document
from tests.fakes.server import serving

pytestmark = pytest.mark.needs("rest-api", "upload-events", "state-machine", "transactions")

runner = CliRunner()


def run(target: Target, *arguments: str) -> dict[str, Any]:
    """Runs `millrace … --json` against the deployed stack."""
    chosen = ["--target", target.kind, "--stack", target.stack, "--region", target.region]
    if target.endpoint_url:
        chosen += ["--endpoint-url", target.endpoint_url]
    done = runner.invoke(app, [*chosen, *arguments, "--json"])
    assert done.exit_code == 0, done.output
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_an_exported_champion_answers_on_premises_what_the_api_answers(
    target: Target, api: ApiClient, trained: dict[str, Any], cancer: Sample, tmp_path: Path
) -> None:
    model = trained["model"]
    champion = api.get(f"/v1/models/{model}/versions/champion")["version"]
    told = run(target, "export", model, "--output", str(tmp_path))
    rows = [cancer.feature_row(i) for i in range(400, 440)]

    with serving(tmp_path, told["path"], "--workers", "2", "--refresh", "60") as server:
        here = server.predict(rows, model).json()
    there = api.post(f"/v1/models/{model}/predict", {"rows": rows})

    assert (told["version"], here["version"]) == (champion, there["version"])
    assert here["predictions"] == there["predictions"]
    roles = {f.role for f in Bundle.open(Path(told["path"])).manifest.files}
    assert roles >= {"model", "signature", "spec", "environment", "evaluation"}


def test_an_edge_export_answers_what_the_api_answers(
    target: Target, api: ApiClient, trained: dict[str, Any], cancer: Sample, tmp_path: Path
) -> None:
    model = trained["model"]
    rows = [cancer.feature_row(i) for i in range(440, 460)]
    told = run(
        target, "export", f"{model}@champion", "--to", "edge", "-o", str(tmp_path / "edge.zip")
    )

    example = tmp_path / "edge"
    with zipfile.ZipFile(told["path"]) as archive:
        archive.extractall(example)
    (tmp_path / "rows.json").write_text(json.dumps({"rows": rows}))
    done = subprocess.run(
        [sys.executable, "-I", str(example / "python" / "predict.py"), str(tmp_path / "rows.json")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    there = api.post(f"/v1/models/{model}/predict", {"rows": rows})

    assert json.loads(done.stdout)["predictions"] == there["predictions"]


def test_an_exported_version_is_brought_in_by_its_digest_and_answers(
    target: Target,
    api: ApiClient,
    upload: Upload,
    named: Named,
    cancer: Sample,
    tmp_path: Path,
) -> None:
    model = named("carried")
    api.put(f"/v1/specs/{model}", spec_document(model, cancer, train={"trials": 1}))
    assert upload(model, cancer.write(tmp_path / "rows.csv", stop=300))["outcome"] == "promoted"
    told = run(target, "export", model, "--output", str(tmp_path))

    brought = run(target, "import", told["path"], "--actor", "ada")
    again = run(target, "import", told["path"], "--actor", "ada")

    first, second = (api.get(f"/v1/models/{model}/versions/{n}") for n in (1, 2))
    assert (brought["version"], brought["created"]) == (2, True), brought
    assert (again["version"], again["created"]) == (2, False)
    assert second["status"] == "validated"
    assert second["sha256"] == first["sha256"]
    rows = [cancer.feature_row(i) for i in range(400, 410)]
    answers = [api.post(f"/v1/models/{model}/versions/{n}/predict", {"rows": rows}) for n in (1, 2)]
    assert answers[0]["predictions"] == answers[1]["predictions"]
    assert api.get(f"/v1/models/{model}")["champion_version"] == 1

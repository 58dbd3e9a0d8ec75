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
from tests.e2e.conftest import Sample
from tests.fakes.server import serving

pytestmark = pytest.mark.needs("rest-api", "upload-events", "state-machine", "transactions")

runner = CliRunner()


def export(target: Target, *arguments: str) -> dict[str, Any]:
    """Runs `millrace export … --json` against the deployed stack."""
    chosen = ["--target", target.kind, "--stack", target.stack, "--region", target.region]
    if target.endpoint_url:
        chosen += ["--endpoint-url", target.endpoint_url]
    done = runner.invoke(app, [*chosen, "export", *arguments, "--json"])
    assert done.exit_code == 0, done.output
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_an_exported_champion_answers_on_premises_what_the_api_answers(
    target: Target, api: ApiClient, trained: dict[str, Any], cancer: Sample, tmp_path: Path
) -> None:
    model = trained["model"]
    champion = api.get(f"/v1/models/{model}/versions/champion")["version"]
    told = export(target, model, "--output", str(tmp_path))
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
    told = export(target, f"{model}@champion", "--to", "edge", "-o", str(tmp_path / "edge.zip"))

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

"""A client that a public generator makes from the OpenAPI document, asking the functions over HTTP."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from tests.integration.whole.conftest import Whole, listening

ROOT: Final = Path(__file__).parents[3]
TOOL: Final = ROOT / ".tools/fuzz/bin"
COMMITTED: Final = ROOT / "shared/millrace/http/openapi.json"

NOT_WRITTEN: Final = (
    "application/vnd.apache.arrow.stream",
    "application/x-ndjson",
    "application/yaml",
    "text/csv",
)
"""The generator writes JSON, forms, files and bytes; each of these stands beside JSON."""

# What an application would be written like; it runs where Millrace is not installed.
APPLICATION: Final = """\
import json, sys
from made import Client
from made.api.inference import is_model_ready
from made.api.models import get_model, get_version, list_models
from made.api.predictions import predict
from made.api.service import health
from made.models import (
    PredictColumns, PredictColumnsColumns, Predictions, PredictRows, PredictRowsRowsItem, Problem,
)

client = Client(base_url=sys.argv[1], raise_on_unexpected_status=True)
row = {"age": 41, "plan": "basic", "tenure": 3.5, "active": True, "city": "Graz"}

def rows(*given):
    return PredictRows(rows=[PredictRowsRowsItem.from_dict(one) for one in given])

by_row = predict.sync(name="churn", client=client, body=rows(row, {**row, "tenure": None}))
columns = {name: [value] for name, value in row.items()}
by_column = predict.sync(
    name="churn",
    client=client,
    body=PredictColumns(columns=PredictColumnsColumns.from_dict(columns)),
)
wrong = predict.sync_detailed(name="churn", client=client, body=rows({**row, "age": "41"}))
absent = predict.sync_detailed(name="nobody", client=client, body=rows(row))
assert isinstance(by_row, Predictions) and isinstance(by_column, Predictions)
assert isinstance(wrong.parsed, Problem) and isinstance(absent.parsed, Problem)
version = get_version.sync(name="churn", version="champion", client=client)
print(json.dumps({
    "rows": [p.to_dict() for p in by_row.predictions],
    "columns": [p.to_dict() for p in by_column.predictions],
    "version": by_row.version,
    "wrong": [wrong.status_code, [[e.row, e.field] for e in wrong.parsed.errors]],
    "absent": [absent.status_code, absent.parsed.code],
    "models": [m.name for m in list_models.sync(client=client).items],
    "champion": get_model.sync(name="churn", client=client).name,
    "features": [f.name for f in version.signature.features],
    "health": health.sync(client=client).status,
    "ready": is_model_ready.sync_detailed(name="churn", client=client).status_code,
}))
"""


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The client's folder, and what the generator said."""
    folder = tmp_path_factory.mktemp("generated")
    config = folder / "config.json"
    config.write_text(json.dumps({"post_hooks": []}))
    done = subprocess.run(
        [
            TOOL / "openapi-python-client", "generate",
            "--path", COMMITTED,
            "--meta", "none",
            "--config", config,
            "--output-path", folder / "made",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )  # fmt: skip
    return folder, done.stdout + done.stderr


def test_the_generator_leaves_nothing_out_but_forms_it_cannot_write(
    generated: tuple[Path, str],
) -> None:
    folder, said = generated

    warnings = re.findall(r"^WARNING .*\n\n(.*)", said, flags=re.MULTILINE)
    unwritten = {f"Unsupported content type {kind}" for kind in NOT_WRITTEN}
    operations = {
        operation["operationId"].lower().replace("_", "")
        for path in json.loads(COMMITTED.read_text())["paths"].values()
        for operation in path.values()
    }

    assert set(warnings) <= unwritten
    made = {p.stem.replace("_", "") for p in folder.glob("made/api/*/*.py")} - {"init"}
    assert made == operations


def test_a_generated_client_predicts(generated: tuple[Path, str], whole: Whole) -> None:
    folder, _ = generated
    application = folder / "application.py"
    application.write_text(APPLICATION)

    with listening(whole.front) as url:
        done = subprocess.run(
            [TOOL / "python", application, url],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(folder)},
        )

    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    positive = told["rows"][0]["probabilities"]["1"]
    assert positive == pytest.approx(0.5, abs=0.5)
    assert told["rows"][0] == told["columns"][0]
    assert told["rows"][1]["probabilities"]["1"] < positive
    assert told["rows"][0]["label"] == int(positive > 0.5)
    assert told["wrong"] == [422, [[0, "age"]]]
    assert told["absent"] == [404, "not_found"]
    assert (told["version"], told["models"], told["champion"]) == (1, ["churn"], "churn")
    assert told["features"] == ["age", "plan", "tenure", "active", "city"]
    assert (told["health"], told["ready"]) == ("ok", 200)

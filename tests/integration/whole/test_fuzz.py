"""Schemathesis holds the functions against the OpenAPI document: thousands of requests made from it.

No answer may have a status of 500 or above, one that the document does not have, or a body, headers
or content type of another form than it says. Requests go over HTTP to the functions behind one door,
with a real champion; they are made twice: with whatever names the document allows, and with names
of what is there, rows being those of the champion's features.

`make test-integration` makes a few hundred; `make fuzz` (`--fuzz`) more than 5,000.
"""

import json
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from millrace.http.openapi import document
from tests.fakes import cases
from tests.integration.whole.conftest import Whole, listening

SCHEMATHESIS: Final = Path(__file__).parents[3] / ".tools/fuzz/bin/schemathesis"
CHECKS: Final = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
FEATURES: Final[dict[str, Any]] = {
    "age": {"type": "integer", "minimum": -(2**53), "maximum": 2**53},
    "plan": {"type": ["string", "null"]},
    "tenure": {"type": ["number", "null"]},
    "active": {"type": "boolean"},
    "city": {"type": "string", "minLength": 1},
}


HOOKS: Final = """\
import json
import schemathesis

def written(context, value):
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    lines = value if isinstance(value, list) else [value]
    return "\\n".join(json.dumps(line) for line in lines).encode()

for kind in ("application/x-ndjson", "text/csv", "application/vnd.apache.arrow.stream"):
    schemathesis.serializer(kind)(written)
"""
"""How schemathesis writes the bodies it knows no form of: as they are, or a line for each value."""


def narrowed() -> dict[str, Any]:
    """The document, its rows and columns those of the champion."""
    whole = document()
    schemas = whole["components"]["schemas"]
    schemas["PredictRows"]["properties"]["rows"]["items"] = {
        "type": "object",
        "properties": FEATURES,
        "required": list(FEATURES),
        "additionalProperties": False,
    }
    schemas["PredictColumns"]["properties"]["columns"] = {
        "type": "object",
        "properties": {
            name: {"type": "array", "items": schema, "minItems": 2, "maxItems": 2}
            for name, schema in FEATURES.items()
        },
        "required": list(FEATURES),
        "additionalProperties": False,
    }
    return whole


@pytest.mark.parametrize("names", ["any", "known"])
def test_no_request_the_document_allows_is_answered_otherwise_than_it_says(
    names: str,
    whole: Whole,
    tmp_path: Path,
    pytestconfig: pytest.Config,
) -> None:
    thorough = pytestconfig.getoption("--fuzz")
    described = tmp_path / "openapi.json"
    described.write_text(json.dumps(document() if names == "any" else narrowed()))
    config = tmp_path / "schemathesis.toml"
    known = {"name": cases.MODEL, "version": 1, "run_id": cases.run(1, cases.spec()).run_id}
    (tmp_path / "hooks.py").write_text(HOOKS)
    config.write_text(
        'hooks = "hooks.py"\n[parameters]\n'
        + "".join(f'"path.{k}" = {json.dumps(v)}\n' for k, v in known.items())
        if names == "known"
        else 'hooks = "hooks.py"\n'
    )
    report = tmp_path / "report.json"

    with listening(whole.front) as url:
        done = subprocess.run(
            [
                SCHEMATHESIS, "--config-file", config, "run", described,
                "--url", url,
                "--checks", ",".join(CHECKS),
                "--phases", "examples,coverage,fuzzing,stateful" if thorough else "examples,fuzzing",
                "--max-examples", "60" if thorough else "3",
                "--generation-deterministic",
                "--no-shrink",
                "--continue-on-failure",
                "--no-color",
                "--report-json-path", report,
            ],
            capture_output=True,
            text=True,
            timeout=1_800,
            check=False,
            cwd=tmp_path,
        )  # fmt: skip

    told = json.loads(report.read_text()) if report.exists() else {}
    assert done.returncode == 0, done.stdout + done.stderr
    assert told["errors"] == []
    assert told["test_cases"]["generated"] > (2_600 if thorough else 100)
    print(f"{told['test_cases']['generated']:,} requests")

"""Bad uploads are refused with a reason and kept; bad requests are answered with problem details."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from millrace_cli.client import ApiClient
from millrace_cli.target import Target
from tests.e2e.conftest import Named, Sample, Upload, spec_document

pytestmark = pytest.mark.needs("rest-api", "transactions")

Make = Callable[[Sample, Path], Path]


def _bytes(name: str, body: bytes) -> Make:
    def make(_: Sample, folder: Path) -> Path:
        path = folder / name
        path.write_bytes(body)
        return path

    return make


def _csv_text(sample: Sample, rows: int = 200) -> str:
    lines = [",".join(sample.header), *(",".join(r) for r in sample.rows[:rows])]
    return "\n".join(lines) + "\n"


def _changed(name: str, change: Callable[[str], bytes]) -> Make:
    def make(sample: Sample, folder: Path) -> Path:
        path = folder / name
        path.write_bytes(change(_csv_text(sample)))
        return path

    return make


BAD_UPLOADS: dict[str, tuple[Make, str]] = {
    "empty": (_bytes("empty.csv", b""), "empty"),
    "header only": (_changed("head.csv", lambda t: t.splitlines()[0].encode()), "no rows"),
    "delimiter": (_changed("semi.csv", lambda t: t.replace(",", ";").encode()), ";"),
    "encoding": (_changed("utf16.csv", lambda t: t.encode("utf-16")), "UTF-16"),
    "truncated gzip": (
        _changed("cut.csv.gz", lambda t: gzip.compress(t.encode())[:-200]),
        "gzip",
    ),
    "no parquet": (_bytes("not.parquet", b"hello" * 100), "Parquet"),
    "renamed column": (
        _changed("renamed.csv", lambda t: t.replace("mean_radius", "mean_radios", 1).encode()),
        "mean_radius",
    ),
    "one class": (
        _changed(
            "one.csv",
            lambda t: "\n".join(
                [
                    t.splitlines()[0],
                    *(line[: line.rindex(",")] + ",1" for line in t.splitlines()[1:]),
                ]
            ).encode(),
        ),
        "one class",
    ),
}


@pytest.fixture(scope="module")
def spec(api: ApiClient, named: Named, cancer: Sample) -> str:
    """The model that bad files are uploaded to; beside it `bare`, which never gets one."""
    for name in (named("bad"), named("bare")):
        api.put(f"/v1/specs/{name}", spec_document(name, cancer))
    return named("bad")


@pytest.mark.needs("upload-events", "state-machine", "object-versions")
@pytest.mark.parametrize("case", BAD_UPLOADS)
def test_a_bad_upload_is_refused_with_its_reason_and_kept(
    target: Target, upload: Upload, cancer: Sample, tmp_path: Path, spec: str, case: str
) -> None:
    make, said = BAD_UPLOADS[case]

    run = upload(spec, make(cancer, tmp_path))

    assert run["outcome"] == "refused", run
    assert said.lower() in run["reason"].lower()
    kept = target.s3.head_object(
        Bucket=run["source"]["bucket"],
        Key=run["source"]["key"],
        VersionId=run["source"]["version_id"],
    )
    assert kept["ContentLength"] == run["source"]["size"]


@pytest.mark.needs("upload-events", "state-machine")
def test_bad_rows_are_quarantined_with_row_column_and_rule(
    upload: Upload, cancer: Sample, tmp_path: Path, spec: str
) -> None:
    rows = [list(r) for r in cancer.rows[:200]]
    rows[4][0], rows[9][1] = "abc", "nan"

    run = upload(spec, Sample(cancer.header, rows).write(tmp_path / "few.csv"))

    assert run["rows"] == {"read": 200, "accepted": 198, "quarantined": 2}
    found = {(p["column"], p["first_row"]) for p in run["problems"]}
    assert found == {(cancer.header[0], 5), (cancer.header[1], 10)}


def _predict(api: ApiClient, model: str, body: bytes) -> httpx.Response:
    return api.send("POST", f"/v1/models/{model}/predict", content=body)


def _problem(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["content-type"].startswith("application/problem+json")
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == answer.status_code
    return problem


def test_invalid_json_is_a_bad_request(api: ApiClient, trained: dict[str, Any]) -> None:
    answer = _predict(api, trained["model"], b'{"rows": [')

    assert answer.status_code == 400
    assert "JSON" in _problem(answer)["detail"]


@pytest.mark.parametrize("fault", ["missing", "unknown", "type"])
def test_a_wrong_row_is_named_with_row_and_field(
    api: ApiClient, trained: dict[str, Any], cancer: Sample, fault: str
) -> None:
    good = cancer.feature_row(0)
    bad: dict[str, Any] = dict(good)
    field = "mean_radius"
    if fault == "missing":
        del bad[field]
    elif fault == "unknown":
        field = "mean_radios"
        bad[field] = 1.0
    else:
        bad[field] = "large"

    answer = _predict(api, trained["model"], json.dumps({"rows": [good, bad]}).encode())

    assert answer.status_code == 422
    assert any(e["field"] == field and e["row"] == 1 for e in _problem(answer)["errors"])


def test_a_huge_batch_is_refused_with_advice(
    api: ApiClient, trained: dict[str, Any], cancer: Sample
) -> None:
    columns = {name: [value] * 20_000 for name, value in cancer.feature_row(0).items()}

    answer = _predict(api, trained["model"], json.dumps({"columns": columns}).encode())

    assert answer.status_code == 413
    assert "20,000" in _problem(answer)["detail"]


@pytest.mark.parametrize(
    ("model", "code"), [("nobody", "not_found"), ("bare", "no_champion")], ids=lambda v: v
)
def test_a_model_that_cannot_answer_is_not_found(
    api: ApiClient, named: Named, cancer: Sample, spec: str, model: str, code: str
) -> None:
    body = json.dumps({"rows": [cancer.feature_row(0)]}).encode()

    answer = _predict(api, named(model), body)

    assert answer.status_code == 404
    assert _problem(answer)["code"] == code


def test_a_spec_with_an_unknown_key_is_refused(
    api: ApiClient, named: Named, cancer: Sample
) -> None:
    document = spec_document(named("typo"), cancer) | {"trian": {}}

    answer = api.send("PUT", f"/v1/specs/{named('typo')}", content=json.dumps(document).encode())

    assert answer.status_code == 422
    assert [e["field"] for e in _problem(answer)["errors"]] == ["trian"]


@pytest.mark.needs("signatures")
def test_a_request_without_a_signature_is_refused(target: Target) -> None:
    answer = httpx.get(target.outputs.api_url + "/v1/models", timeout=35)

    assert answer.status_code == 403

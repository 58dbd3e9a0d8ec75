"""A batch job from file to results: right, in order, and nothing done twice."""

import gzip
import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import orjson
import pytest

from millrace import layout, onnx_session
from millrace.errors import ArtifactError, MillraceError, NotFoundError
from millrace.serving.answers import DEFAULT_OPTIONS, Writer
from millrace.spec import Task
from tests.fakes.onnx_models import churn_signature, stored
from tests.unit.batch.jobs import ARTIFACTS, DATA, HEADER, Job, csv_bytes, rows, spec_document


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def asked(job: Job, of: list[list[str]]) -> list[dict[str, Any]]:
    """What the API answers to the same rows, sent as JSON."""
    assert job.model is not None
    flags = {"true": True, "1": True, "no": False}
    body = orjson.dumps(
        {
            "rows": [
                {
                    "age": int(age),
                    "plan": plan or None,
                    "tenure": float(tenure) if tenure else None,
                    "active": flags[active],
                    "city": city,
                }
                for _, age, plan, tenure, active, city in of
            ]
        }
    )
    batch = job.codec.decode(body)
    session = onnx_session.load_session(job.model.onnx, job.model.sha256, "churn@3")
    output = onnx_session.predict(session, job.codec.signature, batch.numeric, batch.categorical)
    predictions: list[dict[str, Any]] = json.loads(
        b"[%b]" % Writer(job.codec).json_rows(output, DEFAULT_OPTIONS)
    )
    return predictions


def test_every_row_is_answered_as_a_request_answers_it(job: Job) -> None:
    given = rows(57)

    made = job.run("scores.csv", csv_bytes(given))

    table = job.table(made.predictions_key)
    assert list(table[0]) == [
        "row", "customer", "status", "version", "label", "probability_0", "probability_1",
    ]  # fmt: skip
    assert [int(r["row"]) for r in table] == list(range(57))
    assert [r["customer"] for r in table] == [r[0] for r in given]
    assert {r["status"] for r in table} == {"scored"}
    assert {r["version"] for r in table} == {"3"}
    for got, answer in zip(table, asked(job, given), strict=True):
        assert got["label"] == str(answer["label"])
        for label, probability in answer["probabilities"].items():
            assert np.float32(got[f"probability_{label}"]) == np.float32(probability)
    assert made.rows.model_dump() == {"read": 57, "accepted": 57, "quarantined": 0}
    assert job.runs == [10, 10, 10, 10, 10, 7]


def test_regression_gives_a_prediction_and_its_distribution(tmp_path: Path) -> None:
    job = Job(tmp_path, task=Task.REGRESSION)
    given = rows(25)

    made = job.run("scores.csv", csv_bytes(given))

    table = job.table(made.predictions_key)
    expected = [np.float32(a["value"]) for a in asked(job, given)]
    assert [np.float32(r["value"]) for r in table] == expected
    summary = job.document(made.summary_key)
    assert summary["value"]["quantiles"]["p100"] == pytest.approx(max(expected), rel=1e-6)
    assert summary["value"]["mean"] == pytest.approx(np.mean(expected), rel=1e-6)


def test_parquet_in_is_parquet_out_with_types(job: Job, tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    made_up = duckdb.sql(
        "SELECT 'c' || i AS customer, 20 + i AS age, 'basic' AS plan, i / 2.0 AS tenure, "
        "i % 2 = 0 AS active, 'Graz' AS city FROM range(23) t(i)"
    )
    assert made_up is not None
    made_up.write_parquet(str(path))

    made = job.run("scores.parquet", path.read_bytes())

    assert made.predictions_key.endswith("predictions.parquet")
    result = tmp_path / "predictions.parquet"
    result.write_bytes(job.read(made.predictions_key))
    given = duckdb.from_parquet(str(result))
    assert list(zip(given.columns, map(str, given.types), strict=True)) == [
        ("row", "BIGINT"),
        ("customer", "VARCHAR"),
        ("status", "VARCHAR"),
        ("version", "INTEGER"),
        ("label", "BIGINT"),
        ("probability_0", "FLOAT"),
        ("probability_1", "FLOAT"),
    ]
    assert given.select("row", "customer").fetchall() == [(i, f"c{i}") for i in range(23)]


def test_json_lines_and_gzip_give_the_same_results(job: Job, tmp_path: Path) -> None:
    given = rows(12)
    lines = "\n".join(
        json.dumps({name: value or None for name, value in zip(HEADER, row, strict=True)})
        for row in given
    )

    plain = job.run("a.csv", csv_bytes(given))
    packed = job.run("b.csv.gz", gzip.compress(csv_bytes(given)))
    jsonl = job.run("c.jsonl", lines.encode())

    assert job.read(plain.predictions_key) == job.read(packed.predictions_key)
    assert job.read(plain.predictions_key) == job.read(jsonl.predictions_key)


def test_rows_are_numbered_where_the_file_names_no_id(job: Job) -> None:
    body = csv_bytes([r[1:] for r in rows(5)], HEADER[1:])

    made = job.run("scores.csv", body)

    table = job.table(made.predictions_key)
    assert list(table[0])[:3] == ["row", "status", "version"]
    assert [r["row"] for r in table] == ["0", "1", "2", "3", "4"]


def test_columns_of_the_training_contract_may_stay_in_the_file(job: Job) -> None:
    body = csv_bytes([[*r, "1", "female"] for r in rows(5)], [*HEADER, "left", "sex"])

    made = job.run("scores.csv", body)

    assert made.rows.accepted == 5


def test_an_id_column_never_hides_a_column_of_the_result(tmp_path: Path) -> None:
    document = spec_document()
    document["data"]["columns"][0]["name"] = "label"
    job = Job(tmp_path, sections={"data": document["data"]})

    made = job.run("scores.csv", csv_bytes(rows(3), ["label", *HEADER[1:]]))

    table = job.table(made.predictions_key)
    assert [r["label_id"] for r in table] == ["c0", "c1", "c2"]


# ── Rows that cannot be scored ──────────────────────────────────────────────────────────────────


def bad_rows() -> list[list[str]]:
    """Forty rows, five of them bad."""
    given = rows(40)
    given[3][1] = "old"
    given[11][1] = ""
    given[12] = ["c12", "41"]
    given[25][4] = "maybe"
    given[26][3] = "1e39"
    return given


def test_bad_rows_keep_their_place_and_say_why(tmp_path: Path) -> None:
    job = Job(tmp_path, sections={"batch": {"max_quarantined": 0.2}})
    given = bad_rows()

    made = job.run("scores.csv", csv_bytes(given))

    table = job.table(made.predictions_key)
    wrong = {3, 11, 12, 25, 26}
    assert [int(r["row"]) for r in table] == list(range(40))
    assert {int(r["row"]) for r in table if r["status"] == "quarantined"} == wrong
    assert all(r["label"] == r["version"] == "" for r in table if int(r["row"]) in wrong)
    # A line that cannot be read has no id either; its number tells which it is.
    assert [r["customer"] for r in table] == [r[0] if i != 12 else "" for i, r in enumerate(given)]
    good = [r for i, r in enumerate(given) if i not in wrong]
    answers = asked(job, good)
    scored = [r for r in table if r["status"] == "scored"]
    assert [np.float32(r["probability_1"]) for r in scored] == [
        np.float32(a["probabilities"]["1"]) for a in answers
    ]
    told = [(int(q["row"]), q["field"], q["rule"]) for q in job.table(made.quarantine_key)]
    assert told == [
        (3, "age", "type"),
        (11, "age", "missing"),
        (12, "(row)", "too_few_fields"),
        (25, "active", "type"),
        (26, "tenure", "not_finite"),
    ]
    assert made.rows.model_dump() == {"read": 40, "accepted": 35, "quarantined": 5}
    assert {(p.field, p.rule, p.first_row) for p in made.problems} == {
        (field, rule, row) for row, field, rule in told
    }
    report = job.document(made.report_key)
    assert report["outcome"] == "accepted"
    assert [s["row"] for s in report["samples"]] == sorted(wrong)


def test_values_of_private_columns_are_nowhere_in_the_quarantine(tmp_path: Path) -> None:
    job = Job(tmp_path, sections={"batch": {"max_quarantined": 1.0}})
    given = rows(10)
    given[4][5] = ""
    given[5][0] = "canary-7"

    made = job.run("scores.csv", csv_bytes([*given, ["canary-7", "x"], given[5]]))

    quarantine = job.table(made.quarantine_key)
    assert [(q["row"], q["field"], q["rule"], q["came"]) for q in quarantine] == [
        ("4", "city", "missing", ""),
        ("10", "(row)", "too_few_fields", ""),
        ("11", "customer", "duplicate_id", ""),
    ]
    assert "canary-7" not in job.read(made.quarantine_key).decode()
    assert "canary-7" not in job.read(made.report_key).decode()


def test_values_outside_the_training_data_are_answered_and_counted(job: Job) -> None:
    given = rows(30)
    given[2][1] = "17"
    given[21][1] = "121"
    given[22][2] = "gold"

    made = job.run("scores.csv", csv_bytes(given))

    assert made.rows.quarantined == 0
    assert {(w.field, w.count) for w in made.warnings} == {("age", 2), ("plan", 1)}
    assert job.document(made.summary_key)["warnings"] == [w.model_dump() for w in made.warnings]


def test_unknown_categories_are_quarantined_where_a_request_is_refused(tmp_path: Path) -> None:
    known = {"plan": ("basic", "premium"), "city": ("Graz", "Linz")}
    signature = replace(
        churn_signature(),
        unknown_categories="refuse",
        features=tuple(
            replace(f, categories=known.get(f.name)) for f in churn_signature().features
        ),
    )
    job = Job(
        tmp_path,
        sections={"batch": {"max_quarantined": 0.5}},
        model=stored("run-1", signature=signature),
    )
    given = rows(30)
    given[7][2] = "gold"

    made = job.run("scores.csv", csv_bytes(given))

    assert made.rows.quarantined == 1
    [told] = job.table(made.quarantine_key)
    assert (told["row"], told["field"], told["rule"]) == ("7", "plan", "not_allowed")


def test_what_only_the_signature_refuses_is_quarantined_too(job: Job) -> None:
    given = rows(40)
    given[33][5] = "Gr\0az"

    made = job.run("scores.csv", csv_bytes(given))

    assert made.rows.model_dump() == {"read": 40, "accepted": 39, "quarantined": 1}
    [told] = job.table(made.quarantine_key)
    assert (told["row"], told["field"], told["rule"]) == ("33", "city", "signature")
    table = job.table(made.predictions_key)
    assert [r["row"] for r in table if r["status"] == "quarantined"] == ["33"]
    assert sum(job.runs) == 39


# ── Files that cannot be scored ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "body", "code", "says"),
    [
        ("a.csv", b"", "empty_file", "0 bytes"),
        ("a.csv", csv_bytes([]), "header_only", "no rows"),
        ("a.csv", csv_bytes(rows(9), [*HEADER[:5], "town"]), "missing_columns", "'city'"),
        (
            "a.csv",
            csv_bytes([[*r, "1"] for r in rows(9)], [*HEADER, "x"]),
            "unknown_columns",
            "'x'",
        ),
        ("a.csv", b"PK\x03\x04 a workbook", "unsupported_format", "Excel"),
        ("a.csv", csv_bytes(rows(9)).replace(b",", b";"), "wrong_delimiter", "semicolon"),
        ("a.parquet", csv_bytes(rows(9)), "not_parquet", "PAR1"),
        ("a.csv.gz", csv_bytes(rows(9)), "not_gzip", "gzip"),
        (
            "a.csv",
            csv_bytes([[r[0], "old", *r[2:]] for r in rows(9)]),
            "too_many_quarantined",
            "batch.max_quarantined",
        ),
    ],
    ids=lambda v: v if isinstance(v, str) and "_" in v else "",
)
def test_a_file_that_cannot_be_scored_is_refused_with_a_report(
    job: Job, name: str, body: bytes, code: str, says: str
) -> None:
    task = job.put(name, body)

    made = job.split(task)

    assert (made.outcome, made.code) == ("refused", code)
    assert says in made.reason
    report = job.document(made.report_key)
    assert (report["outcome"], report["code"], report["reason"]) == ("refused", code, made.reason)
    assert made.chunks == ()


def test_a_file_of_bad_rows_alone_is_refused_whatever_the_limit(tmp_path: Path) -> None:
    job = Job(tmp_path, sections={"batch": {"max_quarantined": 1.0}})

    made = job.split(job.put("a.csv", csv_bytes([[r[0], "old", *r[2:]] for r in rows(9)])))

    assert (made.outcome, made.code) == ("refused", "no_good_rows")
    assert len(job.table(made.quarantine_key)) == 9


# ── Resuming ────────────────────────────────────────────────────────────────────────────────────


class Killed(BaseException):
    """The environment is gone in the middle of a chunk."""


def test_a_job_that_was_killed_goes_on_without_scoring_anything_twice(job: Job) -> None:
    body = csv_bytes(rows(57))
    task = job.put("scores.csv", body)
    made = job.split(task)

    def kill(chunk: int) -> None:
        if chunk == 2:
            raise Killed

    job.before_write = kill
    job.score(task, 0)
    job.score(task, 1)
    with pytest.raises(Killed):
        job.score(task, 2)
    assert job.store.exists(DATA, layout.batch_scores_key("churn", task.batch_id, 1))
    assert not job.store.exists(DATA, layout.batch_scores_key("churn", task.batch_id, 2))
    with pytest.raises(ArtifactError, match="chunk 2 .* has not been scored"):
        job.finish(task, made)
    job.runs.clear()
    job.before_write = lambda _: None

    again = task.model_copy(update={"attempt": 2})
    written = set(job.store.objects)
    assert job.split(again) == made
    results = [job.score(again, chunk) for chunk in made.chunks]

    assert [r.skipped for r in results] == [True, True, False, False, False, False]
    assert job.runs == [10, 10, 10, 7]
    assert all("scores" in key for _, key in set(job.store.objects) - written)
    finished = job.finish(again, made)
    other = Job(job.scratch)
    assert job.read(finished.predictions_key) == other.read(
        other.run("scores.csv", body).predictions_key
    )


def test_nothing_is_written_twice_by_a_finished_job(job: Job) -> None:
    body = csv_bytes(rows(20))
    first = job.run("scores.csv", body)
    task = job.put("scores.csv", body)
    writes = {key: len(versions) for key, versions in job.store.objects.items()}

    made = job.split(task)
    for chunk in made.chunks:
        assert job.score(task, chunk).skipped
    again = job.finish(task, made)

    assert again == first
    assert {key: len(versions) for key, versions in job.store.objects.items()} == writes


def test_the_manifest_tells_what_was_made_of_what(job: Job) -> None:
    made = job.run("scores.csv", csv_bytes(rows(20)))

    manifest = job.document(made.manifest_key)
    assert job.model is not None
    assert (manifest["model"], manifest["version"]) == ("churn", 3)
    assert manifest["model_sha256"] == job.model.sha256
    assert manifest["source"]["version_id"] == "v0"
    assert {f["name"] for f in manifest["files"]} == {"predictions.csv", "summary.json"}
    for file in manifest["files"]:
        body = job.read(file["key"])
        assert file["sha256"] == hashlib.sha256(body).hexdigest()
        assert file["bytes"] == len(body)
    summary = job.document(made.summary_key)
    assert sum(summary["labels"].values()) == 20
    assert summary["rows"] == {"read": 20, "scored": 20, "quarantined": 0}


def test_another_model_than_the_registered_one_scores_nothing(job: Job) -> None:
    task = job.put("scores.csv", csv_bytes(rows(20)))
    made = job.split(task)
    assert job.model is not None
    job.store.write(ARTIFACTS, job.model.model_key, job.model.onnx[:-1] + b"x", content_type="")

    with pytest.raises(ArtifactError, match="sha256"):
        job.score(task, made.chunks[0])


def test_chunks_hold_no_pickled_objects(job: Job) -> None:
    task = job.put("scores.csv", csv_bytes(rows(20)))
    job.split(task)

    body = job.read(layout.batch_chunk_key("churn", task.batch_id, 0))

    with np.load(io.BytesIO(body), allow_pickle=False) as stored_arrays:
        assert all(stored_arrays[name].dtype.kind in "iuf" for name in stored_arrays.files)


def test_a_chunk_that_was_never_made_is_an_error(job: Job) -> None:
    task = job.put("scores.csv", csv_bytes(rows(20)))
    job.split(task)

    with pytest.raises(NotFoundError):
        job.score(task, 99)


def test_a_source_that_is_gone_is_an_error_not_a_refusal(job: Job) -> None:
    task = job.put("scores.csv", csv_bytes(rows(20)))

    with pytest.raises(MillraceError):
        job.split(
            task.model_copy(update={"source": task.source.model_copy(update={"version_id": "v9"})})
        )

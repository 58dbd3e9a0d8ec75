"""The train function from event to artifacts, on moto's S3."""

import hashlib
import json
from typing import Any

import numpy as np
import onnx
import pytest

from functions.train import handler as train
from millrace import layout
from millrace.aws.clients import client
from millrace.datasets.table import Table, TableSchema
from millrace.errors import (
    ArtifactError,
    ConfigurationError,
    DigestMismatchError,
    InvalidEventError,
    NotFoundError,
    NoViableTrialError,
    ParityError,
    TrainingError,
)
from millrace.observability import logger
from millrace.onnx_session import load_session, predict
from millrace.signature import Signature
from tests.fakes.cloud import LambdaContext
from tests.integration.train.conftest import (
    ARTIFACTS,
    DATA,
    NewRun,
    Run,
    put,
    stored,
    versions,
)


def through(run: Run) -> dict[str, Any]:
    plan = run.plan()
    return run.fit(plan, run.search(plan))


def held_out(run: Run) -> Table:
    ingest = run.payload["ingest"]
    schema = TableSchema.model_validate_json(
        client("s3").get_object(Bucket=DATA, Key=ingest["schema_key"])["Body"].read()
    )
    key = layout.split_key("sample", ingest["dataset_version"], ingest["data_digest"], "test")
    return Table.from_bytes(client("s3").get_object(Bucket=DATA, Key=key)["Body"].read(), schema)


@pytest.mark.parametrize("name", ["breast_cancer", "wine", "diabetes"])
def test_run_ends_with_a_model_that_answers_by_its_signature(new_run: NewRun, name: str) -> None:
    run = new_run(name)

    fitted = through(run)

    body = stored(fitted["model_key"])
    signature_body = stored(fitted["signature_key"])
    assert fitted["model_key"] == layout.model_key("sample", fitted["sha256"])
    assert hashlib.sha256(body).hexdigest() == fitted["sha256"]
    assert hashlib.sha256(signature_body).hexdigest() == fitted["signature_sha256"]
    assert fitted["size_bytes"] == len(body)
    assert fitted["parity"]["max_difference"] <= fitted["parity"]["tolerance"] == 1e-4
    table = held_out(run)
    signature = Signature.from_json(signature_body)
    session = load_session(body, fitted["sha256"], "sample")
    served = predict(session, signature, *table.features())
    if name == "diabetes":
        error = float(np.sqrt(np.mean((served - table.target) ** 2)))
        assert error < 0.9 * float(table.target.std())
    else:
        assert float((served.argmax(axis=1) == table.target).mean()) > 0.85


def test_environment_tells_what_the_model_was_made_of(new_run: NewRun) -> None:
    run = new_run()

    fitted = through(run)

    environment = json.loads(stored(fitted["environment_key"]))
    assert environment["model_sha256"] == fitted["sha256"]
    assert environment["code_version"] == fitted["code_version"] == "1.2.3"
    assert environment["dataset_version"] == run.payload["ingest"]["dataset_version"]
    assert environment["spec_digest"] == run.spec.digest
    assert environment["seed"] == fitted["seed"]
    assert {"scikit-learn", "skl2onnx", "onnxruntime", "numpy"} <= set(environment["packages"])
    metadata = {
        p.key: p.value for p in onnx.load_from_string(stored(fitted["model_key"])).metadata_props
    }
    assert metadata["run_id"] == "sample-0123"
    assert metadata["spec_digest"] == run.spec.digest


@pytest.mark.parametrize("name", ["breast_cancer", "diabetes"])
def test_training_again_gives_the_same_scores_and_the_same_model(
    new_run: NewRun, name: str
) -> None:
    run = new_run(name)
    first = through(run)
    for key in ("model_key", "signature_key", "environment_key"):
        client("s3").delete_object(Bucket=ARTIFACTS, Key=first[key])
    train.training.cache_clear()

    again = through(run)

    assert {k: v for k, v in again.items() if k != "seconds"} == {
        k: v for k, v in first.items() if k != "seconds"
    }


def test_other_run_of_the_same_inputs_gives_the_same_metrics(new_run: NewRun) -> None:
    first = through(new_run())
    second = through(new_run(run_id="sample-4567"))

    same = ("trial_id", "params", "cv_score", "validation_score", "parity", "rows", "seed")
    assert [first[k] for k in same] == [second[k] for k in same]
    assert first["model_key"] != second["model_key"]


def test_fit_delivered_twice_writes_once(new_run: NewRun) -> None:
    run = new_run()
    plan = run.plan()
    trials = run.search(plan)
    first = run.fit(plan, trials)

    second = run.fit(plan, trials)

    assert second["sha256"] == first["sha256"]
    assert versions(layout.artifacts_prefix("sample")) == 3


def test_every_artifact_lies_under_the_name_of_its_content(new_run: NewRun) -> None:
    run = new_run()

    fitted = through(run)

    for key in ("model_key", "signature_key", "environment_key"):
        digest = hashlib.sha256(stored(fitted[key])).hexdigest()
        assert fitted[key].startswith(f"models/sample/sha256/{digest}/")


@pytest.mark.parametrize("key", ["model_key", "signature_key", "environment_key"])
def test_fit_refuses_what_is_not_the_content_that_its_name_says(new_run: NewRun, key: str) -> None:
    run = new_run()
    plan = run.plan()
    trials = run.search(plan)
    first = run.fit(plan, trials)
    put(ARTIFACTS, first[key], b"something else")

    with pytest.raises(ArtifactError, match="is not what its name says"):
        run.fit(plan, trials)

    assert stored(first[key]) == b"something else"


def test_failed_trials_do_not_stop_the_fit(new_run: NewRun) -> None:
    run = new_run()
    plan = run.plan()
    good = run.trial(plan, plan["trials"][1])
    failed = {**good, "trial_id": 0, "status": "failed", "score": None, "error": "TrainingError"}

    assert run.fit(plan, [failed, good])["trial_id"] == 1
    with pytest.raises(NoViableTrialError, match="none of 1 trials"):
        run.fit(plan, [failed])


def test_disagreement_beyond_the_tolerance_ends_the_run(new_run: NewRun) -> None:
    run = new_run("diabetes", parity_tolerance=1e-12)

    with pytest.raises(ParityError, match="ONNX and scikit-learn differ by"):
        through(run)

    assert versions(layout.run_prefix("sample", "sample-0123")) == 0


def test_trials_share_the_splits_in_memory(new_run: NewRun) -> None:
    run = new_run()
    plan = run.plan()
    first = run.trial(plan, plan["trials"][0])
    ingest = run.payload["ingest"]
    key = layout.split_key("sample", ingest["dataset_version"], ingest["data_digest"], "train")
    client("s3").delete_object(Bucket=DATA, Key=key)

    again = run.trial(plan, plan["trials"][0])

    assert again["fold_scores"] == first["fold_scores"]
    train.training.cache_clear()
    with pytest.raises(NotFoundError):
        run.trial(plan, plan["trials"][0])


def test_only_one_dataset_version_is_kept_in_memory(new_run: NewRun) -> None:
    run, other = new_run(), new_run("wine", dataset="cd" * 32)
    plan = run.plan()
    run.trial(plan, plan["trials"][0])

    wine = other.plan()
    assert other.trial(wine, wine["trials"][0])["metric"] == "f1_macro"

    ingest = run.payload["ingest"]
    key = layout.split_key("sample", ingest["dataset_version"], ingest["data_digest"], "train")
    client("s3").delete_object(Bucket=DATA, Key=key)
    with pytest.raises(NotFoundError):
        run.trial(plan, plan["trials"][0])


def test_trial_out_of_time_ends_with_a_clear_error(
    new_run: NewRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run = new_run()
    plan = run.plan()
    run.context = LambdaContext(remaining_ms=3_020)

    with pytest.raises(TrainingError, match="give the train function more memory or time"):
        run.trial(plan, plan["trials"][2])

    assert '"TrialsFailed":[1.0]' in capsys.readouterr().out


def test_finished_trials_are_counted_by_model(
    new_run: NewRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run = new_run()
    plan = run.plan()
    capsys.readouterr()

    run.trial(plan, plan["trials"][0])

    emitted = [json.loads(line) for line in capsys.readouterr().out.splitlines() if "_aws" in line]
    assert [e["TrialsFinished"] for e in emitted] == [[1.0]]
    assert emitted[0]["model"] == "sample"


def test_altered_spec_is_refused(new_run: NewRun) -> None:
    run = new_run()
    put(
        ARTIFACTS,
        run.payload["spec_key"],
        run.spec.to_json().replace('"seed":7', '"seed":8').encode(),
    )

    with pytest.raises(DigestMismatchError, match="spec s3://artifact-bucket"):
        run.plan()


def test_spec_of_an_unknown_form_is_refused(new_run: NewRun) -> None:
    run = new_run()
    body = b'{"name": "sample", "surprise": 1}'
    put(ARTIFACTS, "specs/sample/other.json", body)
    run.payload |= {
        "spec_key": "specs/sample/other.json",
        "spec_digest": hashlib.sha256(body).hexdigest(),
    }

    with pytest.raises(ArtifactError, match="cannot be used: invalid spec"):
        run.plan()


def test_splits_of_another_contract_are_refused(new_run: NewRun) -> None:
    run, other = new_run(), new_run("wine", dataset="cd" * 32)
    run.payload["ingest"] = other.payload["ingest"]

    with pytest.raises(ArtifactError, match="was made for another contract"):
        run.plan()


@pytest.mark.parametrize("body", [b"", b"PK\x03\x04 cut short"], ids=["empty", "truncated"])
def test_damaged_split_is_refused(new_run: NewRun, body: bytes) -> None:
    run = new_run()
    plan = run.plan()
    ingest = run.payload["ingest"]
    key = layout.split_key("sample", ingest["dataset_version"], ingest["data_digest"], "train")
    put(DATA, key, body)

    with pytest.raises(ArtifactError):
        run.trial(plan, plan["trials"][0])


def test_event_without_a_known_action_is_refused(new_run: NewRun) -> None:
    with pytest.raises(InvalidEventError, match="expected a task of a training: .*action"):
        new_run().invoke("guess")


def test_missing_environment_is_named(new_run: NewRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = new_run()
    monkeypatch.delenv("MILLRACE_DATA_BUCKET")

    with pytest.raises(ConfigurationError, match="MILLRACE_DATA_BUCKET"):
        run.plan()


def test_messages_stay_small(new_run: NewRun) -> None:
    run = new_run(trials=100)

    assert len(json.dumps(run.plan())) < 40_000


def test_every_step_logs_its_begin_and_end_with_the_ids(
    new_run: NewRun, caplog: pytest.LogCaptureFixture
) -> None:
    run = new_run(trials=1)

    through(run)

    assert [record.message for record in caplog.records] == [
        "plan begins",
        "plan ends",
        "trial begins",
        "trial ends",
        "fit begins",
        "fit ends",
    ]
    keys = logger.get_current_keys()
    assert keys["correlation_id"] == "event-1"
    assert (keys["run_id"], keys["model"]) == ("sample-0123", "sample")

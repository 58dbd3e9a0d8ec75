"""Questions of the record over the API, on moto."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import boto3
import pytest

from millrace import layout
from millrace.messages import Cause
from millrace.serving.identity import Role, new_prediction_id
from tests.fakes import cases
from tests.fakes.cloud import Cloud
from tests.fakes.gateway import Caller, problem

MODEL = "/v1/models/churn"


def put(bucket: str, key: str, document: Any) -> None:
    boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=json.dumps(document).encode())


@pytest.fixture
def told(stack: Cloud) -> Cloud:
    """churn@1, churn@2, and a rollback to the first."""
    for number in (1, 2):
        cases.champion(stack.registry, number)
    stack.registry.rollback("churn", actor="ada", reason="complaints")
    return stack


def store_documents(stack: Cloud) -> None:
    """What the pipeline stores beside the record of the two versions."""
    registry = stack.registry
    boto3.client("s3").put_object(
        Bucket=cases.ARTIFACT_BUCKET,
        Key=layout.spec_key("churn", cases.spec().digest),
        Body=cases.spec().to_json().encode(),
    )
    for number, missing in ((1, 0), (2, 25)):
        version = registry.get_version("churn", number)
        put(
            cases.ARTIFACT_BUCKET,
            version.environment_key,
            {"python": "3.13.0", "packages": {"numpy": f"2.3.{number}"}, "run_id": version.run_id},
        )
        profile = layout.dataset_profile_key("churn", version.dataset_version)
        column = {"name": "age", "type": "number", "role": "feature", "private": False}
        put(
            cases.DATA_BUCKET,
            profile,
            {"columns": [{**column, "count": 100 - missing, "missing": missing, "distinct": 50}]},
        )
    measured = {"value": 0.81, "low": 0.75, "high": 0.86, "resamples": 9}
    put(
        cases.ARTIFACT_BUCKET,
        registry.get_version("churn", 2).evaluation_key,
        {
            "metrics": {"roc_auc": measured},
            "comparison": {
                "version": 1,
                "comparable": True,
                "metrics": {"roc_auc": {**measured, "value": 0.7}},
                "differences": {"roc_auc": {"value": 0.11, "low": 0.02, "high": 0.2}},
            },
        },
    )


def test_two_versions_are_compared_in_everything_the_record_has(call: Caller, told: Cloud) -> None:
    store_documents(told)

    forth = call("GET", f"{MODEL}/compare?from=1&to=2").json
    back = call("GET", f"{MODEL}/compare?from=2&to=champion").json

    assert (forth["before"]["version"], forth["after"]["version"]) == (1, 2)
    assert forth["paired"] is True
    [metric] = forth["metrics"]
    assert (metric["before"]["value"], metric["after"]["value"]) == (0.7, 0.81)
    assert metric["difference"] == {"value": 0.11, "low": 0.02, "high": 0.2}
    assert back["metrics"][0]["difference"] == {"value": -0.11, "low": -0.2, "high": -0.02}
    assert forth["environment"]["items"] == [
        {"path": "packages.numpy", "kind": "changed", "before": "2.3.1", "after": "2.3.2"}
    ]
    assert {c["path"]: (c["before"], c["after"]) for c in forth["dataset"]["columns"]["items"]} == {
        "age.missing_share": (0, 0.25)
    }
    assert forth["spec"]["same"] is True
    assert forth["missing"] == []


def test_a_comparison_says_what_is_missing_and_gives_the_rest(call: Caller, told: Cloud) -> None:
    found = call("GET", f"{MODEL}/compare?from=1&to=2").json

    assert found["paired"] is False
    assert found["metrics"][0]["difference"] is None
    assert "not measured on the same rows" in found["measured"]
    assert (found["spec"], found["environment"], found["dataset"]["columns"]) == (None, None, None)
    assert found["dataset"]["after"]["rows"]["accepted"] == 100
    assert len(found["missing"]) == 6
    assert found["gates"][0]["after"] == "passed"


def test_a_version_is_not_compared_with_itself_or_with_nothing(call: Caller, told: Cloud) -> None:
    itself = problem(call("GET", f"{MODEL}/compare?from=1&to=champion"), 422, "invalid_request")

    assert "churn@1 twice" in itself.detail
    problem(call("GET", f"{MODEL}/compare?from=1&to=9"), 404, "not_found")
    problem(call("GET", f"{MODEL}/compare?from=1"), 422, "invalid_request")
    problem(call("GET", f"{MODEL}/compare?from=1&to=../2"), 422, "invalid_request")


def test_the_history_tells_what_answered_and_by_whose_decision(call: Caller, told: Cloud) -> None:
    first = call("GET", f"{MODEL}/history?limit=2").json
    rest = call("GET", f"{MODEL}/history?limit=2&page_token={first['next_page_token']}").json

    periods = first["items"] + rest["items"]
    assert [p["version"] for p in periods] == [1, 2, 1]
    assert [p["decision"]["action"] for p in periods] == ["rolled_back", "promoted", "promoted"]
    assert periods[0]["to"] is None
    assert [p["to"] for p in periods[1:]] == [p["from"] for p in periods[:-1]]
    assert (periods[0]["decision"]["actor"], periods[0]["decision"]["reason"]) == (
        "ada",
        "complaints",
    )


def test_what_was_live_at_a_moment_is_one_answer(call: Caller, told: Cloud) -> None:
    periods = call("GET", f"{MODEL}/history").json["items"]
    for period in periods:
        found = call("GET", f"{MODEL}/history?at={quote(period['from'])}").json
        assert found["items"] == [period]

    soon = datetime.now(UTC) + timedelta(minutes=5)
    early = problem(call("GET", f"{MODEL}/history?at=2026-11-01T12:00"), 404, "no_champion")
    later = problem(
        call("GET", f"{MODEL}/history?at={quote(soon.isoformat())}"), 422, "invalid_request"
    )
    assert "its first was churn@1" in early.detail
    assert [e.field for e in later.errors] == ["at"]


WRONG = {
    "history?at=yesterday": "at",
    "history?at=2026-11-01T12:00Z&since=2026-11-01": "at",
    "history?since=2026-11-02&until=2026-11-01": "until",
    "history?page_token=forged": "page_token",
    "audit?since=0": "since",
    "audit?since=2026-11-02&until=2026-11-01": "until",
    "runs?until=2026-13-01T00:00Z": "until",
    "lineage?format=png": "format",
    "versions?status=grand": "status",
}


def test_a_wrong_parameter_is_named(call: Caller, told: Cloud) -> None:
    for path, field in WRONG.items():
        refusal = problem(call("GET", f"{MODEL}/{path}"), 422, "invalid_request")
        assert field in {e.field for e in refusal.errors}, path


def test_an_unknown_model_is_not_found(call: Caller) -> None:
    for path in ("history", "lineage", "compare?from=1&to=2", "audit?since=2026-01-01", "runs"):
        problem(call("GET", f"/v1/models/nobody/{path}"), 404, "not_found")


def test_a_token_is_of_its_own_listing(call: Caller, told: Cloud) -> None:
    token = call("GET", f"{MODEL}/audit?limit=1").json["next_page_token"]
    dated = call("GET", f"{MODEL}/audit?limit=1&since=2026-01-01").json["next_page_token"]

    for path in ("history", "runs", "versions", "audit?since=2026-01-01"):
        join = "&" if "?" in path else "?"
        problem(call("GET", f"{MODEL}/{path}{join}page_token={token}"), 422, "invalid_request")
    problem(call("GET", f"{MODEL}/audit?page_token={dated}"), 422, "invalid_request")


def test_the_audit_filters_by_who_what_and_when(call: Caller, told: Cloud) -> None:
    def asked(query: str) -> list[str]:
        return [e["action"] for e in call("GET", f"{MODEL}/audit?{query}").json["items"]]

    whole = call("GET", f"{MODEL}/audit").json["items"]
    second = next(e for e in whole if e["action"] == "promoted")

    assert asked("actor=ada") == ["rolled_back"]
    assert asked("action=promoted") == ["promoted", "promoted"]
    assert asked("subject=churn@2") == ["promoted", "version_validated", "version_registered"]
    since, until = quote(second["at"]), quote(second["at"])
    assert "rolled_back" in asked(f"since={since}")
    assert "rolled_back" not in asked(f"until={until}")
    assert set(asked(f"since={since}&until={until}&action=promoted")) == {"promoted"}
    assert [e["sequence"] for e in whole] == sorted((e["sequence"] for e in whole), reverse=True)
    assert all(len(e["hash"]) == 64 for e in whole)


def test_models_versions_and_runs_filter(call: Caller, told: Cloud) -> None:
    told.apply(cases.spec("other", owner="ops"))

    def names(query: str) -> list[str]:
        return [m["name"] for m in call("GET", f"/v1/models?{query}").json["items"]]

    assert names("prefix=ch") == ["churn"]
    assert names("champion=true") == ["churn"]
    assert names("champion=false") == ["other"]
    assert names("owner=ops&task=binary") == ["other"]
    assert names("task=regression") == []
    versions = call("GET", f"{MODEL}/versions?status=archived").json["items"]
    assert [v["version"] for v in versions] == [2]
    runs = call("GET", f"{MODEL}/runs?outcome=promoted&cause={Cause.UPLOAD}&limit=1").json
    assert len(runs["items"]) == 1
    assert runs["next_page_token"]
    assert call("GET", f"{MODEL}/runs?until=2026-01-01").json["items"] == []


def test_a_prediction_leads_to_its_version_and_the_decision(call: Caller, told: Cloud) -> None:
    live = call("GET", f"{MODEL}/history").json["items"][0]
    prediction_id = new_prediction_id(Role.CHAMPION, live["sequence"])

    found = call("GET", f"{MODEL}/predictions/{prediction_id}").json
    refusal = problem(call("GET", f"{MODEL}/predictions/7"), 422, "invalid_request")

    assert (found["version"], found["sha256"]) == (1, live["sha256"])
    assert found["decision"] == live["decision"]
    assert "report-0.html" in found["report_url"]
    assert [e.field for e in refusal.errors] == ["prediction_id"]


def test_the_lineage_leads_from_the_upload_to_the_requests(call: Caller, told: Cloud) -> None:
    graph = call("GET", f"{MODEL}/lineage?version=2").json
    drawn = call("GET", f"{MODEL}/lineage?version=2&format=svg")

    kinds = {n["id"]: n["kind"] for n in graph["nodes"]}
    joined = [(kinds[e["source"]], kinds[e["target"]]) for e in graph["edges"]]
    assert joined == [
        ("dataset", "run"),
        ("spec", "run"),
        ("run", "version"),
        ("compared", "version"),
        ("upload", "dataset"),
        ("version", "reign"),
        ("reign", "requests"),
    ]
    assert drawn.headers["content-type"] == "image/svg+xml"
    assert drawn.body.startswith("<svg")
    assert "churn@2" in drawn.body

"""The api function: real events in, the real registry on moto behind."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest

import millrace
from millrace.http.routes import ROUTES
from millrace.layout import spec_key
from millrace.spec import ModelSpec
from tests.fakes import cases
from tests.fakes.cloud import Cloud
from tests.fakes.gateway import IAM_USER, Caller, problem
from tests.fakes.onnx_models import crown

YAML = """\
name: churn
task: binary
data:
  columns:
    - {name: age, type: number}
    - {name: left, type: boolean, role: target}
"""


# ── Service ─────────────────────────────────────────────────────────────────────────────────────


def test_health_answers_without_touching_anything(
    call: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def touched(*_: Any, **__: Any) -> None:
        raise AssertionError("health called AWS")

    call("GET", "/v1/health")
    monkeypatch.setattr("botocore.client.BaseClient._make_api_call", touched)

    reply = call("GET", "/v1/health")

    assert reply.status == 200
    assert reply.json == {
        "status": "ok",
        "stage": "dev",
        "version": millrace.__version__,
        "code_version": "unknown",
        "checks": {},
    }


def test_deep_health_asks_the_table(call: Caller) -> None:
    assert call("GET", "/v1/health?deep=true").json["checks"] == {"table": "ok"}

    boto3.client("dynamodb").delete_table(TableName="registry-table")

    reply = call("GET", "/v1/health?deep=true")
    assert reply.status == 503
    assert (reply.json["status"], reply.json["checks"]) == ("degraded", {"table": "failed"})


def test_the_openapi_document_is_served(call: Caller) -> None:
    reply = call("GET", "/v1/openapi.json")

    assert reply.status == 200
    committed = Path(millrace.__file__).parent / "http" / "openapi.json"
    assert reply.json == json.loads(committed.read_text())
    assert set(reply.json["paths"]) == {route.path for route in ROUTES}


# ── Specs ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (YAML, "application/yaml"),
        (YAML, "text/yaml; charset=utf-8"),
        (YAML, ""),
        ("\ufeff" + YAML, "application/x-yaml"),
        (cases.spec().to_json(), "application/json"),
    ],
    ids=["yaml", "text", "unnamed", "bom", "json"],
)
def test_a_spec_is_applied_once(call: Caller, stack: Cloud, body: str, content_type: str) -> None:
    headers = {"Content-Type": content_type}

    first = call("PUT", "/v1/specs/churn", body, headers=headers, identity=IAM_USER)
    again = call("PUT", "/v1/specs/churn", body, headers=headers, identity=IAM_USER)

    assert (first.status, again.status) == (201, 200), first.body
    assert first.json == again.json
    assert first.headers["location"] == "/v1/specs/churn?version=1"
    assert first.json["created_by"] == IAM_USER["userArn"]
    assert ModelSpec.from_document(first.json["spec"]) == cases.spec()
    stored = boto3.client("s3").get_object(
        Bucket=cases.ARTIFACT_BUCKET, Key=spec_key("churn", cases.spec().digest)
    )
    assert stored["Body"].read().decode() == cases.spec().to_json()


def test_a_changed_spec_is_a_new_version_and_the_old_one_stays(call: Caller) -> None:
    call("PUT", "/v1/specs/churn", YAML)

    changed = call("PUT", "/v1/specs/churn", YAML + "owner: ada\n")

    assert (changed.status, changed.json["version"]) == (201, 2)
    assert call("GET", "/v1/specs/churn").json == changed.json
    assert call("GET", "/v1/specs/churn?version=1").json["spec"]["owner"] == ""
    problem(call("GET", "/v1/specs/churn?version=3"), 404, "not_found")


BOMB = "a: &a [x, x, x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]\n"


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code", "field"),
    [
        (YAML + "surprise: 1\n", "", 422, "invalid_spec", "surprise"),
        (YAML.replace("name: churn", "name: other"), "", 422, "invalid_spec", "name"),
        (YAML.replace("binary", "clustering"), "", 422, "invalid_spec", "task"),
        ("- a list", "", 422, "invalid_spec", None),
        ("", "", 422, "invalid_spec", None),
        ("a: [", "", 400, "malformed_request", None),
        ("a: b: c", "", 400, "malformed_request", None),
        ("when: 2026-13-45", "", 400, "malformed_request", None),
        (BOMB, "", 400, "malformed_request", None),
        ("[" * 900, "", 400, "malformed_request", None),
        ("name: \x00", "", 400, "malformed_request", None),
        ("{", "application/json", 400, "malformed_request", None),
        ("[" * 2_000, "application/json", 400, "malformed_request", None),
        ("x" * 1_000_001, "", 413, "request_too_large", None),
        ("a,b", "text/csv", 415, "unsupported_media_type", None),
    ],
    ids=[
        "unknown key",
        "other name",
        "unknown task",
        "list",
        "empty",
        "open",
        "mapping",
        "date",
        "aliases",
        "deep yaml",
        "control",
        "json",
        "deep json",
        "large",
        "csv",
    ],
)
def test_a_bad_spec_is_refused_by_field_and_nothing_is_kept(
    call: Caller,
    stack: Cloud,
    body: str,
    content_type: str,
    status: int,
    code: str,
    field: str | None,
) -> None:
    reply = call("PUT", "/v1/specs/churn", body, headers={"Content-Type": content_type})

    told = problem(reply, status, code)
    if field:
        assert [e.field for e in told.errors] == [field]
    assert call("GET", "/v1/models").json["items"] == []
    assert "Contents" not in boto3.client("s3").list_objects_v2(Bucket=cases.ARTIFACT_BUCKET)


def test_a_spec_in_another_encoding_is_refused(call: Caller) -> None:
    import base64

    body = base64.b64encode(YAML.encode("utf-16"))

    problem(call("PUT", "/v1/specs/churn", body, base64_encoded=True), 400, "malformed_request")


def test_a_changed_task_is_a_conflict_once_versions_exist(call: Caller, stack: Cloud) -> None:
    stack.apply(cases.spec())
    cases.champion(stack.registry, 1)

    reply = call("PUT", "/v1/specs/churn", YAML.replace("binary", "multiclass"))

    problem(reply, 409, "conflict")


# ── Models and versions ─────────────────────────────────────────────────────────────────────────


def test_models_are_listed_page_by_page(call: Caller, stack: Cloud) -> None:
    for name in ("model-c", "model-a", "model-b"):
        stack.apply(cases.spec(name))

    first = call("GET", "/v1/models?limit=2").json
    token = first["next_page_token"]
    second = call("GET", f"/v1/models?limit=2&page_token={token}").json

    assert [m["name"] for m in first["items"] + second["items"]] == [
        "model-a",
        "model-b",
        "model-c",
    ]
    assert second["next_page_token"] is None


def test_a_model_tells_its_champion(call: Caller, stack: Cloud) -> None:
    cases.champion(stack.registry, 1)
    cases.champion(stack.registry, 2)

    model = call("GET", "/v1/models/churn").json

    assert (model["task"], model["latest_version"]) == ("binary", 2)
    assert (model["champion_version"], model["previous_champion_version"]) == (2, 1)


def test_a_version_is_found_by_number_and_alias_with_its_report(call: Caller, stack: Cloud) -> None:
    cases.champion(stack.registry, 1)

    by_number = call("GET", "/v1/models/churn/versions/1")
    by_alias = call("GET", "/v1/models/churn/versions/champion")

    assert by_number.status == by_alias.status == 200
    assert by_alias.json["version"] == 1
    assert by_alias.json["aliases"] == ["champion"]
    assert by_number.json["metrics"]["roc_auc"]["value"] == 0.81
    assert by_number.json["gates"][0]["passed"] is True
    address = urlsplit(by_number.json["report_url"])
    query = parse_qs(address.query)
    assert "report-0.html" in address.path
    assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert query["X-Amz-Expires"] == ["900"]


def test_a_version_tells_what_to_send(call: Caller, stack: Cloud) -> None:
    def put(key: str, body: bytes) -> None:
        boto3.client("s3").put_object(Bucket=cases.ARTIFACT_BUCKET, Key=key, Body=body)

    model = crown(stack.registry, put, 1)

    signature = call("GET", "/v1/models/churn/versions/champion").json["signature"]
    assert [f["name"] for f in signature["features"]] == ["age", "plan", "tenure", "active", "city"]

    put(model.signature_key, b"{}")
    damaged = call("GET", "/v1/models/churn/versions/champion")
    assert (damaged.status, damaged.json["signature"]) == (200, None)


def test_versions_are_listed_newest_first(call: Caller, stack: Cloud) -> None:
    for number in (1, 2, 3):
        cases.champion(stack.registry, number)

    first = call("GET", "/v1/models/churn/versions?limit=2").json
    rest = call(
        "GET", f"/v1/models/churn/versions?limit=2&page_token={first['next_page_token']}"
    ).json

    assert [v["version"] for v in first["items"] + rest["items"]] == [3, 2, 1]
    assert [v["status"] for v in first["items"]] == ["champion", "archived"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/nobody",
        "/v1/models/nobody/versions",
        "/v1/models/nobody/runs",
        "/v1/models/nobody/audit",
        "/v1/models/nobody/versions/1",
        "/v1/specs/nobody",
        "/v1/models/Not-A-Name",
        "/v1/runs/churn-000",
        "/v1/runs/%2e%2e",
        "/v1/models/churn/versions/9",
        "/v1/models/churn/versions/challenger",
        "/v1/models/churn/versions/-1",
    ],
)
def test_what_does_not_exist_is_not_found(call: Caller, stack: Cloud, path: str) -> None:
    stack.apply(cases.spec())

    problem(call("GET", path), 404, "not_found")


def test_a_model_without_champion_has_no_champion_version(call: Caller, stack: Cloud) -> None:
    stack.apply(cases.spec())

    problem(call("GET", "/v1/models/churn/versions/champion"), 404, "no_champion")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=many", "limit"),
        ("page_token=forged", "page_token"),
        ("page_token=" + "x" * 5_000, "page_token"),
    ],
)
def test_a_wrong_page_is_refused(call: Caller, query: str, field: str) -> None:
    reply = call("GET", f"/v1/models?{query}")

    assert reply.status == 422
    told = problem(reply, 422, reply.json["code"])
    assert [e.field for e in told.errors] == [field]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "no_such_route"),
        ("GET", "/", 404, "no_such_route"),
        ("DELETE", "/v1/models/churn", 405, "method_not_allowed"),
        ("POST", "/v1/health", 405, "method_not_allowed"),
    ],
)
def test_what_is_no_route_is_said_so(
    call: Caller, method: str, path: str, status: int, code: str
) -> None:
    problem(call(method, path), status, code)


# ── Runs ────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_tells_its_story(call: Caller, stack: Cloud) -> None:
    cases.champion(stack.registry, 1)
    run_id = cases.run(1, cases.spec()).run_id

    reply = call("GET", f"/v1/runs/{run_id}")

    assert reply.status == 200, reply.body
    run = reply.json
    assert (run["status"], run["outcome"], run["model_version"]) == ("FINISHED", "promoted", 1)
    assert run["source"]["key"] == "incoming/churn/file-1.csv"
    assert run["rows"] == {"read": 110, "accepted": 100, "quarantined": 10}
    assert run["params"]["algorithm"] == "linear"
    assert run["metrics"]["test_roc_auc"] == 0.81
    assert run["steps"] == []
    assert "report-0.html" in run["report_url"]
    assert run["correlation_id"] == "event-1"


def test_a_refused_run_links_its_quarantine_report(call: Caller, stack: Cloud) -> None:
    spec = cases.spec()
    stack.apply(spec)
    run = cases.run(1, spec, quarantine_prefix="quarantine/churn/r1/")
    stack.registry.create_run(run)

    told = call("GET", f"/v1/runs/{run.run_id}").json

    assert "/quarantine/churn/r1/report.json" in told["quarantine_url"]
    assert told["report_url"] is None


def test_a_running_run_shows_its_steps(call: Caller, stack: Cloud) -> None:
    spec = cases.spec()
    stack.apply(spec)
    run = cases.run(1, spec)
    stack.registry.create_run(run)
    started = boto3.client("stepfunctions").start_execution(
        stateMachineArn=stack.state_machine_arn, name=run.run_id
    )
    stack.registry.create_run(other := cases.run(2, spec, execution_arn=started["executionArn"]))

    steps = call("GET", f"/v1/runs/{other.run_id}").json["steps"]

    assert isinstance(steps, list)


def test_runs_are_listed_newest_first(call: Caller, stack: Cloud) -> None:
    for number in (1, 2, 3):
        cases.candidate(stack.registry, number)

    runs = call("GET", "/v1/models/churn/runs?limit=2").json

    assert [r["source"]["key"][-5] for r in runs["items"]] == ["3", "2"]
    assert runs["next_page_token"]


def test_the_audit_tells_who_did_what(call: Caller, stack: Cloud) -> None:
    call("PUT", "/v1/specs/churn", YAML, identity=IAM_USER)

    entries = call("GET", "/v1/models/churn/audit").json["items"]

    assert entries[0]["action"] == "spec_applied"
    assert entries[0]["actor"] == IAM_USER["userArn"]
    assert entries[0]["correlation_id"] == "req-1"


def test_the_ledger_is_checked_in_parts_and_against_an_anchor(call: Caller, stack: Cloud) -> None:
    cases.champion(stack.registry, 1)
    path = "/v1/models/churn/audit/verify"

    whole = call("GET", path).json
    part = call("GET", f"{path}?limit=2").json
    rest = call("GET", f"{path}?page_token={part['next_page_token']}").json
    wrong = call("GET", f"{path}?anchor=1:{'0' * 64}").json

    assert (whole["sound"], whole["complete"], whole["faults"]) == (True, True, [])
    assert (part["complete"], part["entries"]) == (False, 2)
    assert (rest["first"], rest["complete"], rest["anchor"]) == (3, True, whole["anchor"])
    assert [(f["kind"], f["sequence"]) for f in wrong["faults"]] == [("anchor", 1)]


@pytest.mark.parametrize("field", ["anchor", "page_token"])
def test_a_check_of_the_ledger_names_the_wrong_parameter(
    call: Caller, stack: Cloud, field: str
) -> None:
    cases.champion(stack.registry, 1)

    reply = call("GET", f"/v1/models/churn/audit/verify?{field}=x")

    assert reply.status == 422
    told = problem(reply, 422, reply.json["code"])
    assert [e.field for e in told.errors] == [field]


# ── Champions ───────────────────────────────────────────────────────────────────────────────────


def test_promotion_and_rollback_change_the_champion_and_tell_people(
    call: Caller, stack: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    cases.champion(stack.registry, 1)
    task = cases.candidate(stack.registry, 2)
    stack.registry.record_evaluation(
        task, 2, cases.evaluated(task.run_id, champion=1), automatic=False
    )
    path = "/v1/models/churn/aliases/champion"

    promoted = call(
        "POST", path, {"action": "promote", "version": 2, "reason": "approved"}, identity=IAM_USER
    )
    back = call("POST", path, {"action": "rollback", "reason": "complaints"}, identity=IAM_USER)

    assert promoted.json == {"model": "churn", "version": 2, "previous": 1}, promoted.body
    assert back.json == {"model": "churn", "version": 1, "previous": 2}, back.body
    assert stack.registry.get_serving("churn").version == 1
    audit = call("GET", "/v1/models/churn/audit").json["items"]
    assert [(a["action"], a["reason"]) for a in audit[:2]] == [
        ("rolled_back", "complaints"),
        ("promoted", "approved"),
    ]
    assert {a["actor"] for a in audit[:2]} == {IAM_USER["userArn"]}
    assert {"promoted", "rolled_back"} <= set(stack.events_told())
    output = capsys.readouterr().out
    assert '"Promotions":[1.0]' in output
    assert '"Rollbacks":[1.0]' in output


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"action": "promote", "version": 9}, 404, "not_found"),
        ({"action": "promote", "version": 1}, 409, "invalid_transition"),
        ({"action": "promote", "version": 3, "expected_champion": 7}, 409, "champion_changed"),
        ({"action": "promote", "version": 3, "expected_champion": None}, 409, "champion_changed"),
        ({"action": "promote", "version": 2, "force": True}, 422, "invalid_event"),
        ({"action": "promote", "version": 2}, 409, "invalid_transition"),
        ({"action": "rollback", "reason": "x"}, 409, "conflict"),
        ({"action": "demote"}, 422, "invalid_request"),
        ({"action": "promote"}, 422, "invalid_request"),
        ({"action": "promote", "version": 2, "why": "x"}, 422, "invalid_request"),
        ({"action": "promote", "version": "two"}, 422, "invalid_request"),
        ({"version": 2}, 422, "invalid_request"),
        ("{", 400, "malformed_request"),
        (None, 422, "invalid_request"),
    ],
    ids=[
        "no version",
        "champion already",
        "other champion",
        "no champion expected",
        "force anonymously",
        "not evaluated",
        "nowhere back",
        "action",
        "no number",
        "unknown key",
        "text",
        "no action",
        "json",
        "nothing",
    ],
)
def test_a_change_that_cannot_be_made_is_refused(
    call: Caller, stack: Cloud, body: Any, status: int, code: str
) -> None:
    cases.champion(stack.registry, 1)
    cases.candidate(stack.registry, 2)
    task = cases.candidate(stack.registry, 3)
    stack.registry.record_evaluation(
        task, 3, cases.evaluated(task.run_id, champion=1), automatic=False
    )

    reply = call(
        "POST",
        "/v1/models/churn/aliases/champion",
        body,
        headers={"Content-Type": "application/json"},
    )

    problem(reply, status, code)
    assert stack.registry.get_serving("churn").version == 1
    assert stack.registry.verify("churn").sound


def test_a_version_that_failed_its_gates_is_not_promoted(call: Caller, stack: Cloud) -> None:
    task = cases.candidate(stack.registry, 1)
    stack.registry.record_evaluation(
        task, 1, cases.evaluated(task.run_id, passed=False), automatic=False
    )

    reply = call("POST", "/v1/models/churn/aliases/champion", {"action": "promote", "version": 1})

    told = problem(reply, 409, "invalid_transition")
    assert "rejected" in told.detail
    assert "force" in told.detail
    assert stack.registry.champion("churn") is None
    assert stack.registry.verify("churn").sound


def test_a_promotion_sent_twice_is_done_once(call: Caller, stack: Cloud) -> None:
    cases.champion(stack.registry, 1)
    task = cases.candidate(stack.registry, 2)
    stack.registry.record_evaluation(
        task, 2, cases.evaluated(task.run_id, champion=1), automatic=False
    )
    seen = {"action": "promote", "version": 2, "expected_champion": 1}

    replies = [call("POST", "/v1/models/churn/aliases/champion", seen) for _ in range(2)]

    assert [r.status for r in replies] == [200, 200]
    told = [e for e in stack.registry.audit("churn").items if e.after == "churn@2"]
    assert [e.action for e in told] == ["promoted"]
    assert stack.registry.verify("churn").sound


def test_of_two_people_with_the_same_page_open_the_second_is_told(
    call: Caller, stack: Cloud
) -> None:
    cases.champion(stack.registry, 1)
    for number in (2, 3):
        task = cases.candidate(stack.registry, number)
        stack.registry.record_evaluation(
            task, number, cases.evaluated(task.run_id, champion=1), automatic=False
        )

    first, second = (
        call(
            "POST",
            "/v1/models/churn/aliases/champion",
            {"action": "promote", "version": number, "expected_champion": 1},
        )
        for number in (2, 3)
    )

    assert first.status == 200
    told = problem(second, 409, "champion_changed")
    assert "expected churn@1 as champion of churn, found churn@2" in told.detail
    assert stack.registry.get_serving("churn").version == 2
    assert stack.registry.verify("churn").sound


@pytest.mark.parametrize(
    "name",
    ["a%2Fb", "a%20b", "%F0%9F%99%82", "x" * 300, "..%2F..", "MODEL%23churn", "churn%00", "Churn"],
    ids=["slash", "space", "emoji", "300 characters", "dots", "hash", "null", "capital"],
)
def test_a_name_that_no_model_has_is_answered_clearly(
    call: Caller, stack: Cloud, name: str
) -> None:
    cases.champion(stack.registry, 1)
    change = {"action": "promote", "version": 1}

    replies = [
        call("GET", f"/v1/models/{name}"),
        call("GET", f"/v1/models/{name}/audit/verify"),
        call("POST", f"/v1/models/{name}/aliases/champion", change),
    ]

    for reply in replies:
        assert reply.status in (404, 422), reply.json
        assert reply.json["title"]
    assert [m.name for m in stack.registry.list_models().items] == ["churn"]
    assert stack.registry.verify("churn").sound


@pytest.mark.parametrize("content_type", [None, "application/x-www-form-urlencoded"])
def test_a_change_as_curl_sends_it_is_read(
    call: Caller, stack: Cloud, content_type: str | None
) -> None:
    cases.champion(stack.registry, 1)
    cases.champion(stack.registry, 2)
    headers = {"Content-Type": content_type} if content_type else {}

    reply = call(
        "POST",
        "/v1/models/churn/aliases/champion",
        json.dumps({"action": "rollback", "reason": "complaints"}),
        headers=headers,
    )

    assert reply.json["version"] == 1, reply.body


def test_a_change_in_another_type_is_refused(call: Caller, stack: Cloud) -> None:
    cases.champion(stack.registry, 1)

    for path in ("aliases/champion", "retrain"):
        reply = call(
            "POST", f"/v1/models/churn/{path}", "a,b", headers={"Content-Type": "text/csv"}
        )
        problem(reply, 415, "unsupported_media_type")


# ── Costs ───────────────────────────────────────────────────────────────────────────────────────


def test_a_models_costs_are_those_of_its_trainings_and_its_predictions(
    call: Caller, stack: Cloud
) -> None:
    stack.apply(cases.spec(retrain={"monthly_budget": 0.001}))
    run = cases.run(5, cases.spec(), train_seconds=600.0, ingest_seconds=4.0)
    stack.registry.create_run(run)

    month = call("GET", "/v1/models/churn/costs?until=2026-11-20T00:00:00Z")
    before = call("GET", "/v1/models/churn/costs?until=2026-10-20T00:00:00Z")

    assert month.status == 200, month.body
    [trained] = month.json["trainings"]
    assert (trained["run_id"], trained["seconds"]) == (run.run_id, 604.0)
    assert month.json["usd"] == pytest.approx(trained["usd"])
    assert 0.02 < trained["usd"] < 0.04
    assert (month.json["rows"], month.json["per_thousand_predictions"]) == (0, None)
    assert (month.json["monthly_budget"], month.json["budget_state"]) == (0.001, "exhausted")
    assert (before.json["usd"], before.json["budget_state"]) == (0, "within")
    problem(call("GET", "/v1/models/nobody/costs"), 404, "not_found")


# ── Retraining ──────────────────────────────────────────────────────────────────────────────────


def test_retraining_starts_one_run_per_idempotency_key(call: Caller, stack: Cloud) -> None:
    cases.champion(stack.registry, 1)
    headers = {"Idempotency-Key": "monday"}

    first = call(
        "POST", "/v1/models/churn/retrain", {"reason": "drift"}, headers=headers, identity=IAM_USER
    )
    again = call(
        "POST", "/v1/models/churn/retrain", {"reason": "drift"}, headers=headers, identity=IAM_USER
    )
    other = call("POST", "/v1/models/churn/retrain", identity=IAM_USER)

    assert (first.status, again.status, other.status) == (202, 202, 202), first.body
    assert first.json["run_id"] == again.json["run_id"] != other.json["run_id"]
    assert (first.json["started"], again.json["started"]) == (True, False)
    assert first.headers["location"] == f"/v1/runs/{first.json['run_id']}"
    run = call("GET", first.headers["location"]).json
    assert (run["cause"], run["requested_by"]) == ("retrain", IAM_USER["userArn"])
    assert run["correlation_id"] == "req-1"
    assert len(stack.executions()) == 2


def test_retraining_an_unknown_model_is_not_found(call: Caller) -> None:
    problem(call("POST", "/v1/models/nobody/retrain", {}), 404, "not_found")


def test_retraining_without_data_is_not_found_with_advice(call: Caller, stack: Cloud) -> None:
    stack.apply(cases.spec())

    told = problem(call("POST", "/v1/models/churn/retrain", {}), 404, "not_found")

    assert "dataset" in told.detail


@pytest.mark.parametrize(
    ("body", "headers", "field"),
    [
        ({"why": "x"}, {}, "body"),
        ({}, {"Idempotency-Key": "two words"}, "idempotency-key"),
        ({"reason": "x" * 1_001}, {}, "reason"),
    ],
    ids=["unknown key", "key", "long reason"],
)
def test_a_bad_retraining_request_is_refused_by_field(
    call: Caller, stack: Cloud, body: Any, headers: dict[str, str], field: str
) -> None:
    cases.champion(stack.registry, 1)

    told = problem(
        call("POST", "/v1/models/churn/retrain", body, headers=headers), 422, "invalid_request"
    )

    assert [e.field.lower() for e in told.errors] == [field]

"""A user's days on the twin: upload, training, promotion, prediction, and what goes wrong.

Every function is the real one; see `tests.integration.pipeline.twin`.
"""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urlparse

import pytest
from moto.sns.models import sns_backends

from millrace import layout
from millrace.aws.clients import client
from millrace.errors import ThrottledError, TrainingError
from millrace.observability import SERVICE
from millrace.registry.approvals import open_approvals
from millrace.registry.records import RunOutcome, RunStatus, VersionStatus
from tests import samples
from tests.access.compare import unused
from tests.access.needs import all_needed
from tests.access.policies import Policies, Request
from tests.access.watched import watch
from tests.infra.deployment import Resolver
from tests.integration.pipeline.machine import ACCOUNT, REGION, LambdaFault
from tests.integration.pipeline.twin import DATA_BUCKET, TABLE, Twin, environment, stack, twin

FIRST = samples.csv_file(samples.rows(300, seed=1))
SECOND = samples.csv_file(samples.rows(400, seed=2))
ASKED = samples.request_rows(samples.rows(3, seed=9))
ABSENT = {("s3:ListBucket", "ArtifactBucket"), ("s3:ListBucket", "DataBucket")}
# Rights that no call of an ordinary day needs, and why they are there.
IDLE = {
    "trigger": {
        ("dynamodb:DeleteItem", "RegistryTable"),  # the idempotency record of a failed admission
        ("dynamodb:Query", "RegistryTable/index/GSI1"),  # the models that have a calendar
        ("sqs:SendMessage", "DeadLetterQueue"),  # used by Lambda, when an event failed three times
        ("states:StartExecution", "BatchStateMachine"),  # files for batch prediction
    },
    "ingest": {
        ("s3:GetObject", "DataBucket/incoming/*"),  # an event that names no version
        ("s3:GetObject", "DataBucket/capture/*"),  # a training on labelled predictions
        ("dynamodb:Query", "RegistryTable"),  # their labels
        ("s3:ListBucket", "ArtifactBucket"),  # a spec that is gone
    },
    "train": {
        ("s3:GetObject", "ArtifactBucket/models/*"),  # a fit that runs again compares its bytes
        *ABSENT,
    },
    "evaluate": ABSENT,
    "registry": {
        ("sqs:SendMessage", "DeadLetterQueue"),
        ("s3:ListBucket", "ArtifactBucket"),
    },
}
TOLERANT = {"against_champion": {"min_improvement": -1.0}}


@pytest.fixture
def deployed() -> Iterator[Twin]:
    with twin() as made:
        yield made


@pytest.fixture
def churn(deployed: Twin) -> Twin:
    """A deployment that knows the model ``churn``."""
    deployed.apply(samples.spec(evaluate=TOLERANT))
    return deployed


# ── What should happen ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_upload_becomes_a_champion_that_answers(deployed: Twin, task: samples.TaskName) -> None:
    deployed.apply(samples.spec(task=task))

    ended = deployed.train("churn", "first.csv", samples.csv_file(samples.rows(300, task=task)))

    assert (ended.status, ended.states[-1]) == ("SUCCEEDED", "Promoted"), ended.cause
    status, body = deployed.ask("churn", ASKED)
    assert status == 200, body
    assert (body["model"], body["version"]) == ("churn", 1)
    assert len(body["predictions"]) == 3


def test_every_kind_of_candidate_is_searched(deployed: Twin) -> None:
    everything = ["linear", "random_forest", "hist_gradient_boosting"]
    deployed.apply(samples.spec(train={"candidates": everything, "trials": 3}))

    ended = deployed.train("churn", "first.csv", FIRST)

    assert ended.status == "SUCCEEDED", ended.cause
    assert sorted(t["algorithm"] for t in ended.output["trials"]) == sorted(everything)
    assert {t["status"] for t in ended.output["trials"]} == {"finished"}


def test_run_tells_its_story(churn: Twin) -> None:
    ended = churn.train("churn", "first.csv", FIRST)

    run_id = ended.output["run_id"]
    run = json.loads(churn.api("GET", f"/v1/runs/{run_id}")["body"])
    assert (run["status"], run["outcome"], run["model_version"]) == ("FINISHED", "promoted", 1)
    assert run["rows"] == {"read": 300, "accepted": 300, "quarantined": 0}
    assert len(run["trials"]) == 2
    steps = {step["name"]: step for step in run["steps"]}
    assert steps["RunTrial"]["count"] == steps["RunTrial"]["done"] == 2
    assert [s["name"] for s in run["steps"]][-1] == "Promoted"
    assert {s["status"] for s in run["steps"]} == {"succeeded"}


def test_ids_of_the_upload_lead_from_event_to_audit(churn: Twin) -> None:
    event = churn.upload("churn", "first.csv", FIRST)
    admitted = churn.deliver("trigger", event)
    churn.follow(admitted["run_id"])

    registry = churn.registry
    assert admitted["run_id"] == layout.run_id_for_upload(
        "churn",
        DATA_BUCKET,
        event["detail"]["object"]["key"],
        event["detail"]["object"]["version-id"],
    )
    assert registry.get_run(admitted["run_id"]).correlation_id == event["id"]
    assert registry.get_version("churn", 1).correlation_id == event["id"]
    promoted = next(e for e in registry.audit("churn").items if e.action == "promoted")
    assert promoted.correlation_id == event["id"]
    for invocation in churn.functions.invocations:
        given = invocation.event.get("input", invocation.event)
        if "run_id" in given:
            assert given["correlation_id"] == event["id"]


def test_report_can_be_read_by_its_link(churn: Twin) -> None:
    ended = churn.train("churn", "first.csv", FIRST)

    run = json.loads(churn.api("GET", f"/v1/runs/{ended.output['run_id']}")["body"])
    key = unquote(urlparse(run["report_url"]).path).split("/models/", 1)[1]
    # The link carries the right of the api function's role.
    assert _may_read("ApiRole", f"{stack().arn('ArtifactBucket')}/models/{key}")


def test_event_delivered_twice_starts_one_training(churn: Twin) -> None:
    event = churn.upload("churn", "first.csv", FIRST)

    first = churn.deliver("trigger", event)
    again = churn.deliver("trigger", {**event, "id": "00000000-0000-4000-8000-00000000beef"})

    assert (first["started"], again["started"]) == (True, False)
    assert again["run_id"] == first["run_id"]
    assert churn.follow(first["run_id"]).status == "SUCCEEDED"
    assert churn.machine.executions() == [first["run_id"]]


def test_same_rows_in_another_file_train_nothing(churn: Twin) -> None:
    first = churn.train("churn", "first.csv", FIRST)
    header, *lines = FIRST.decode().splitlines()

    again = churn.train("churn", "again.csv", "\n".join([header, *lines[::-1]]).encode())

    assert again.states[-1] == "DatasetRecorded"
    run = churn.registry.get_run(again.output["run_id"])
    assert run.outcome is RunOutcome.UNCHANGED
    assert run.dataset_version == first.output["ingest"]["dataset_version"]
    assert len(churn.registry.list_versions("churn").items) == 1


def test_rollback_shows_in_answers_within_the_refresh_interval(churn: Twin) -> None:
    churn.train("churn", "first.csv", FIRST)
    churn.train("churn", "second.csv", SECOND)
    assert churn.ask("churn", ASKED)[1]["version"] == 2

    answer = churn.api(
        "POST",
        "/v1/models/churn/aliases/champion",
        {"action": "rollback", "reason": "calls were miscounted"},
    )

    assert answer["statusCode"] == 200, answer["body"]
    deadline = time.monotonic() + 5
    while (version := churn.ask("churn", ASKED)[1]["version"]) != 1:
        assert time.monotonic() < deadline, f"still version {version}"
        threading.Event().wait(0.1)


def test_retraining_on_request_trains_known_rows_again(churn: Twin) -> None:
    churn.train("churn", "first.csv", FIRST)

    answer = churn.api("POST", "/v1/models/churn/retrain", {"reason": "a new library"})

    assert answer["statusCode"] == 202, answer["body"]
    run_id = json.loads(answer["body"])["run_id"]
    ended = churn.follow(run_id)
    assert ended.states[-1] == "Promoted", ended.cause
    assert churn.registry.get_version("churn", "champion").version == 2
    assert churn.registry.get_run(run_id).reason != ""


# ── Outcomes that are no failures ───────────────────────────────────────────────────────────────


def test_refused_upload_leaves_the_champion_alone(churn: Twin) -> None:
    churn.train("churn", "first.csv", FIRST)

    ended = churn.train("churn", "header-only.csv", FIRST.splitlines()[0])

    assert (ended.status, ended.states[-1]) == ("SUCCEEDED", "UploadRefused")
    run = churn.registry.get_run(ended.output["run_id"])
    assert (run.status, run.outcome) == (RunStatus.FINISHED, RunOutcome.REFUSED)
    assert run.reason
    assert churn.ask("churn", ASKED)[1]["version"] == 1
    assert "refused" in _notices()[-1]["event"]


def test_bad_rows_are_quarantined_and_the_rest_trains(churn: Twin) -> None:
    table = samples.rows(300)
    table[7]["tenure"] = "long"
    table[8]["city"] = "Atlantis"

    ended = churn.train("churn", "mostly-good.csv", samples.csv_file(table))

    assert ended.states[-1] == "Promoted", ended.cause
    run = json.loads(churn.api("GET", f"/v1/runs/{ended.output['run_id']}")["body"])
    assert run["rows"] == {"read": 300, "accepted": 298, "quarantined": 2}
    assert {p["column"] for p in run["problems"]} == {"tenure", "city"}
    key = unquote(urlparse(run["quarantine_url"]).path).split("/quarantine/", 1)[1]
    assert _may_read("ApiRole", f"{stack().arn('DataBucket')}/quarantine/{key}")


def test_failed_gates_leave_no_champion(deployed: Twin) -> None:
    deployed.apply(samples.spec(evaluate={"metrics": [{"metric": "roc_auc", "min": 0.9999}]}))

    ended = deployed.train("churn", "first.csv", FIRST)

    assert (ended.status, ended.states[-1]) == ("SUCCEEDED", "GatesFailed")
    assert deployed.registry.get_version("churn", 1).status is VersionStatus.REJECTED
    assert deployed.registry.get_run(ended.output["run_id"]).outcome is RunOutcome.GATES_FAILED
    status, body = deployed.ask("churn", ASKED)
    assert (status, body["code"]) == (404, "no_champion")


def test_worse_model_does_not_replace_the_champion(deployed: Twin) -> None:
    deployed.apply(samples.spec(evaluate={"against_champion": {"min_improvement": 0.5}}))
    deployed.train("churn", "first.csv", FIRST)

    ended = deployed.train("churn", "second.csv", SECOND)

    assert ended.states[-1] == "GatesFailed"
    assert ended.output["evaluation"]["champion_version"] == 1
    assert deployed.registry.get_version("churn", "champion").version == 1


def test_model_waits_for_a_person_where_the_spec_says_so(deployed: Twin) -> None:
    deployed.apply(samples.spec(approve={"mode": "manual"}))

    run_id = deployed.train_until_asked("churn", "first.csv", FIRST)

    assert deployed.ask("churn", ASKED)[0] == 404
    evidence = deployed.api("GET", "/v1/models/churn/versions/1/approval")
    assert evidence["statusCode"] == 200, evidence["body"]
    answer = deployed.api("POST", "/v1/models/churn/versions/1/approve", {"reason": "looks right"})
    assert answer["statusCode"] == 200, answer["body"]
    assert deployed.follow(run_id).states[-1] == "Promoted"
    assert deployed.registry.get_run(run_id).outcome is RunOutcome.PROMOTED
    assert _eventually(lambda: deployed.ask("churn", ASKED)[0] == 200)


def test_promotion_by_hand_lets_the_machine_end(deployed: Twin) -> None:
    deployed.apply(samples.spec(approve={"mode": "manual"}))
    run_id = deployed.train_until_asked("churn", "first.csv", FIRST)

    answer = deployed.api(
        "POST",
        "/v1/models/churn/aliases/champion",
        {"action": "promote", "version": 1, "reason": "looks right"},
    )

    assert answer["statusCode"] == 200, answer["body"]
    assert deployed.follow(run_id).states[-1] == "Promoted"
    actions = [e.action for e in deployed.registry.audit("churn").items]
    assert (actions.count("promoted"), actions.count("approval_approved")) == (1, 1)


def test_rejected_version_ends_its_run_with_the_reason(deployed: Twin) -> None:
    deployed.apply(samples.spec(approve={"mode": "manual"}))
    run_id = deployed.train_until_asked("churn", "first.csv", FIRST)

    answer = deployed.api(
        "POST", "/v1/models/churn/versions/1/reject", {"reason": "an old extract"}
    )

    assert answer["statusCode"] == 200, answer["body"]
    assert deployed.follow(run_id).states[-1] == "VersionRejected"
    run = deployed.registry.get_run(run_id)
    assert (run.outcome, run.reason) == (RunOutcome.REJECTED, "an old extract")


def test_decision_that_reaches_no_machine_takes_effect_all_the_same(deployed: Twin) -> None:
    deployed.apply(samples.spec(approve={"mode": "manual"}))
    run_id = deployed.train_until_asked("churn", "first.csv", FIRST)
    approvals = open_approvals(client("dynamodb"), TABLE)
    token = approvals.get("churn", 1).task_token
    _lose(token)

    first = deployed.api("POST", "/v1/models/churn/versions/1/approve", {"reason": "good"})
    again = deployed.api("POST", "/v1/models/churn/versions/1/approve", {"reason": "good"})

    assert (first["statusCode"], again["statusCode"]) == (200, 200), first["body"]
    assert json.loads(first["body"]) == json.loads(again["body"])
    assert deployed.registry.get_serving("churn").version == 1
    assert deployed.registry.get_run(run_id).outcome is RunOutcome.PROMOTED
    # A machine that is woken late finds what was decided and done.
    client("stepfunctions").send_task_success(taskToken=token, output="{}")
    assert deployed.follow(run_id).states[-1] == "Promoted"
    actions = [e.action for e in deployed.registry.audit("churn").items]
    assert actions.count("promoted") == 1


def _lose(token: str) -> None:
    """The request keeps a token that no machine waits with."""
    client("dynamodb").update_item(
        TableName=TABLE,
        Key={"PK": {"S": "MODEL#churn"}, "SK": {"S": "APPROVAL#000001"}},
        UpdateExpression="SET task_token = :lost",
        ExpressionAttributeValues={":lost": {"S": token[::-1]}},
    )


def test_spec_may_keep_uploads_without_training(deployed: Twin) -> None:
    deployed.apply(samples.spec(retrain={"on_upload": False}))

    ended = deployed.train("churn", "first.csv", FIRST)

    assert ended.states[-1] == "DatasetRecorded"
    assert deployed.registry.get_run(ended.output["run_id"]).outcome is RunOutcome.STORED


def test_upload_for_an_unknown_model_is_told_and_harms_nothing(churn: Twin) -> None:
    event = churn.upload("nobody", "first.csv", FIRST)

    answer = churn.deliver("trigger", event)

    kept = client("s3").get_object(Bucket=DATA_BUCKET, Key=event["detail"]["object"]["key"])
    assert kept["Body"].read() == FIRST
    assert (answer["status"], answer["started"]) == ("unroutable", False)
    assert churn.machine.executions() == []
    assert _notices()[-1]["event"] == "upload_unroutable"


# ── Failures ────────────────────────────────────────────────────────────────────────────────────


def test_throttled_steps_are_tried_again(churn: Twin) -> None:
    churn.functions.fail("ingest", LambdaFault("Lambda.TooManyRequestsException"), times=2)
    churn.functions.fail("promote", ThrottledError("slow down"))

    ended = churn.train("churn", "first.csv", FIRST)

    assert ended.states[-1] == "Promoted", ended.cause
    assert len(churn.functions.waits) == 3
    assert len(churn.registry.list_versions("churn").items) == 1


@pytest.mark.parametrize(
    "action", ["record_dataset", "record_trial", "register", "record_evaluation", "promote", "fit"]
)
def test_step_that_ran_without_its_answer_arriving_may_run_again(churn: Twin, action: str) -> None:
    """At least once: the function did its work, and Step Functions never heard."""
    function = "train" if action == "fit" else "registry"
    handler = churn.functions.handlers[function]
    lost: list[Any] = []

    def answer_lost_once(event: dict[str, Any], context: Any) -> Any:
        answer = handler(event, context)
        if event.get("action") == action and not lost:
            lost.append(answer)
            raise LambdaFault("Lambda.ServiceException")
        return answer

    churn.functions.handlers[function] = answer_lost_once
    ended = churn.train("churn", "first.csv", FIRST)

    assert lost
    assert ended.states[-1] == "Promoted", ended.cause
    assert [v.version for v in churn.registry.list_versions("churn").items] == [1]
    promotions = [e for e in churn.registry.audit("churn").items if e.action == "promoted"]
    assert len(promotions) == 1


def test_failed_trial_is_recorded_and_the_others_go_on(churn: Twin) -> None:
    churn.functions.fail("trial", TrainingError("singular"))

    ended = churn.train("churn", "first.csv", FIRST)

    assert ended.states[-1] == "Promoted", ended.cause
    trials = churn.registry.get_run(ended.output["run_id"]).trials
    assert sorted((t.status, t.error) for t in trials) == [
        ("failed", "TrainingError"),
        ("finished", ""),
    ]


def test_run_fails_by_name_when_every_trial_failed(churn: Twin) -> None:
    churn.functions.fail("trial", TrainingError("singular"), times=9)

    ended = churn.train("churn", "first.csv", FIRST)

    assert (ended.status, ended.error) == ("FAILED", "NoViableTrialError")
    _assert_failed(churn, ended, "NoViableTrialError")


def test_disagreement_of_onnx_and_scikit_learn_fails_the_run(deployed: Twin) -> None:
    deployed.apply(samples.spec(train={"parity_tolerance": 1e-12}))

    ended = deployed.train("churn", "first.csv", FIRST)

    assert (ended.status, ended.error) == ("FAILED", "ParityError")
    _assert_failed(deployed, ended, "ParityError")
    assert deployed.registry.list_versions("churn").items == ()


def test_failed_run_rings_the_alarm(churn: Twin, capsys: pytest.CaptureFixture[str]) -> None:
    churn.functions.fail("fit", TrainingError("no"))
    capsys.readouterr()

    churn.train("churn", "first.csv", FIRST)

    alarm = Resolver().resources()["RunsFailedAlarm"]["Properties"]
    # The alarm watches the service that the template gives to every function.
    assert alarm["Dimensions"] == [
        {"Name": "service", "Value": environment("registry")["POWERTOOLS_SERVICE_NAME"]}
    ]
    emitted = [m for m in _embedded(capsys.readouterr().out) if alarm["MetricName"] in m]
    assert emitted
    for metric in emitted:
        [directive] = metric["_aws"]["CloudWatchMetrics"]
        assert directive["Namespace"] == alarm["Namespace"]
        assert directive["Dimensions"] == [["service"], ["service", "model"]]
        assert (metric["service"], metric["model"]) == (SERVICE, "churn")


def test_lost_race_is_evaluated_again_and_won(deployed: Twin) -> None:
    deployed.apply(samples.spec(approve={"mode": "manual"}, evaluate=TOLERANT))
    deployed.train_until_asked("churn", "first.csv", FIRST)
    deployed.apply(samples.spec(evaluate=TOLERANT))
    overtaken = {"action": "promote", "version": 1, "reason": "in between"}
    deployed.functions.before(
        "promote", lambda: deployed.api("POST", "/v1/models/churn/aliases/champion", overtaken)
    )

    ended = deployed.train("churn", "second.csv", SECOND)

    assert ended.states[-1] == "Promoted", ended.cause
    assert "ReadChampion" in ended.states
    assert ended.output["promotion"] == {
        "version": 2,
        "previous": 1,
        "strategy": "all-at-once",
    }
    assert ended.output["evaluation"]["champion_version"] == 1
    assert deployed.registry.get_version("churn", 2).compared_with == 1
    assert deployed.registry.get_version("churn", 1).status is VersionStatus.ARCHIVED


def test_lost_race_may_be_lost_for_good(deployed: Twin) -> None:
    strict = {"against_champion": {"min_improvement": 0.5}}
    deployed.apply(samples.spec(approve={"mode": "manual"}, evaluate=strict))
    deployed.train_until_asked("churn", "first.csv", FIRST)
    deployed.apply(samples.spec(evaluate=strict))
    overtaken = {"action": "promote", "version": 1, "reason": "in between"}
    deployed.functions.before(
        "promote", lambda: deployed.api("POST", "/v1/models/churn/aliases/champion", overtaken)
    )

    ended = deployed.train("churn", "second.csv", SECOND)

    assert ended.states[-1] == "GatesFailed", ended.cause
    assert deployed.registry.get_version("churn", "champion").version == 1
    assert deployed.registry.get_version("churn", 2).status is VersionStatus.REJECTED
    assert deployed.registry.get_run(ended.output["run_id"]).outcome is RunOutcome.GATES_FAILED


def test_run_whose_failure_could_not_be_recorded_is_closed_from_outside(churn: Twin) -> None:
    churn.functions.fail("fit", TrainingError("no"))
    churn.functions.fail("record_failure", LambdaFault("Sandbox.Timedout"), times=9)

    ended = churn.train("churn", "first.csv", FIRST)

    _assert_failed(churn, ended, "TrainingError")


def test_an_aborted_execution_ends_with_its_test() -> None:
    """Its function still runs when the test is over; what it logs must not be another test's."""
    begun, ended = threading.Event(), threading.Event()

    def slow(event: object, context: object) -> dict[str, object]:
        begun.set()
        ended.wait(0.3)
        ended.set()
        return {}

    with twin() as deployed:
        deployed.apply(samples.spec())
        deployed.functions.handlers["ingest"] = slow
        admitted = deployed.deliver("trigger", deployed.upload("churn", "first.csv", FIRST))
        assert begun.wait(10)
        arn = deployed.machine.arn.replace("stateMachine", "execution")
        deployed.machine.abort(f"{arn}:{admitted['run_id']}")

    assert ended.is_set()


def test_aborted_run_is_closed_from_outside(churn: Twin) -> None:
    event = churn.upload("churn", "first.csv", FIRST)

    def abort() -> None:
        [name] = churn.machine.executions()
        churn.machine.abort(churn.machine.arn.replace("stateMachine", "execution") + f":{name}")

    churn.functions.before("plan", abort)
    admitted = churn.deliver("trigger", event)
    ended = churn.follow(admitted["run_id"])

    assert ended.status == "ABORTED"
    run = churn.registry.get_run(admitted["run_id"])
    assert (run.status, run.outcome) == (RunStatus.FAILED, RunOutcome.FAILED)


def test_failure_does_not_stop_the_next_upload(churn: Twin) -> None:
    churn.functions.fail("fit", TrainingError("no"))
    churn.train("churn", "first.csv", FIRST)

    ended = churn.train("churn", "second.csv", SECOND)

    assert ended.states[-1] == "Promoted", ended.cause


def test_rows_of_a_failed_training_train_when_they_come_again(churn: Twin) -> None:
    churn.functions.fail("fit", TrainingError("no"))
    churn.train("churn", "first.csv", FIRST)

    ended = churn.train("churn", "again.csv", FIRST)

    assert ended.states[-1] == "Promoted", ended.cause


# ── Rights ──────────────────────────────────────────────────────────────────────────────────────


def test_roles_of_a_training_grant_nothing_that_an_ordinary_day_does_not_use(churn: Twin) -> None:
    """Those of the other functions are judged by the calls of a whole end-to-end run."""
    promoted = churn.train("churn", "first.csv", FIRST)
    churn.train("churn", "second.csv", SECOND)
    churn.train("churn", "empty.csv", FIRST.splitlines()[0])
    again = churn.upload("churn", "again.csv", FIRST)
    churn.follow(churn.deliver("trigger", again)["run_id"])
    churn.deliver("trigger", again)
    churn.deliver("trigger", churn.upload("nobody", "first.csv", FIRST))
    churn.functions.fail("fit", TrainingError("no"))
    churn.train("churn", "third.csv", samples.csv_file(samples.rows(200, seed=3)))
    churn.ask("churn", ASKED)
    rollback = {"action": "rollback", "reason": "a check"}
    churn.api("POST", "/v1/models/churn/aliases/champion", rollback)
    retrained = json.loads(churn.api("POST", "/v1/models/churn/retrain", {})["body"])
    churn.follow(retrained["run_id"])
    for path in ("models", "models/churn/versions/1", "models/churn/audit", "specs/churn"):
        assert churn.api("GET", f"/v1/{path}")["statusCode"] == 200
    for path in ("models/churn/runs", f"runs/{promoted.output['run_id']}"):
        assert churn.api("GET", f"/v1/{path}")["statusCode"] == 200

    idle = _idle()
    assert {function: idle[function] for function in IDLE} == IDLE


# ── What must never be said ─────────────────────────────────────────────────────────────────────


def test_no_private_value_reaches_a_log_or_a_notice(
    churn: Twin, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    table = samples.rows(300)
    table[5]["customer"] = table[4]["customer"]
    table[6]["sex"] = "sex-unheard-of"
    table[7]["tenure"] = "long"

    churn.train("churn", "first.csv", samples.csv_file(table))
    churn.ask("churn", [{"customer": "customer-1-1", "tenure": 1}])
    churn.functions.fail("fit", TrainingError("no"))
    churn.train("churn", "second.csv", SECOND)

    told = capsys.readouterr()
    # Records with all their fields, as the logger's formatter would write them.
    logged = [str(vars(record)) for record in caplog.records if record.name == "millrace"]
    text = told.out + told.err + json.dumps(_notices()) + "".join(logged)
    assert "ingest ends" in text
    assert "customer-1-" not in text
    assert "customer-2-" not in text
    assert "sex-unheard-of" not in text


def test_states_pass_keys_and_small_facts(churn: Twin) -> None:
    churn.train("churn", "first.csv", FIRST)

    sizes = {i.action: len(json.dumps(i.event)) for i in churn.functions.invocations}
    assert max(sizes.values()) < 16 * 1024, sizes


def _assert_failed(twin: Twin, ended: Any, error: str) -> None:
    [run] = [r for r in twin.registry.list_runs("churn").items if r.outcome is RunOutcome.FAILED]
    assert run.status is RunStatus.FAILED
    assert run.error.startswith(error) or error in run.reason
    assert ended.status == "FAILED"
    assert any(notice["event"] == "failed" for notice in _notices())


def _may_read(role: str, thing: str) -> bool:
    return stack().policies.verdict(Request(role, "s3:GetObject", thing)).allowed


def _idle() -> dict[str, set[tuple[str, str]]]:
    """Rights of functions that no call of the test needed: action and resource, by function."""
    asked = all_needed({call for _, call in watch().calls}, stack().roles, stack().place)
    roles = {role: name.removeprefix("millrace-") for name, role in stack().roles.items()}
    own = Policies(s for s in stack().policies.statements if s.principals is None)
    found: dict[str, set[tuple[str, str]]] = {name: set() for name in roles.values()}
    for grant in unused(asked, own):
        if grant.owner in roles and not grant.action.startswith(("logs:", "xray:")):
            found[roles[grant.owner]].add((grant.action, grant.resource))
    return found


def _notices() -> list[dict[str, Any]]:
    topics = sns_backends[ACCOUNT][REGION].topics.values()
    return [
        json.loads(json.loads(sent[1])["sqs"])
        for topic in topics
        for sent in topic.sent_notifications
    ]


def _embedded(output: str) -> list[dict[str, Any]]:
    lines = [line for line in output.splitlines() if '"_aws"' in line]
    return [json.loads(line) for line in lines]


def _eventually(holds: Any, seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        threading.Event().wait(0.1)
    return True

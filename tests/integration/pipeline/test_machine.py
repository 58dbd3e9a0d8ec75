"""Every way through the TRAINING machine, with scripted functions behind it."""

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from millrace.errors import (
    AlreadyDecidedError,
    ChampionChangedError,
    ConcurrentWriteError,
    ConflictError,
    NotFoundError,
    ParityError,
    ServiceUnavailableError,
    ThrottledError,
    TrainingError,
)
from millrace.messages import (
    EvaluateTask,
    ExpireApprovalTask,
    FitTask,
    PlanTask,
    PromoteTask,
    ReadChampionTask,
    RecordDatasetTask,
    RecordEvaluationTask,
    RecordFailureTask,
    RecordRefusalTask,
    RecordTrialTask,
    RegisterTask,
    RequestApprovalTask,
    SettleApprovalTask,
    TrainingInput,
    TrialTask,
    task_event,
)
from tests.fakes import cases
from tests.integration.pipeline.machine import REGION, Dispatcher, LambdaFault, Machine, emulated

SPEC = cases.spec()
INPUT = cases.training_input(cases.run(1, SPEC))
TRIALS = [
    {"trial_id": n, "algorithm": "linear", "params": {"C": 0.5 * n}, "seed": n} for n in (1, 2, 3)
]

ACTIONS_IN_ORDER = [
    "ingest",
    "record_dataset",
    "plan",
    "fit",
    "register",
    "evaluate",
    "record_evaluation",
    "promote",
]


class Script:
    """Stands for every function: checks that each task's message is whole, then answers."""

    def __init__(self) -> None:
        self.wakes = True
        self.settlements: list[dict[str, Any]] = []
        self.answers: dict[str, Any] = {
            "ingest": cases.ingested().model_dump(mode="json"),
            "record_dataset": {"decision": "train", "new_version": True},
            "plan": {"metric": "roc_auc", "higher_is_better": True, "folds": 2, "trials": TRIALS},
            "fit": cases.fitted(INPUT.run_id).model_dump(mode="json"),
            "register": {"version": 2, "champion": None},
            "read_champion": {"version": 2, "champion": None},
            "evaluate": {"verdict": "passed"},
            "record_evaluation": {"decision": "promote", "reason": "all gates passed"},
            "promote": {"version": 2, "previous": 1, "strategy": "all-at-once"},
        }

    def ingest(self, event: dict[str, Any], context: Any) -> Any:
        TrainingInput.model_validate(event)
        return self.answers["ingest"]

    def train(self, event: dict[str, Any], context: Any) -> Any:
        merged = task_event(event)
        match event["action"]:
            case "trial":
                trial = TrialTask.model_validate(merged).trial
                return {
                    "trial_id": trial.trial_id,
                    "algorithm": trial.algorithm,
                    "params": trial.params,
                    "metric": "roc_auc",
                    "score": 0.7 + trial.trial_id / 100,
                }
            case "plan":
                PlanTask.model_validate(merged)
            case "fit":
                FitTask.model_validate(merged)
        return self.answers[event["action"]]

    def evaluate(self, event: dict[str, Any], context: Any) -> Any:
        EvaluateTask.model_validate(event)
        return self.answers["evaluate"]

    def registry(self, event: dict[str, Any], context: Any) -> Any:
        merged = task_event(event)
        kinds: dict[str, type[TrainingInput]] = {
            "record_dataset": RecordDatasetTask,
            "record_refusal": RecordRefusalTask,
            "record_trial": RecordTrialTask,
            "register": RegisterTask,
            "read_champion": ReadChampionTask,
            "settle_approval": SettleApprovalTask,
            "expire_approval": ExpireApprovalTask,
            "record_failure": RecordFailureTask,
        }
        if event["action"] in kinds:
            kinds[event["action"]].model_validate(merged)
        else:
            needed: dict[str, type[TrainingInput]] = {
                "record_evaluation": RecordEvaluationTask,
                "request_approval": RequestApprovalTask,
                "promote": PromoteTask,
            }
            assert needed[event["action"]].model_fields.keys() - {"requested_by", "reason"} <= (
                merged.keys()
            )
        if event["action"] == "request_approval" and self.wakes:
            client = boto3.client("stepfunctions", region_name=REGION)
            client.send_task_success(taskToken=event["task_token"], output="{}")
        if event["action"] == "settle_approval" and self.settlements:
            return self.settlements.pop(0)
        return self.answers.get(event["action"], {})


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def functions(script: Script) -> Dispatcher:
    return Dispatcher(
        {name: getattr(script, name) for name in ("ingest", "train", "evaluate", "registry")}
    )


@pytest.fixture
def machine(functions: Dispatcher) -> Iterator[Machine]:
    with emulated(), functions.wired():
        yield Machine()


def start(machine: Machine) -> Any:
    return machine.run(INPUT.model_dump(mode="json"))


def test_accepted_upload_becomes_champion(
    machine: Machine, functions: Dispatcher, script: Script
) -> None:
    ended = start(machine)

    assert (ended.status, ended.states[-1]) == ("SUCCEEDED", "Promoted")
    assert ended.output["promotion"] == script.answers["promote"]
    assert [a for a in functions.actions() if "trial" not in a] == ACTIONS_IN_ORDER
    assert functions.actions().count("trial") == functions.actions().count("record_trial") == 3


def test_search_gives_its_results_in_the_order_of_the_plan(machine: Machine) -> None:
    ended = start(machine)

    assert [(t["trial_id"], t["params"], t["score"]) for t in ended.output["trials"]] == [
        (1, {"C": 0.5}, 0.71),
        (2, {"C": 1.0}, 0.72),
        (3, {"C": 1.5}, 0.73),
    ]


def test_payload_keeps_the_input_of_the_training(machine: Machine) -> None:
    ended = start(machine)

    assert TrainingInput.model_validate(ended.output) == INPUT


def test_refused_upload_is_recorded_and_ends_well(
    machine: Machine, functions: Dispatcher, script: Script
) -> None:
    script.answers["ingest"] = cases.refused().model_dump(mode="json")

    ended = start(machine)

    assert (ended.status, ended.states[-1]) == ("SUCCEEDED", "UploadRefused")
    assert functions.actions() == ["ingest", "record_refusal"]


@pytest.mark.parametrize("decision", ["unchanged", "stored"])
def test_known_rows_and_stored_rows_train_nothing(
    machine: Machine, functions: Dispatcher, script: Script, decision: str
) -> None:
    script.answers["record_dataset"] = {"decision": decision, "new_version": False}

    ended = start(machine)

    assert (ended.status, ended.states[-1]) == ("SUCCEEDED", "DatasetRecorded")
    assert functions.actions() == ["ingest", "record_dataset"]


def test_failed_gates_promote_nothing(
    machine: Machine, functions: Dispatcher, script: Script
) -> None:
    script.answers["record_evaluation"] = {"decision": "reject", "reason": "because"}

    ended = start(machine)

    assert (ended.status, ended.states[-1]) == ("SUCCEEDED", "GatesFailed")
    assert "promote" not in functions.actions()


WAITS = {"decision": "await_approval", "reason": "passed", "approval_seconds": 60}


@pytest.mark.parametrize(
    ("decisions", "end"),
    [
        (["approved"], "Promoted"),
        (["rejected"], "VersionRejected"),
        (["expired"], "ApprovalExpired"),
        (["pending", "approved"], "Promoted"),
        (["superseded", "approved"], "Promoted"),
    ],
    ids=["approved", "rejected", "expired", "woken by nobody", "champion changed"],
)
def test_a_person_decides_and_the_registry_tells_what(
    machine: Machine, functions: Dispatcher, script: Script, decisions: list[str], end: str
) -> None:
    script.answers["record_evaluation"] = WAITS
    script.settlements = [{"decision": d, "reason": "because"} for d in decisions]

    ended = start(machine)

    assert (ended.status, ended.states[-1]) == ("SUCCEEDED", end), ended.cause
    assert ("promote" in functions.actions()) == (end == "Promoted")
    assert functions.actions().count("request_approval") == len(decisions)
    assert functions.actions().count("evaluate") == 1 + decisions.count("superseded")


@pytest.mark.parametrize(
    ("decision", "end"), [("expired", "ApprovalExpired"), ("approved", "Promoted")]
)
def test_a_request_that_nobody_answers_ends_in_time(
    machine: Machine, functions: Dispatcher, script: Script, decision: str, end: str
) -> None:
    script.wakes = False
    script.answers["record_evaluation"] = {**WAITS, "approval_seconds": 1}
    script.answers["expire_approval"] = {"decision": decision, "reason": "because"}

    ended = start(machine)

    assert (ended.status, ended.states[-1]) == ("SUCCEEDED", end), ended.cause
    assert "settle_approval" not in functions.actions()


def test_a_version_that_was_decided_on_before_is_asked_for_no_more(
    machine: Machine, functions: Dispatcher, script: Script
) -> None:
    script.answers["record_evaluation"] = WAITS
    script.settlements = [{"decision": "approved", "reason": "because"}]
    functions.fail("request_approval", AlreadyDecidedError("promoted by hand"))

    ended = start(machine)

    assert (ended.status, ended.states[-1]) == ("SUCCEEDED", "Promoted"), ended.cause


def test_a_request_that_cannot_be_made_fails_the_run(
    machine: Machine, functions: Dispatcher, script: Script
) -> None:
    script.answers["record_evaluation"] = WAITS
    functions.fail("request_approval", ConflictError("broken"))

    ended = start(machine)

    assert (ended.status, ended.error) == ("FAILED", "ConflictError")
    assert functions.actions()[-1] == "record_failure"


def test_one_bad_trial_does_not_stop_the_search(machine: Machine, functions: Dispatcher) -> None:
    functions.fail("trial", TrainingError("singular"), when=lambda e: _trial(e) == 2)

    ended = start(machine)

    assert ended.status == "SUCCEEDED"
    assert [t["status"] for t in ended.output["trials"] if "status" in t] == ["failed"]
    [failed] = [t for t in ended.output["trials"] if t.get("status") == "failed"]
    assert (failed["trial_id"], failed["error"]) == (2, "TrainingError")
    assert functions.actions().count("record_trial") == 3


def test_trial_that_cannot_be_recorded_fails_the_run(
    machine: Machine, functions: Dispatcher, script: Script
) -> None:
    # One item only: moto garbles the history of items that it ends because another one failed.
    script.answers["plan"] = {**script.answers["plan"], "trials": TRIALS[:1]}
    functions.fail("record_trial", ConflictError("broken"), times=9)

    ended = start(machine)

    assert (ended.status, ended.error) == ("FAILED", "ConflictError")
    assert functions.actions()[-1] == "record_failure"


def test_lost_race_evaluates_against_the_new_champion(
    machine: Machine, functions: Dispatcher, script: Script
) -> None:
    champion = {
        "version": 3,
        "run_id": "r",
        "model_key": "k",
        "sha256": "s",
        "signature_key": "g",
        "signature_sha256": "h",
    }
    script.answers["read_champion"] = {"version": 2, "champion": champion}
    functions.fail("promote", ChampionChangedError("3, not 1"), times=2)

    ended = start(machine)

    assert (ended.status, ended.states[-1]) == ("SUCCEEDED", "Promoted")
    loop = ["promote", "read_champion", "evaluate", "record_evaluation"]
    assert functions.actions()[-9:] == [*loop, *loop, "promote"]
    assert functions.invocations[-1].event["input"]["registration"]["champion"] == champion


@pytest.mark.parametrize("action", ACTIONS_IN_ORDER)
def test_error_of_any_task_is_recorded_and_fails_the_execution_by_its_name(
    machine: Machine, functions: Dispatcher, action: str
) -> None:
    functions.fail(action, ParityError("they disagree"), times=9)

    ended = start(machine)

    assert (ended.status, ended.error) == ("FAILED", "ParityError")
    assert "they disagree" in ended.cause
    assert functions.actions().count(action) == 1, "a final error is not retried"
    last = functions.invocations[-1]
    assert last.action == "record_failure"
    assert last.event["input"]["failure"]["Error"] == "ParityError"


def test_error_of_the_record_of_a_refusal_fails_the_execution(
    machine: Machine, functions: Dispatcher, script: Script
) -> None:
    script.answers["ingest"] = cases.refused().model_dump(mode="json")
    functions.fail("record_refusal", NotFoundError("no run"), times=9)

    ended = start(machine)

    assert (ended.status, ended.error) == ("FAILED", "NotFoundError")


def test_failure_keeps_its_name_when_even_its_record_fails(
    machine: Machine, functions: Dispatcher
) -> None:
    functions.fail("fit", ParityError("they disagree"))
    functions.fail("record_failure", NotFoundError("no run"), times=9)

    ended = start(machine)

    assert (ended.status, ended.error) == ("FAILED", "ParityError")


THROTTLE = LambdaFault("Lambda.TooManyRequestsException")


@pytest.mark.parametrize(
    ("action", "error"),
    [
        *((action, THROTTLE) for action in (*ACTIONS_IN_ORDER, "trial", "record_trial")),
        ("ingest", LambdaFault("Lambda.ServiceException")),
        ("ingest", ThrottledError("slow down")),
        ("ingest", ServiceUnavailableError("later")),
        ("promote", ConcurrentWriteError("again")),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value).split()[0],
)
def test_transient_errors_are_retried(
    machine: Machine, functions: Dispatcher, action: str, error: Exception
) -> None:
    functions.fail(action, error, times=2)

    ended = start(machine)

    assert ended.status == "SUCCEEDED"
    assert len(functions.waits) == 2
    assert [t.get("status", "finished") for t in ended.output["trials"]] == ["finished"] * 3


def test_retries_end_and_back_off(machine: Machine, functions: Dispatcher) -> None:
    functions.fail("ingest", ThrottledError("slow down"), times=99)

    ended = start(machine)

    assert (ended.status, ended.error) == ("FAILED", "ThrottledError")
    assert functions.actions() == ["ingest"] * 7 + ["record_failure"]
    bounds = [2, 4, 8, 16, 32, 60]
    assert len(functions.waits) == len(bounds)
    assert all(wait <= bound for wait, bound in zip(functions.waits, bounds, strict=True))


def test_largest_search_fits_into_a_payload() -> None:
    """Step Functions ends an execution whose payload is over 256 KiB, and no Catch sees it."""
    params = {f"hyperparameter_{n}": 0.123456789012345 for n in range(8)}
    trial = {"trial_id": 100, "algorithm": "hist_gradient_boosting", "params": params}
    scored = {**trial, "status": "finished", "metric": "balanced_accuracy", "seconds": 123.456}
    problem = {
        "column": "c" * 200,
        "rule": "not in the allowed values",
        "count": 10**6,
        "first_row": 10**6,
        "example": "e" * 200,
    }
    payload = {
        **INPUT.model_dump(mode="json"),
        "ingest": {**cases.ingested().model_dump(mode="json"), "problems": [problem] * 20},
        "plan": {"metric": "roc_auc", "folds": 10, "trials": [{**trial, "seed": 2**31}] * 100},
        "trials": [{**scored, "fold_scores": [0.123456789012345] * 10}] * 100,
        "fit": cases.fitted(INPUT.run_id).model_dump(mode="json"),
    }

    assert len(json.dumps(payload)) < 256 * 1024 * 0.75


def _trial(event: dict[str, Any]) -> int:
    number: int = event["input"]["trial"]["trial_id"]
    return number

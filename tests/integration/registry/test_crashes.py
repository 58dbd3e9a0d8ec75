"""Every write call of every step may be the last: of rollouts, of approvals, and of what is published.

Each scenario plays once to count its write calls, on DynamoDB, Step Functions, SNS and EventBridge.
Then it plays again for each of them and for both sides of it: the process is gone before AWS sees the
call, or when it was done and the answer is lost; and whoever called calls again.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from itertools import product
from typing import Any

import pytest

from functions.api import handler as api_function
from functions.events import handler as events_function
from functions.registry import handler as registry_function
from functions.rollout import handler as rollout_function
from millrace.aws.clients import client
from millrace.aws.dynamodb import DynamoTable, from_item
from millrace.errors import InvalidTransitionError
from millrace.messages import Message, TrainingInput
from millrace.monitoring.tallies import Tally
from millrace.registry.approvals import open_approvals
from millrace.registry.registry import Registry
from millrace.registry.rollouts import Rollouts, open_rollouts
from millrace.registry.verification import verify
from millrace.spec import ModelSpec
from tests.fakes import cases, cloud
from tests.fakes.crashes import Crash, Killed, When
from tests.fakes.gateway import Caller
from tests.fakes.soundness import check_model

PLAN = {"strategy": "canary", "steps": [20], "looks": 2, "bake": "2m", "min_requests": 20}
MOST_TURNS = 20

type Say = Callable[..., dict[str, Any]]


class InProcess:
    """`LambdaInvoker` that runs the rollout function here; moto needs Docker for that."""

    def __init__(self, client: Any) -> None:
        """Takes what the real one takes."""

    def invoke(self, function_name: str, payload: Mapping[str, Any]) -> Any:
        """See `LambdaInvoker.invoke`."""
        assert function_name == "rollout"
        answer = rollout_function.handler(json.loads(json.dumps(payload)), cloud.LambdaContext())
        return json.loads(json.dumps(answer))


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[cloud.Cloud]:
    caches = (
        registry_function.recorder,
        rollout_function.watcher,
        rollout_function.settings,
        events_function.publisher,
        api_function.gateway,
    )
    for cached in caches:
        cached.cache_clear()
    monkeypatch.setattr(api_function, "LambdaInvoker", InProcess)
    monkeypatch.setenv("MILLRACE_TRIGGER_FUNCTION", "trigger")
    monkeypatch.setenv("MILLRACE_EVENT_BUS", "default")
    with cloud.stack(monkeypatch) as made:
        with monkeypatch.context() as own:
            own.setenv("MILLRACE_STATE_MACHINE_ARN", made.rollout_machine_arn)
            rollout_function.settings()
        yield made
    for cached in caches:
        cached.cache_clear()


@dataclass
class Scene:
    """One model, and its functions as their callers call them: what was killed is called again."""

    stack: cloud.Cloud
    spec: ModelSpec

    @property
    def model(self) -> str:
        """Its name; one per scene, so that scenes share a stack."""
        return self.spec.name

    @property
    def registry(self) -> Registry:
        """What the table says."""
        return self.stack.registry

    @property
    def rollouts(self) -> Rollouts:
        """What the table says of rollouts."""
        return open_rollouts(client("dynamodb"), cloud.TABLE)

    def again(self, call: Callable[[], Any]) -> Any:
        """Calls, and calls again when it was killed."""
        try:
            return call()
        except Killed:
            return call()

    def rollout_task(self, action: str, **fields: Any) -> dict[str, Any]:
        """A task of the rollout function."""
        event = {"action": action, "input": fields}
        answer: dict[str, Any] = self.again(
            lambda: rollout_function.handler(event, cloud.LambdaContext())
        )
        return answer

    def training_task(
        self, action: str, task: TrainingInput, **fields: Message | dict[str, Any] | str
    ) -> dict[str, Any]:
        """A task of the registry function."""
        payload = task.model_dump(mode="json") | {
            name: value.model_dump(mode="json") if isinstance(value, Message) else value
            for name, value in fields.items()
        }
        event = {"action": action, "input": payload}
        answer: dict[str, Any] = self.again(
            lambda: registry_function.handler(event, cloud.LambdaContext())
        )
        return answer

    def press(self, decision: str) -> dict[str, Any]:
        """A person answers over the API."""
        path = f"/v1/models/{self.model}/versions/2/{decision}"
        call = Caller(api_function.handler)
        answer = self.again(lambda: call("POST", path, {"reason": "why"}))
        if answer.status == HTTPStatus.INTERNAL_SERVER_ERROR:
            # Mangum takes the end of the process for an error of the app: nobody was answered.
            answer = call("POST", path, {"reason": "why"})
        assert answer.status == HTTPStatus.OK, answer.body
        return dict(answer.json)

    def champion_and_candidate(self) -> TrainingInput:
        """A champion, and a version that passed its gates."""
        self.stack.apply(self.spec)
        cases.champion(self.registry, 1, self.spec)
        task = cases.candidate(self.registry, 2, self.spec)
        judged = cases.evaluated(task.run_id, champion=1, model=self.model)
        self.registry.record_evaluation(task, 2, judged, automatic=False)
        return task

    def judged(self, task: TrainingInput) -> dict[str, Any]:
        """What TRAINING hands from state to state once a version was evaluated."""
        return {
            "registration": {"version": 2, "champion": None},
            "evaluation": cases.evaluated(task.run_id, champion=1, model=self.model),
        }

    def check(self) -> None:
        """The record is true."""
        items = [
            from_item(item)
            for page in client("dynamodb").get_paginator("scan").paginate(TableName=cloud.TABLE)
            for item in page["Items"]
        ]
        check_model(items, self.model)
        assert verify(DynamoTable(client("dynamodb"), cloud.TABLE), self.model).faults == ()

    def told(self) -> Counter[str]:
        """The actions in its ledger."""
        return Counter(e.action for e in self.registry.audit(self.model, limit=200).items)


def machine(scene: Scene, rollout_id: str, attempt: int = 1) -> str:
    """The ROLLOUT machine: it asks, and does what it is told; gives the rollout's state."""
    about = {"rollout_id": rollout_id, "attempt": attempt, "model": scene.model}
    action, turn = "begin", {"decision": "wait"}
    for _ in range(MOST_TURNS):
        turn = scene.rollout_task(action, **about, turn=turn)
        match turn["decision"]:
            case "ended":
                return scene.rollouts.get(rollout_id).status.value
            case "proceed" | "advance":
                action = "set_traffic"
            case "bake":
                action = "check_health"
            case decision:
                action = str(decision)
    raise AssertionError(f"the rollout did not end in {MOST_TURNS} turns")


def start(scene: Scene) -> str:
    asked = scene.rollout_task(
        "start", model=scene.model, version=2, changes=PLAN, token="t", actor="ann"
    )
    return str(asked["rollout_id"])


def executions(scene: Scene) -> list[str]:
    began = scene.stack.executions(scene.stack.rollout_machine_arn)
    return [name for name in began if name.startswith(f"{scene.model}-2-")]


def rollout_to_the_crown(scene: Scene) -> Callable[[], None]:
    """A person starts a rollout, and it ends well."""
    scene.champion_and_candidate()

    def play() -> None:
        rollout_id = start(scene)
        assert machine(scene, rollout_id) == "promoted"
        assert scene.registry.get_serving(scene.model).version == 2
        assert executions(scene) == [f"{rollout_id}-1"]

    return play


def rollout_that_is_resumed_and_breaches(scene: Scene) -> Callable[[], None]:
    """A training's rollout stalls, is resumed by a person, and rolls back by itself."""
    task = scene.champion_and_candidate()

    def play() -> None:
        asked = scene.rollout_task(
            "roll_out", **task.model_dump(mode="json"), **_plain(scene.judged(task))
        )
        rollout_id = str(asked["rollout_id"])
        about = {"rollout_id": rollout_id, "attempt": 1, "model": scene.model}
        scene.rollout_task("begin", **about)
        scene.rollout_task("set_traffic", **about, turn={"decision": "proceed", "step": 0})
        scene.rollout_task("record_stall", **about, failure={"Error": "E", "Cause": "c"})
        # Whoever asks again is told that it runs; or, before its execution does, opens another
        # attempt: the last one counts.
        with suppress(InvalidTransitionError):
            scene.rollout_task("resume", rollout_id=rollout_id, actor="ann", reason="mended")
        attempt = scene.rollouts.get(rollout_id).attempt
        assert machine(scene, rollout_id, attempt) == "rolled_back"
        assert scene.registry.get_serving(scene.model).version == 1
        assert str(scene.registry.get_run(task.run_id).outcome) == "rolled_back"
        assert {f"{rollout_id}-1", f"{rollout_id}-{attempt}"} <= set(executions(scene))
        assert 2 <= attempt <= 3

    return play


def approval(decision: str) -> Callable[[Scene], Callable[[], None]]:
    """A training asks a person, who answers, or does not; then its machine goes on."""

    def scenario(scene: Scene) -> Callable[[], None]:
        task = scene.champion_and_candidate()
        judged = scene.judged(task)

        def play() -> None:
            scene.training_task("request_approval", task, task_token="machine", **judged)
            if decision != "expire":
                scene.press(decision)
            settle = "expire_approval" if decision == "expire" else "settle_approval"
            settled = scene.training_task(settle, task, registration=judged["registration"])
            told = scene.told()
            assert told["approval_requested"] == 1
            if decision == "approve":
                assert settled["decision"] == "approved"
                scene.training_task("promote", task, **judged)
                told = scene.told()
                assert scene.registry.get_serving(scene.model).version == 2
                assert (told["approval_approved"], told["promoted"]) == (1, 2)
            else:
                outcome = "rejected" if decision == "reject" else "expired"
                assert settled["decision"] == outcome
                assert str(scene.registry.get_run(task.run_id).outcome) == outcome
                assert told[f"approval_{outcome}"] == told["run_finished"] - 1 == 1

        return play

    return scenario


def approval_of_a_rollout(scene: Scene) -> Callable[[], None]:
    """A person approves what is to be rolled out, and the machine that waited is gone."""
    task = scene.champion_and_candidate()
    judged = scene.judged(task)

    def play() -> None:
        scene.training_task("request_approval", task, task_token="machine", **judged)
        scene.press("approve")
        [name] = executions(scene)
        assert machine(scene, name.removesuffix("-1")) == "promoted"
        assert str(scene.registry.get_run(task.run_id).outcome) == "promoted"

    return play


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        n: v.model_dump(mode="json") if isinstance(v, Message) else v for n, v in fields.items()
    }


SCENARIOS: dict[str, tuple[Callable[[Scene], Callable[[], None]], dict[str, Any]]] = {
    "a rollout to the crown": (rollout_to_the_crown, {}),
    "a rollout that is resumed and breaches": (
        rollout_that_is_resumed_and_breaches,
        {"rollout": PLAN},
    ),
    "approve": (approval("approve"), {"approve": {"mode": "manual"}}),
    "reject": (approval("reject"), {"approve": {"mode": "manual"}}),
    "expire": (approval("expire"), {"approve": {"mode": "manual"}}),
    "approve a rollout": (
        approval_of_a_rollout,
        {"approve": {"mode": "manual"}, "rollout": PLAN},
    ),
}


@pytest.fixture(autouse=True)
def _traffic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests come at each step; of what breaches, half fail. What is gone cannot be woken."""
    breaches = "breaches" in request.node.name
    looks: Counter[str] = Counter()

    def read(_table: object, rollout_id: str, _step: int) -> tuple[Tally, Tally]:
        looks[rollout_id] += 1
        seen = 500 * looks[rollout_id]
        errors = seen // 2 if breaches else 0
        return (
            Tally(version=1, requests=seen, rows=seen, latency=Counter({10: seen})),
            Tally(
                version=2,
                requests=seen,
                rows=seen,
                errors=errors,
                latency=Counter({10: seen - errors}),
            ),
        )

    monkeypatch.setattr("functions.rollout.handler.tallies.read", read)
    if "approve a rollout" in request.node.name:
        monkeypatch.setattr("functions.api.handler.WaitingTasks.wake", lambda *_: False)


@pytest.mark.parametrize("name", SCENARIOS)
def test_any_write_call_may_be_the_last(
    stack: cloud.Cloud, name: str, request: pytest.FixtureRequest
) -> None:
    """Two of the calls of each scenario; all of them, on both sides, with ``--crashes``."""
    scenario, sections = SCENARIOS[name]
    exhaustive = request.config.getoption("--crashes")

    def played(number: int, crash: Crash) -> None:
        # A table of its own: moto copies the whole of it at each transaction.
        client("dynamodb").delete_table(TableName=cloud.TABLE)
        cloud.create_table()
        scene = Scene(stack, cases.spec(f"m{number}", **sections))
        play = scenario(scene)
        crash.install()
        play()
        crash.armed = False
        scene.check()

    counted = Crash()
    played(0, counted)
    assert len(counted.calls) >= 3, counted.calls

    sides: tuple[When, ...] = ("before", "after")
    every = list(product(range(len(counted.calls)), sides))
    for number, (at, when) in enumerate(every if exhaustive else (every[1], every[-1])):
        crash = Crash(at=at, when=when)
        played(number + 1, crash)
        assert len(crash.calls) > at, f"{counted.calls[at]} was not reached"
    if exhaustive:
        print(f"\n{name}: {len(every)} crashes at {len(counted.calls)} write calls")


@pytest.mark.parametrize("when", ["before", "after"])
def test_any_event_may_be_the_last_and_all_are_published_in_order(
    stack: cloud.Cloud, when: When
) -> None:
    scene = Scene(stack, cases.spec(approve={"mode": "manual"}))
    task = scene.champion_and_candidate()
    open_approvals(client("dynamodb"), cloud.TABLE).request(
        scene.model, 2, task_token="machine", timeout=timedelta(days=1)
    )
    assert task.model == scene.model
    table = client("dynamodb").query(
        TableName=cloud.TABLE,
        KeyConditionExpression="PK = :pk AND begins_with(SK, :sk)",
        ExpressionAttributeValues={":pk": {"S": f"MODEL#{scene.model}"}, ":sk": {"S": "AUDIT#"}},
    )
    records = [
        {
            "eventName": "INSERT",
            "dynamodb": {
                "Keys": {"PK": i["PK"], "SK": i["SK"]},
                "NewImage": i,
                "SequenceNumber": str(number),
            },
        }
        for number, i in enumerate(table["Items"])
    ]
    published: list[int] = []

    def deliver() -> None:
        answer = events_function.handler({"Records": records}, cloud.LambdaContext())
        assert answer == {"batchItemFailures": []}

    def keep(params: Mapping[str, Any], **_: Any) -> None:
        entries = json.loads(params["body"])["Entries"]
        published.extend(json.loads(e["Detail"])["sequence"] for e in entries)

    counted = Crash()
    counted.install()
    deliver()
    counted.armed = False
    assert counted.calls.count("PutEvents") == len(records)
    assert counted.calls.count("Publish") == 1
    client("events").meta.events.register_last("before-call.events.PutEvents", keep)
    try:
        for at in range(len(counted.calls)):
            published.clear()
            crash = Crash(at=at, when=when)
            crash.install()
            with pytest.raises(Killed):
                deliver()
            deliver()
            assert sorted(set(published)) == list(range(1, len(records) + 1))
            assert published[-len(records) :] == list(range(1, len(records) + 1))
    finally:
        client("events").meta.events.unregister("before-call.events.PutEvents", keep)

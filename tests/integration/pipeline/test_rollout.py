"""Rollouts on the real machines and handlers: promoted, rolled back, and taken up after a failure."""

import base64
import gzip
import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from millrace.registry.rollout_records import Rollout
from millrace.registry.rollout_states import RolloutStatus
from millrace.registry.rollouts import open_rollouts
from tests import samples
from tests.integration.pipeline.machine import REGION, ROLLOUT_ARN
from tests.integration.pipeline.twin import TABLE, Twin, twin

M = samples.MODEL
PLAN: dict[str, Any] = {
    "strategy": "canary",
    "steps": [20],
    "bake": "2m",
    "looks": 2,
    "min_requests": 20,
    "max_wait": "4m",
}


@pytest.fixture
def cloud() -> Iterator[Twin]:
    with twin() as made:
        yield made


def rollout_of(cloud: Twin) -> Rollout:
    found = (
        open_rollouts(boto3.client("dynamodb", region_name=REGION), TABLE).list_rollouts(M).items
    )
    return found[0]


def delivery(rollout: Rollout, number: int, *, errors: float = 0.0) -> dict[str, Any]:
    """What the log's subscription delivers of 120 requests of each version."""
    lines = []
    for index in range(240):
        role, version = (
            ("champion", rollout.champion) if index % 2 else ("challenger", rollout.version)
        )
        line = samples.capture_line(model=M, sequence=number * 300 + index + 1)
        line |= {
            "role": role,
            "version": version,
            "rollout": {"id": rollout.rollout_id, "step": rollout.step},
        }
        if role == "challenger" and index // 2 < 120 * errors:
            del line["capture"]
            line["error"] = "RuntimeError"
        lines.append(line)
    content = {
        "messageType": "DATA_MESSAGE",
        "logGroup": "/aws/lambda/millrace-predict",
        "logStream": "stream",
        "logEvents": [
            {"id": str(n), "timestamp": 1_795_285_200_000, "message": json.dumps(one)}
            for n, one in enumerate(lines)
        ],
    }
    packed = gzip.compress(json.dumps(content).encode())
    return {"awslogs": {"data": base64.b64encode(packed).decode()}}


def flows(cloud: Twin, *, errors: float = 0.0, looks: int = 4) -> None:
    """Requests come before each look, as long as there are looks."""
    left = list(range(looks))

    def before() -> None:
        cloud.deliver("capture", delivery(rollout_of(cloud), left.pop(0), errors=errors))
        if left:
            cloud.functions.before("check_health", before)

    cloud.functions.before("check_health", before)


def trained(cloud: Twin, **plan: Any) -> str:
    """A champion, and a second training that hands its version to a rollout; its run."""
    spec = samples.spec(
        rollout={**PLAN, **plan}, evaluate={"against_champion": {"min_improvement": -1.0}}
    )
    cloud.apply(spec)
    first = cloud.train(M, "first.csv", samples.csv_file(samples.rows(120)))
    assert first.states[-2:] == ("ChooseStrategy", "Promoted")
    assert cloud.registry.get_serving(M).version == 1
    return "second.csv"


def second(cloud: Twin, filename: str) -> str:
    body = samples.csv_file(samples.rows(130, seed=2))
    admitted = cloud.deliver("trigger", cloud.upload(M, filename, body))
    ended = cloud.follow(admitted["run_id"])
    assert ended.states[-3:] == ("ChooseStrategy", "StartRollout", "RollingOut")
    return str(admitted["run_id"])


def rolled(cloud: Twin, of: Rollout | None = None) -> tuple[Rollout, Any]:
    name = (of or rollout_of(cloud)).execution
    ended = cloud.rollout_machine.ended(
        ROLLOUT_ARN.replace(":stateMachine:", ":execution:") + f":{name}"
    )
    return rollout_of(cloud), ended


def lose_token(version: int) -> str:
    """The request keeps a token that no machine waits with; gives the true one."""
    table = boto3.client("dynamodb", region_name=REGION)
    key = {"PK": {"S": f"MODEL#{M}"}, "SK": {"S": f"APPROVAL#{version:06d}"}}
    token = str(table.get_item(TableName=TABLE, Key=key)["Item"]["task_token"]["S"])
    table.update_item(
        TableName=TABLE,
        Key=key,
        UpdateExpression="SET task_token = :lost",
        ExpressionAttributeValues={":lost": {"S": token[::-1]}},
    )
    return token


def test_a_training_is_rolled_out_and_promoted_by_itself(cloud: Twin) -> None:
    file = trained(cloud)
    flows(cloud)

    run_id = second(cloud, file)
    rollout, ended = rolled(cloud)

    assert ended.status == "SUCCEEDED"
    assert rollout.status is RolloutStatus.PROMOTED
    assert ended.states == (
        "Begin",
        "ChooseBegin",
        "SetTraffic",
        "ChooseBake",
        *("Bake", "CheckHealth", "Decide") * 2,
        "Finish",
        "ChooseBake",
        "RolloutOver",
    )
    assert cloud.registry.get_serving(M).version == 2
    assert str(cloud.registry.get_run(run_id).outcome) == "promoted"


def test_a_breach_rolls_back_by_itself_and_the_run_says_so(cloud: Twin) -> None:
    file = trained(cloud, looks=4, bake="4m")
    flows(cloud, errors=0.5, looks=6)

    run_id = second(cloud, file)
    rollout, ended = rolled(cloud)

    assert ended.states[-3:] == ("RollBack", "ChooseBake", "RolloutOver")
    assert rollout.status is RolloutStatus.ROLLED_BACK
    assert "of its requests failed" in rollout.why
    assert cloud.registry.get_serving(M).version == 1
    assert cloud.registry.get_serving(M).rollout is None
    assert str(cloud.registry.get_run(run_id).outcome) == "rolled_back"


def test_an_approved_version_is_rolled_out_though_its_machine_is_gone(cloud: Twin) -> None:
    trained(cloud)
    spec = samples.spec(
        approve={"mode": "manual"},
        rollout=PLAN,
        evaluate={"against_champion": {"min_improvement": -1.0}},
    )
    cloud.apply(spec)
    body = samples.csv_file(samples.rows(130, seed=2))
    run_id = cloud.train_until_asked(M, "second.csv", body)
    by_hand = cloud.api("POST", f"/v1/models/{M}/rollouts", {"version": 2, **PLAN})
    assert by_hand["statusCode"] == 409, by_hand["body"]
    assert "waits for approval" in by_hand["body"]
    token = lose_token(2)
    flows(cloud)

    answer = cloud.api("POST", f"/v1/models/{M}/versions/2/approve", {"reason": "reviewed"})

    assert answer["statusCode"] == 200, answer["body"]
    rollout, _ = rolled(cloud)
    assert (rollout.status, rollout.run_id) == (RolloutStatus.PROMOTED, run_id)
    assert cloud.registry.get_serving(M).version == 2
    # A machine that is woken late finds its rollout begun, and starts no other.
    boto3.client("stepfunctions", region_name=REGION).send_task_success(
        taskToken=token, output="{}"
    )
    assert cloud.follow(run_id).states[-2:] == ("StartRollout", "RollingOut")
    assert rollout_of(cloud).rollout_id == rollout.rollout_id
    assert str(cloud.registry.get_run(run_id).outcome) == "promoted"


def test_a_failing_machinery_leaves_the_traffic_and_is_resumed_over_the_api(cloud: Twin) -> None:
    file = trained(cloud)
    cloud.functions.fail("check_health", RuntimeError("out of memory"))
    second(cloud, file)

    rollout, ended = rolled(cloud)

    assert ended.status == "FAILED"
    assert rollout.status is RolloutStatus.STALLED
    serving = cloud.registry.get_serving(M)
    assert (serving.version, serving.rollout and serving.rollout.weight) == (1, 20.0)
    flows(cloud)
    answer = cloud.api("POST", f"/v1/rollouts/{rollout.rollout_id}/resume", {"reason": "mended"})
    assert answer["statusCode"] == 200, answer["body"]
    rollout, ended = rolled(cloud)
    assert (rollout.attempt, rollout.status) == (2, RolloutStatus.PROMOTED)


def test_people_start_pause_and_abort_over_the_api(cloud: Twin) -> None:
    file = trained(cloud, min_requests=1_000_000, max_wait="90d")
    second(cloud, file)
    first = rollout_of(cloud)

    def ask(path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        answer = cloud.api("POST", path, body)
        return answer["statusCode"], json.loads(answer["body"])

    refused: dict[str, dict[str, Any]] = {
        "steps": {"version": 2, "strategy": "canary", "steps": [50, 25]},
        "no such version": {"version": 9, "strategy": "canary"},
        "the champion": {"version": 1, "strategy": "canary"},
        "all at once": {"version": 2, "strategy": "all-at-once"},
    }
    answers = {why: ask(f"/v1/models/{M}/rollouts", body) for why, body in refused.items()}
    assert {why: status for why, (status, _) in answers.items()} == {
        "steps": 422,
        "no such version": 404,
        "the champion": 409,
        "all at once": 422,
    }
    assert "25 % follows 50 %" in json.dumps(answers["steps"][1])

    status, again = ask(f"/v1/models/{M}/rollouts", {"version": 2, **PLAN})
    assert (status, "rolled out already" in again["detail"]) == (409, True)
    path = f"/v1/rollouts/{first.rollout_id}"
    status, paused = ask(f"{path}/pause", {"reason": "lunch"})
    assert (status, paused["status"]) == (200, "paused"), paused
    status, twice = ask(f"{path}/pause", {"reason": "lunch"})
    assert (status, "it is paused" in twice["detail"]) == (409, True)
    status, aborted = ask(f"{path}/abort", {"reason": "complaints"})
    assert (status, aborted["status"], aborted["why"]) == (200, "aborted", "complaints")
    shown = json.loads(cloud.api("GET", path)["body"])
    assert (shown["status"], shown["plan"]["strategy"]) == ("aborted", "canary")
    rolled(cloud, first)

    flows(cloud)
    status, started = ask(f"/v1/models/{M}/rollouts", {"version": 2, **PLAN, "reason": "again"})
    assert status == 202, started
    listed = json.loads(cloud.api("GET", f"/v1/models/{M}/rollouts")["body"])
    ids = [r["rollout_id"] for r in listed["items"]]
    assert ids == [started["rollout_id"], first.rollout_id]
    rollout, _ = rolled(cloud)
    assert rollout.status is RolloutStatus.PROMOTED

"""Rollouts on the deployed stack with real requests: one is promoted, one rolls back, by themselves."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from millrace.errors import ServiceUnavailableError
from millrace_cli.client import ApiClient
from tests.e2e.conftest import Named, Sample, Until, Upload, spec_document
from tests.e2e.mailbox import Mailbox

pytestmark = pytest.mark.needs("upload-events", "state-machine", "rest-api", "logs", "notices")

PLAN: dict[str, Any] = {
    "strategy": "canary",
    "steps": [50],
    "bake": "60s",
    "looks": 3,
    "min_requests": 30,
    "max_wait": "2h",
}
OPEN = ("waiting", "running", "paused", "held", "stalled")


@pytest.fixture(scope="module")
def model(api: ApiClient, upload: Upload, named: Named, cancer: Sample, tmp: Path) -> str:
    """A model whose versions are rolled out by canary, with a champion."""
    name = named("rolled")
    document = spec_document(
        name,
        cancer,
        train={"trials": 1},
        rollout=PLAN,
        evaluate={"against_champion": {"min_improvement": -1.0}},
    )
    api.put(f"/v1/specs/{name}", document)
    run = upload(name, cancer.write(tmp / "first.csv", stop=300))
    assert run["outcome"] == "promoted", run
    return name


@pytest.fixture(scope="module")
def tmp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rollouts")


def benign(sample: Sample) -> list[dict[str, float]]:
    """Rows of one class: the champion's scores of them are all alike."""
    return [sample.feature_row(i) for i, row in enumerate(sample.rows[:200]) if row[-1] == "1"]


def flow(
    api: ApiClient, model: str, sample: Sample, patiently: Until
) -> tuple[dict[str, Any], set[int]]:
    """Asks, each time for another customer, until the rollout has ended; who answered."""
    rows = benign(sample)
    answered: set[int] = set()
    asked = 0

    def ended() -> dict[str, Any] | None:
        nonlocal asked
        # No more than its captured lines can be counted meanwhile: where each is delivered alone, more
        # would wait until nothing else is let in.
        for _ in range(8):
            asked += 1
            headers = {"X-Millrace-Entity": f"customer-{asked}"}
            body = {"rows": [rows[asked % len(rows)]]}
            try:
                answer = api.post(f"/v1/models/{model}/predict", body, headers=headers)
            except ServiceUnavailableError:
                break
            answered.add(answer["version"])
        newest = api.get(f"/v1/models/{model}/rollouts", limit=1)["items"][0]
        return newest if newest["status"] not in OPEN else None

    return patiently(ended, seconds=150), answered


def test_rollouts_look_after_themselves(
    api: ApiClient,
    model: str,
    upload: Upload,
    cancer: Sample,
    tmp: Path,
    mailbox: Mailbox,
    patiently: Until,
) -> None:
    run = upload(model, cancer.write(tmp / "second.csv", stop=400))
    assert run["outcome"] == "rolling_out", run

    ended, answered = flow(api, model, cancer, patiently)

    assert ended["status"] == "promoted", ended
    assert answered == {1, 2}
    assert api.get(f"/v1/models/{model}")["champion_version"] == 2
    assert api.get(f"/v1/runs/{run['run_id']}")["outcome"] == "promoted"

    # A version that takes each class for the other passes on its own data, and not beside the champion.
    turned = [[*row[:-1], "0" if row[-1] == "1" else "1"] for row in cancer.rows]
    run = upload(model, replace(cancer, rows=turned).write(tmp / "third.csv", stop=420))
    assert run["outcome"] == "rolling_out", run

    ended, answered = flow(api, model, cancer, patiently)

    assert ended["status"] == "rolled_back", ended
    assert "the shares of scores" in ended["why"]
    assert 2 in answered
    assert api.get(f"/v1/models/{model}")["champion_version"] == 2
    assert api.get(f"/v1/runs/{run['run_id']}")["outcome"] == "rolled_back"
    detail = api.get(f"/v1/rollouts/{ended['rollout_id']}")
    (scores,) = [f for f in detail["judgement"]["findings"] if f["condition"] == "scores"]
    assert scores["evidence"] >= scores["threshold"]
    patiently(
        lambda: mailbox.find(
            lambda m: m.get("event") == "rollout_rolled_back" and m.get("model") == model
        )
    )

"""A version that waits for a person: asked by a notice, answered by link, command line and API, or not."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from typer.testing import CliRunner

from millrace_cli.app import app
from millrace_cli.client import ApiClient
from millrace_cli.target import Target
from tests.e2e.conftest import Client, Follow, Named, Sample, Until, Upload, spec_document
from tests.e2e.mailbox import Mailbox

pytestmark = pytest.mark.needs("upload-events", "state-machine", "rest-api", "notices")

runner = CliRunner()


@pytest.fixture(scope="module")
def events(client: Client) -> Iterator[Any]:
    """What another team hears: a queue behind a rule on the registry's events."""
    name = f"millrace-e2e-{uuid.uuid4().hex[:12]}"
    sqs, bus = client("sqs"), client("events")
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"][
        "QueueArn"
    ]
    rule = bus.put_rule(Name=name, EventPattern=json.dumps({"source": ["millrace.registry"]}))
    allowed = {
        "Effect": "Allow",
        "Principal": {"Service": "events.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": arn,
        "Condition": {"ArnEquals": {"aws:SourceArn": rule["RuleArn"]}},
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy})
    bus.put_targets(Rule=name, Targets=[{"Id": "queue", "Arn": arn}])
    heard: list[dict[str, Any]] = []

    def listen(model: str, action: str) -> dict[str, Any] | None:
        while messages := sqs.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=0
        ).get("Messages"):
            for message in messages:
                heard.append(json.loads(message["Body"]))
                sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        for event in heard:
            if (event["detail"]["model"], event["detail"]["action"]) == (model, action):
                return event
        return None

    yield listen
    bus.remove_targets(Rule=name, Ids=["queue"])
    bus.delete_rule(Name=name)
    sqs.delete_queue(QueueUrl=url)


def _asked(mailbox: Mailbox, model: str, version: int, event: str) -> dict[str, Any] | None:
    return mailbox.find(
        lambda m: m.get("event") == event and m.get("version") == f"{model}@{version}"
    )


def test_three_versions_wait_and_are_answered_by_link_command_line_and_api(
    api: ApiClient,
    target: Target,
    upload: Upload,
    follow: Follow,
    named: Named,
    cancer: Sample,
    mailbox: Mailbox,
    events: Any,
    patiently: Until,
    tmp_path: Path,
) -> None:
    model = named("asked")
    document = spec_document(
        model,
        cancer,
        approve={"mode": "manual"},
        evaluate={"against_champion": {"min_improvement": -1.0}},
    )
    api.put(f"/v1/specs/{model}", document)

    # The first: a notice brings a link, whose page decides.
    run = upload(model, cancer.write(tmp_path / "one.csv", stop=300))
    assert run["awaiting_approval"], run
    notice = patiently(lambda: _asked(mailbox, model, 1, "approval_requested"))
    address = next(w for w in notice["next_step"].split() if w.startswith("https://"))
    link = api.target.outputs.api_url + urlsplit(address).path.removeprefix("/live")
    page = httpx.get(link, headers={"accept": "text/html"})
    form = {"decision": "approve", "name": "Ada", "reason": "reviewed"}
    decided = httpx.post(link, data=form, headers={"accept": "text/html"}, timeout=30)
    again = httpx.post(link, data=form, headers={"accept": "text/html"}, timeout=30)

    assert page.status_code == 200
    assert f"Approve {model}@1?" in page.text
    assert decided.status_code == 200, decided.text
    assert again.status_code == 410
    ended = patiently(lambda: (r := api.get(f"/v1/runs/{run['run_id']}"))["outcome"] and r)
    assert ended["outcome"] == "promoted"
    assert patiently(lambda: events(model, "approval_approved"))["detail"]["actor"] == "link:Ada"
    promoted = patiently(lambda: events(model, "promoted"))
    assert (promoted["detail-type"], promoted["detail"]["actor"]) == ("Promoted", "link:Ada")

    # The second: from the command line.
    run = upload(model, cancer.write(tmp_path / "two.csv", start=50, stop=400))
    arguments = ["approve", f"{model}@2", "--yes", "--reason", "good", "--json"]
    options = ["--target", target.kind, "--stack", target.stack, "--region", target.region]
    if target.endpoint_url:
        options += ["--endpoint-url", target.endpoint_url]
    answer = runner.invoke(app, [*options, *arguments])
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.output)["run"]["outcome"] == "promoted"

    # The third: turned down.
    run = upload(model, cancer.write(tmp_path / "three.csv", start=100, stop=450))
    api.post(f"/v1/models/{model}/versions/3/reject", {"reason": "an old extract"})
    ended = patiently(lambda: (r := api.get(f"/v1/runs/{run['run_id']}"))["outcome"] and r)
    assert (ended["outcome"], ended["reason"]) == ("rejected", "an old extract")
    told = patiently(lambda: _asked(mailbox, model, 3, "approval_rejected"))
    assert told["why"] == "an old extract"
    assert api.get(f"/v1/models/{model}")["champion_version"] == 2


def test_a_version_that_nobody_answers_for_expires(
    api: ApiClient,
    upload: Upload,
    named: Named,
    cancer: Sample,
    mailbox: Mailbox,
    patiently: Until,
    tmp_path: Path,
) -> None:
    model = named("unheard")
    approve = {"mode": "manual", "timeout": "1m"}
    api.put(f"/v1/specs/{model}", spec_document(model, cancer, approve=approve))

    run = upload(model, cancer.write(tmp_path / "all.csv", stop=300))
    ended = patiently(
        lambda: (r := api.get(f"/v1/runs/{run['run_id']}"))["outcome"] and r, seconds=90
    )

    assert ended["outcome"] == "expired"
    assert api.get(f"/v1/models/{model}/versions/1")["status"] == "rejected"
    assert patiently(lambda: _asked(mailbox, model, 1, "approval_expired"))

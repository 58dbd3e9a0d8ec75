"""What the stack costs: nothing by the hour, little at rest, and every price with its source."""

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from cfnlint.schema.manager import ProviderSchemaManager
from samtranslator.yaml_helper import yaml_parse

from infra.costs import __main__ as command
from infra.costs import batch
from infra.costs.bill import Path as Way
from infra.costs.bill import bill_of, happy_path, metrics_of, total
from infra.costs.choices import effects
from infra.costs.kinds import HOURLY, KINDS, Billing, busy_at_rest, kind_of, ticks_a_day
from infra.costs.pages import DOCUMENT, rendered
from infra.costs.prices import assumptions, price_list
from infra.delivery.stages import stages
from millrace.errors import ConfigurationError
from tests.infra.deployment import (
    MACHINES,
    ROLLOUT_MACHINE,
    ROOT,
    TOKENS,
    Resolver,
    as_list,
    expanded,
    machine_definition,
    statements,
)

DEFAULT_LIMIT = Decimal("3.00")
DEV_LIMIT = Decimal("0.10")
DEARER = {
    ("WebAcl", "on"): Decimal("7.00"),
    ("KmsKeyArn", "arn:aws:kms:us-east-1:123456789012:key/customer"): Decimal("1.00"),
    ("Dashboards", "on"): Decimal("6.00"),
    ("SignArtifacts", "sign"): Decimal("1.00"),
    ("SignArtifacts", "require"): Decimal("1.00"),
    ("MonitorSchedule", "rate(1 minute)"): Decimal("1.25"),
    ("HeartbeatMinutes", "5"): Decimal("0.77"),
    ("HeartbeatMinutes", "15"): Decimal("0.72"),
    ("HeartbeatMinutes", "60"): Decimal("0.71"),
}
"""Choices that lead beyond the limit, off by default, and by how much."""

STAGES = stages(ROOT / "samconfig.toml")
CHOICES: dict[str, dict[str, str]] = {"defaults": {}} | {
    name: dict(stage.parameters) for name, stage in STAGES.items()
}
each_choice = pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES.keys())


# ── Classification ──────────────────────────────────────────────────────────────────────────────


def test_every_type_of_the_template_is_classified_with_a_reason() -> None:
    types = {resource["Type"] for resource in expanded()["Resources"].values()}

    assert types - KINDS.keys() == set()
    for type_ in types:
        kind = kind_of(type_)
        assert kind.bills, type_
        assert kind.why, type_
        assert Billing.FREE not in kind.bills or kind.bills == (Billing.FREE,), type_


def test_a_type_that_nobody_classified_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="what AWS::Timestream::Table costs: add it"):
        kind_of("AWS::Timestream::Table")


def test_classified_types_exist() -> None:
    known = set(ProviderSchemaManager().get_resource_types("us-east-1"))

    assert (KINDS.keys() | HOURLY.keys()) - known == set()
    assert KINDS.keys() & HOURLY.keys() == set()


# ── By the hour, and at work while nothing flows ────────────────────────────────────────────────


@each_choice
def test_nothing_bills_by_the_hour(choice: dict[str, str]) -> None:
    assert bill_of(choice).by_the_hour == []


WARM = {("PredictSnapStart", "on"), ("PredictProvisionedConcurrency", "100")}
"""What is bought by the hour on purpose: first answers without a wait."""
BEATING = {("HeartbeatMinutes", "5"), ("HeartbeatMinutes", "15")}
"""What works while nothing flows, on purpose: it looks whether anything could."""
BUSY = {("MonitorSchedule", "rate(1 minute)")}
"""At work while nothing flows, on purpose: to watch in minutes what takes days."""


def test_only_what_is_bought_by_the_hour_bills_by_the_hour() -> None:
    tried = effects()

    assert {effect.parameter for effect in tried} == expanded()["Parameters"].keys()
    assert {(e.parameter, e.value) for e in tried if e.by_the_hour} == WARM | BEATING | BUSY


def test_the_bootstrap_of_a_stage_bills_nothing_by_the_hour_either() -> None:
    bootstrap = yaml_parse((ROOT / "infra" / "ci" / "bootstrap.yaml").read_text("utf-8"))

    assert busy_at_rest(bootstrap["Resources"]) == []


HOURLY_CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "provisioned table": ("AWS::DynamoDB::Table", {"BillingMode": "PROVISIONED"}),
    "table of the default mode": ("AWS::DynamoDB::Table", {}),
    "contributor insights": (
        "AWS::DynamoDB::Table",
        {
            "BillingMode": "PAY_PER_REQUEST",
            "ContributorInsightsSpecification": {"Enabled": True},
        },
    ),
    "cached stage": ("AWS::ApiGateway::Stage", {"CacheClusterEnabled": True}),
    "snapshots": ("AWS::Lambda::Function", {"SnapStart": {"ApplyOn": "PublishedVersions"}}),
    "managed instances": ("AWS::Lambda::Function", {"CapacityProviderConfig": {"Arn": "a"}}),
    "warm alias": (
        "AWS::Lambda::Alias",
        {"ProvisionedConcurrencyConfig": {"ProvisionedConcurrentExecutions": 1}},
    ),
    "warm version": (
        "AWS::Lambda::Version",
        {"ProvisionedConcurrencyConfig": {"ProvisionedConcurrentExecutions": 1}},
    ),
    "schedule": ("AWS::Events::Rule", {"ScheduleExpression": "rate(5 minutes)"}),
    "inventory": ("AWS::S3::Bucket", {"InventoryConfigurations": [{"Id": "all"}]}),
    "poller": ("AWS::Lambda::EventSourceMapping", {"FunctionName": "f"}),
    "gateway": ("AWS::EC2::NatGateway", {}),
}


@pytest.mark.parametrize(("type_", "properties"), HOURLY_CASES.values(), ids=list(HOURLY_CASES))
def test_what_would_bill_or_work_at_rest_is_told(type_: str, properties: dict[str, Any]) -> None:
    [idle] = busy_at_rest({"Thing": {"Type": type_, "Properties": properties}})

    assert (idle.resource, idle.type) == ("Thing", type_)
    assert idle.why


@pytest.mark.parametrize(
    ("expression", "ticks"),
    [
        ("rate(1 hour)", 24),
        ("rate(7 days)", Decimal(1) / 7),
        ("cron(5 * * * ? *)", 24),
        ("cron(0 3 * * ? *)", 1),
    ],
)
def test_a_look_an_hour_is_billed_and_is_no_work_at_rest(expression: str, ticks: Decimal) -> None:
    rule = {"Type": "AWS::Events::Rule", "Properties": {"ScheduleExpression": expression}}

    assert ticks_a_day(expression) == ticks
    assert busy_at_rest({"Thing": rule}) == []


def test_harmless_settings_are_not_told() -> None:
    resources = {
        "Table": {
            "Type": "AWS::DynamoDB::Table",
            "Properties": {"BillingMode": "PAY_PER_REQUEST"},
        },
        "Function": {
            "Type": "AWS::Lambda::Function",
            "Properties": {"SnapStart": {"ApplyOn": "None"}, "ReservedConcurrentExecutions": 5},
        },
        "Stage": {"Type": "AWS::ApiGateway::Stage", "Properties": {"CacheClusterEnabled": False}},
        "Rule": {"Type": "AWS::Events::Rule", "Properties": {"EventPattern": {"source": ["a"]}}},
    }

    assert busy_at_rest(resources) == []


@each_choice
def test_only_events_and_callers_start_anything(choice: dict[str, str]) -> None:
    """Everything that may invoke a function or start the machine, by who does it."""
    resources = Resolver(**choice).resources()
    principals = {
        r["Properties"]["Principal"]
        for r in resources.values()
        if r["Type"] == "AWS::Lambda::Permission"
    }
    starters = {
        (role, action)
        for role, resource in resources.items()
        if resource["Type"] == "AWS::IAM::Role"
        for statement in statements(resource)
        for action in as_list(statement["Action"])
        if action in {"lambda:InvokeFunction", "states:StartExecution"}
    }

    assert principals == {
        "events.amazonaws.com",
        "apigateway.amazonaws.com",
        "logs.amazonaws.com",
    }
    assert starters == {
        ("ApiRole", "lambda:InvokeFunction"),
        ("BatchMachineRole", "lambda:InvokeFunction"),
        ("BatchMachineRole", "states:StartExecution"),
        ("MonitorRole", "lambda:InvokeFunction"),
        ("RolloutMachineRole", "lambda:InvokeFunction"),
        ("RolloutRole", "states:StartExecution"),
        ("TrainingRole", "lambda:InvokeFunction"),
        ("TriggerRole", "states:StartExecution"),
    }


@each_choice
def test_rules_answer_to_events_that_the_stack_itself_never_makes_in_a_circle(
    choice: dict[str, str],
) -> None:
    rules = {
        n: r["Properties"]
        for n, r in Resolver(**choice).resources().items()
        if r["Type"] == "AWS::Events::Rule"
    }

    assert {name for name, rule in rules.items() if "ScheduleExpression" in rule} == {
        "CalendarRule",
        "MonitorRule",
    }
    patterns = [
        rules[name]["EventPattern"]["detail"]["object"]["key"]
        for name in ("UploadRule", "FeedbackRule")
    ]
    written = [
        (name, resource)
        for name, role in Resolver(**choice).resources().items()
        if role["Type"] == "AWS::IAM::Role"
        for statement in statements(role)
        if "s3:PutObject" in as_list(statement["Action"])
        for resource in as_list(statement["Resource"])
    ]
    assert patterns == [
        [{"prefix": "incoming/"}, {"prefix": "batch/"}],
        [{"prefix": "feedback/"}],
    ]
    assert written
    assert not [key for _, key in written if "/incoming" in key or "/feedback" in key]
    # The API signs addresses for callers' own uploads with its right.
    assert {name for name, resource in written if "/batch" in resource} == {"ApiRole"}


@pytest.mark.parametrize("path", MACHINES.values(), ids=MACHINES)
def test_no_execution_can_wait_for_ever(path: Path) -> None:
    machine = machine_definition({}, path)
    states = list(_states(machine))

    # A rollout bakes between its looks, and is watched as long as it has traffic: days by its plan. A
    # person has thirty days to answer; waiting for a token costs nothing.
    bakes = path == ROLLOUT_MACHINE
    waits = any("waitForTaskToken" in state.get("Resource", "") for _, state in states)
    hours = 365 * 24 if bakes else 30 * 24 + 6 if waits else 12
    assert machine["TimeoutSeconds"] <= hours * 3600
    assert {state["Type"] for _, state in states} <= {
        *(("Wait",) if bakes else ()),
        "Task",
        "Choice",
        "Map",
        "Pass",
        "Succeed",
        "Fail",
    }
    for name, state in states:
        if name == "Approve":
            assert state["TimeoutSecondsPath"] == "$.verdict.approval_seconds"
        elif state["Type"] == "Task":
            assert state["TimeoutSeconds"] <= 960, name
            assert "waitForTaskToken" not in state["Resource"], name
            assert "HeartbeatSeconds" not in state, name


def _states(machine: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for name, state in machine["States"].items():
        found.append((name, state))
        for inner in (state.get("ItemProcessor"), state.get("Iterator")):
            if inner:
                found += _states(inner)
    return found


# ── At rest ─────────────────────────────────────────────────────────────────────────────────────


def test_defaults_cost_less_than_three_dollars_at_rest() -> None:
    assert 0 < total(bill_of({}).at_rest) < DEFAULT_LIMIT


def test_dev_costs_less_than_ten_cents_at_rest() -> None:
    bill = bill_of(STAGES["dev"].parameters)

    assert bill.parameters["Stage"] == "dev"
    assert 0 < total(bill.at_rest) < DEV_LIMIT


@pytest.mark.parametrize("stage", ["staging", "prod"])
def test_stages_that_people_rely_on_have_their_alarms_and_stay_below_three_dollars(
    stage: str,
) -> None:
    bill = bill_of(STAGES[stage].parameters)

    assert bill.parameters["Alarms"] == "on"
    assert total(bill.at_rest) < DEFAULT_LIMIT


def test_every_single_choice_of_a_parameter_stays_below_three_dollars() -> None:
    usual = total(bill_of({}).at_rest)
    single = [
        effect
        for effect in effects()
        if (effect.parameter, effect.value) not in DEARER.keys() | WARM
    ]

    assert max(usual + effect.usd for effect in single) < DEFAULT_LIMIT


def test_choices_that_cost_more_say_how_much() -> None:
    costs = {(effect.parameter, effect.value): effect.usd for effect in effects()}

    assert {choice: round(costs[choice], 2) for choice in DEARER} == DEARER
    described = expanded()["Parameters"]["WebAcl"]["Description"]
    assert "seven to eight dollars a month" in described
    tokens = bill_of({"WebAcl": "on", **TOKENS}), bill_of(TOKENS)
    assert total(tokens[0].at_rest) - total(tokens[1].at_rest) == Decimal("8.00")


def test_alarms_are_billed_by_the_metrics_they_read() -> None:
    [on] = [line for line in bill_of({}).at_rest if line.item == "alarms"]
    [off] = [line for line in bill_of({"Alarms": "off"}).at_rest if line.item == "alarms"]

    resources = Resolver().resources().values()
    alarms = [r for r in resources if r["Type"] == "AWS::CloudWatch::Alarm"]
    assert on.units == sum(metrics_of(alarm["Properties"]) for alarm in alarms) == 29
    assert on.usd == Decimal("2.90")
    assert off.usd == 0


@pytest.mark.parametrize(
    "alarm",
    [
        {"Period": 10},
        {"Metrics": [{"Id": "q", "Expression": "SELECT MAX(Errors) FROM SCHEMA(x)"}]},
        {"Metrics": [{"Id": "q", "Expression": "ANOMALY_DETECTION_BAND(m, 2)"}]},
    ],
    ids=["high resolution", "query", "anomaly detection"],
)
def test_alarms_of_another_price_are_refused(alarm: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="teach infra/costs/bill.py"):
        metrics_of(alarm)


def test_a_customer_key_costs_a_dollar() -> None:
    arn = "arn:aws:kms:us-east-1:123456789012:key/customer"

    dearer = total(bill_of({"KmsKeyArn": arn}).at_rest) - total(bill_of({}).at_rest)

    assert dearer == Decimal("1.00")


@each_choice
def test_everything_that_bills_at_rest_has_a_line(choice: dict[str, str]) -> None:
    billed = {
        resource["Type"]
        for resource in Resolver(**choice).resources().values()
        if Billing.MONTH in kind_of(resource["Type"]).bills
    }

    items = " ".join(line.item for line in bill_of(choice).at_rest)

    words = {
        "AWS::CloudWatch::Alarm": "alarms",
        "AWS::DynamoDB::Table": "RegistryTable",
        "AWS::Logs::LogGroup": "logs",
        "AWS::S3::Bucket": "DataBucket",
        "AWS::WAFv2::WebACL": "firewalls",
    }
    assert billed <= words.keys()
    for type_ in billed:
        assert words[type_] in items


# ── By use ──────────────────────────────────────────────────────────────────────────────────────


def test_the_way_to_a_champion_is_counted_on_the_machine() -> None:
    none, one, six = happy_path(0), happy_path(1), happy_path(6)

    # Each trial is an iteration with two states, the trial and its record.
    assert one.transitions - none.transitions == 3
    assert one.invocations - none.invocations == 2
    # As the embedded cloud's history of a training showed: 26 states, 6 iterations and the start.
    assert six == Way(transitions=33, invocations=20)


def test_predictions_cost_more_with_more_memory_and_less_without_traces() -> None:
    usual = total(bill_of({}).predictions)

    assert total(bill_of({"PredictMemory": "2048"}).predictions) > usual
    assert total(bill_of({"TraceMode": "PassThrough"}).predictions) < usual


def test_time_is_memory_by_seconds_at_the_public_price() -> None:
    [time] = [x for x in bill_of({}).training if x.item == "TrainFunction, time"]

    assert time.units == Decimal(50) * Decimal(3008) / 1024
    assert time.usd == time.units * Decimal("0.0000166667")


def test_every_assumption_changes_something() -> None:
    usual = bill_of({"KmsKeyArn": "arn:aws:kms:us-east-1:123456789012:key/1"})

    for name in assumptions().all():
        # Hours only matter together with the requests in them.
        doubled = assumptions().changed({name: str(assumptions()[name] * 2)})
        bill = bill_of(usual.parameters, doubled)
        assert (bill.at_rest, bill.predictions, bill.training) != (
            usual.at_rest,
            usual.predictions,
            usual.training,
        ), name


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"data_gigabytes": "1"}, "there is no assumption data_gigabytes: expected one of data_gb"),
        ({"data_gb": "much"}, "data_gb has to be a number from 0 on, not 'much'"),
        ({"data_gb": "-1"}, "data_gb has to be a number from 0 on"),
        ({"data_gb": "NaN"}, "data_gb has to be a number from 0 on"),
    ],
)
def test_wrong_assumptions_are_refused(given: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        assumptions().changed(given)


# ── Prices ──────────────────────────────────────────────────────────────────────────────────────


def test_every_price_names_its_page_and_two_readings_one_of_them_dated_and_one_at_home() -> None:
    known = price_list()

    for name, price in known.prices.items():
        readings = [known.readings[key] for key in price.read]
        assert price.page.endswith(("pricing", "data transfer")), name
        assert price.unit, name
        assert len(set(price.read)) >= 2, name
        assert any(reading.date for reading in readings), name
        assert any(reading.region == "us-east-1" for reading in readings), name
        assert known.date_of(name) >= "2025", name


def test_every_reading_is_used() -> None:
    known = price_list()

    used = {key for price in known.prices.values() for key in price.read}

    assert used == known.readings.keys()


# ── What people see ─────────────────────────────────────────────────────────────────────────────


def test_page_shows_what_is_computed() -> None:
    page = DOCUMENT.read_text("utf-8")

    assert rendered(page) == page, "docs/costs.md is stale: run `python -m infra.costs --write`"


def test_page_without_a_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="has to have the tables at rest, by the hour"):
        rendered("# What it costs\n")


def test_json_has_every_line_with_its_price_and_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--stage", "prod", "--json"]) == 0

    document = json.loads(capsys.readouterr().out)
    assert document["by_the_hour"] == []
    assert document["parameters"]["Stage"] == "prod"
    for part in ("at_rest", "predictions", "training"):
        lines = document[part]["lines"]
        assert sum(line["usd"] for line in lines) == pytest.approx(document[part]["usd"], abs=1e-6)
        assert all(line["price"].startswith("$") and line["price_read"] for line in lines)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--stage", "test"], "(dev, staging, prod), got 'test'"),
        (
            ["--parameter", "Alarm=off"],
            "Alarm: the template has no such parameter; did you mean Alarms?",
        ),
        (["--parameter", "Alarms=loud"], "Alarms: expected one of on, off, got 'loud'"),
        (["--parameter", "Alarms"], "expected NAME=VALUE, not Alarms"),
        (["--assume", "rows=1"], "there is no assumption rows"),
    ],
    ids=["stage", "parameter", "value", "pair", "assumption"],
)
def test_wrong_questions_are_answered_with_what_was_expected(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(arguments) == 2
    assert said in capsys.readouterr().err


def test_table_for_people_has_the_sums(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--defaults"]) == 0

    shown = capsys.readouterr().out
    assert "nothing, and nothing works at rest" in shown
    assert "$2.9944" in shown


def test_page_on_batch_jobs_shows_their_price() -> None:
    page = batch.DOCUMENT.read_text(encoding="utf-8")

    assert batch.written(page) == page, "run `python -m infra.costs.batch --write`"
    assert batch.table() in page


def test_price_of_a_million_rows_is_less_than_a_cent_however_many_there_are() -> None:
    for job in batch.JOBS:
        per_million = total(batch.lines(job)) / (Decimal(job.rows) / batch.MILLION)

        assert Decimal("0.001") < per_million < Decimal("0.01")

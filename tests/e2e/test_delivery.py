"""Delivery as a person does it: two releases, two stages, a way back, and nothing left in the end.

One story runs once, on an engine of its own, through the make targets; each test looks at a part.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest

from infra.build.artifact import function_names
from infra.delivery.exits import CHANGES, ExitCode
from millrace_cli.deploy import BUILD_FOLDER
from tests.e2e.conftest import AnotherCloud
from tests.until import until

PROJECT = Path(__file__).resolve().parents[2]
STACK = "millrace-staging"
PRODUCTION = "millrace-prod"

# The story is told while the first test waits.
pytestmark = [
    pytest.mark.needs("deployment", "rest-api", "disposable", "retention"),
    pytest.mark.timeout(1500),
]


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    code: int
    said: str
    complained: str

    @property
    def document(self) -> Any:
        """What it printed for machines."""
        return json.loads(self.said)


@dataclass(frozen=True, slots=True)
class Engine:
    """Runs the delivery's commands against one engine."""

    endpoint: str
    environment: dict[str, str]

    def run(self, *command: str, **settings: str) -> Done:
        """Runs a command; nothing of the surrounding make reaches it."""
        ours = ("AWS_", "MAKE", "MFLAGS", "ARGS", "MILLRACE_", "PYTEST_")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
        done = subprocess.run(
            command,
            check=False,
            cwd=PROJECT,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=600,
            env=kept | self.environment | settings,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def make(self, target: str, **settings: str) -> Done:
        """Runs a make target with variables as a person gives them."""
        return self.run("make", target, *(f"{k}={v}" for k, v in settings.items()))

    def verb(self, *arguments: str) -> Done:
        """Runs a verb itself, whose exit code make would hide."""
        return self.run(str(PROJECT / ".venv/bin/python"), "-m", "infra.delivery", *arguments)

    def client(self, service: Any) -> Any:
        """A client of the engine."""
        return boto3.client(service, endpoint_url=self.endpoint, region_name="us-east-1")


@pytest.fixture(scope="module")
def engine(another_cloud: AnotherCloud) -> Iterator[Engine]:
    """An engine of its own."""
    with another_cloud() as info:
        names = ("AWS_", "SAM_")
        variables = {k: v for k, v in info.environment().items() if k.startswith(names)}
        yield Engine(info.endpoint, variables)


@dataclass(slots=True)
class Story:
    """What every step of the story said, by name."""

    one: Path
    two: Path
    steps: dict[str, Done] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def well(self, step: str, done: Done) -> Done:
        """Keeps a step that has to succeed, as the next ones build on it."""
        assert done.code == 0, f"{step}: {done.said}\n{done.complained}"
        self.steps[step] = done
        return done


@pytest.fixture(scope="module")
def story(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Two releases, staging and production, a change by hand, back, and away."""
    folder = tmp_path_factory.mktemp("delivery")
    told = Story(folder / "one", folder / "two")
    changed = _changed_build(folder / "changed")
    told.well("package one", engine.make("package", RELEASE_VERSION="1.0", RELEASE=str(told.one)))
    first = {"STAGE": "staging", "RELEASE": str(told.one), "PARAMETERS": "RefreshSeconds=1"}
    told.well("plan one", engine.make("plan", **first))
    told.facts["stacks after the plan"] = _stacks(engine)
    told.well("deploy one", engine.make("deploy", **first))
    told.well("smoke one", engine.make("smoke", STAGE="staging"))
    told.steps["again"] = engine.verb(
        "plan", "--stage", "staging", "--release", str(told.one), "--json"
    )
    told.well(
        "package two",
        engine.verb(
            "package",
            "--build",
            str(changed),
            "--version",
            "2.0",
            "--release",
            str(told.two),
            "--json",
        ),
    )
    _change_by_hand(engine, STACK, told.one, LogLevel="DEBUG")
    told.steps["plan two"] = engine.verb(
        "plan", "--stage", "staging", "--release", str(told.two), "--json"
    )
    told.well("deploy two", engine.make("deploy", STAGE="staging", RELEASE=str(told.two)))
    told.well("smoke two", engine.make("smoke", STAGE="staging", FULL="0"))
    told.steps["prod unasked"] = engine.verb(
        "deploy", "--stage", "prod", "--release", str(told.two), "--allow-dirty"
    )
    told.steps["prod dirty"] = engine.verb(
        "deploy", "--stage", "prod", "--release", str(_dirty(told.two, folder / "dirty")), "--yes"
    )
    # The checkout that the tests run in may be one that is worked in.
    prod = {"STAGE": "prod", "RELEASE": str(told.two), "YES": "1", "ALLOW_DIRTY": "1"}
    guarded = "TableDeletionProtection=true"
    told.well("deploy prod", engine.make("deploy", **prod, PARAMETERS=guarded))
    told.facts["code"] = {s: _code(engine, s) for s in (STACK, PRODUCTION)}
    told.well("rollback", engine.make("rollback", STAGE="staging"))
    told.well("smoke rolled back", engine.make("smoke", STAGE="staging", ARGS="--json --quick"))
    told.steps["rollback further"] = engine.verb("rollback", "--stage", "staging")
    told.steps["rollback prod"] = engine.verb("rollback", "--stage", "prod", "--yes")
    with_data = {"STAGE": "prod", "YES": "1", "CONFIRM": PRODUCTION, "DATA": "1", "ARGS": "--json"}
    told.steps["destroy prod protected"] = engine.make("destroy", **with_data)
    told.well(
        "unprotect prod", engine.make("deploy", **prod, PARAMETERS="TableDeletionProtection=false")
    )
    _tamper(engine, told.two)
    told.steps["deploy tampered"] = engine.verb(
        "deploy", "--stage", "staging", "--release", str(told.two)
    )
    told.steps["destroy unasked"] = engine.verb("destroy", "--stage", "staging")
    told.well("destroy", engine.make("destroy", STAGE="staging", YES="1"))
    told.facts["stays"] = _leftovers(engine, STACK)
    told.steps["destroy prod unconfirmed"] = engine.verb("destroy", "--stage", "prod", "--yes")
    told.well("destroy prod", engine.make("destroy", **with_data))
    told.facts["stays of prod"] = _leftovers(engine, PRODUCTION)
    told.facts["stacks in the end"] = _stacks(engine)
    return told


def test_a_plan_of_a_new_stack_changes_nothing(story: Story) -> None:
    said = story.steps["plan one"].said

    assert f"the first deployment of stack {STACK}" in said
    assert "data loss: no" in said
    assert story.facts["stacks after the plan"] == []


def test_a_release_is_packed_once_and_uploads_only_what_is_new(story: Story) -> None:
    uploaded = story.steps["package two"].document["uploaded"]
    one, two = (json.loads((f / "release.json").read_text()) for f in (story.one, story.two))
    same = {a["sha256"] for a in one["artifacts"]} & {a["sha256"] for a in two["artifacts"]}

    assert uploaded == ["TriggerFunction"]
    assert len(same) == len(one["artifacts"]) - 1
    assert (one["version"], two["version"]) == ("1.0", "2.0")


def test_a_deployment_shows_where_it_went_and_a_smoke_that_it_works(story: Story) -> None:
    assert f"deployed 1.0 to {STACK}" in story.steps["deploy one"].said
    assert "ApiUrl" in story.steps["deploy one"].said
    smoked = story.steps["smoke one"].said
    assert "version 1.0, stage staging" in smoked
    assert "smoke@1 labels 2 rows as it should" in smoked
    assert "7 of 7 checks passed" in smoked


def test_planning_what_is_deployed_finds_nothing_to_change(story: Story) -> None:
    again = story.steps["again"]

    assert again.code == ExitCode.OK
    assert again.document["has_changes"] is False


def test_a_plan_names_what_changes_and_what_was_changed_by_hand(story: Story) -> None:
    planned = story.steps["plan two"]
    document = planned.document
    changed = {c["name"]: c["action"] for c in document["changes"]}

    assert planned.code == CHANGES
    assert changed["TriggerFunction"] == changed["DeadLetterQueue"] == "change"
    assert document["loses_data"] == "no"
    assert {"name": "CodeVersion", "before": "1.0", "after": "2.0"} in document["parameters"]
    assert document["changed_by_hand"] == [{"name": "LogLevel", "before": "INFO", "after": "DEBUG"}]


def test_a_plan_says_which_permissions_widen(story: Story) -> None:
    widened = story.steps["plan two"].document["permissions_widened"]

    assert widened == [
        {"holder": "TriggerRole", "allows": "states:StopExecution on TrainingStateMachine"}
    ]


def test_production_gets_the_bytes_that_staging_had(story: Story) -> None:
    code = story.facts["code"]

    # The authorizer stands only where tokens are taken, the heartbeat where one is asked for.
    assert code[STACK].keys() == {*function_names()} - {"authorizer", "heartbeat"}
    assert code[STACK] == code[PRODUCTION]


def test_production_is_not_deployed_to_without_a_word(story: Story) -> None:
    done = story.steps["prod unasked"]

    assert done.code == ExitCode.INVALID
    assert "say YES=1" in done.complained


def test_production_gets_nothing_that_no_commit_describes(story: Story) -> None:
    done = story.steps["prod dirty"]

    assert done.code == ExitCode.INVALID
    assert "files that no commit describes" in done.complained


def test_a_rollback_says_from_what_to_what_and_the_former_release_answers(story: Story) -> None:
    assert f"rolling back {STACK} from 2.0 to 1.0" in story.steps["rollback"].said
    health = story.steps["smoke rolled back"].document["checks"][0]
    assert health["verdict"] == "ok"
    assert "version 1.0" in health["found"]


def test_a_rollback_never_goes_forth_to_what_was_left(story: Story) -> None:
    further = story.steps["rollback further"]

    assert further.code == ExitCode.NOT_FOUND
    assert "has only ever run 1.0" in further.complained


def test_a_rollback_of_a_first_deployment_is_refused(story: Story) -> None:
    done = story.steps["rollback prod"]

    assert done.code == ExitCode.NOT_FOUND
    assert "has only ever run 2.0" in done.complained


def test_bytes_that_are_not_those_built_are_not_deployed(story: Story) -> None:
    done = story.steps["deploy tampered"]

    assert done.code == ExitCode.FAILED
    assert "TriggerFunction in the bucket is not what was built" in " ".join(
        done.complained.split()
    )


def test_nothing_is_removed_without_a_word(story: Story) -> None:
    assert story.steps["destroy unasked"].code == ExitCode.INVALID
    refused = story.steps["destroy prod unconfirmed"]
    assert refused.code == ExitCode.INVALID
    assert f"say CONFIRM={PRODUCTION}" in " ".join(refused.complained.split())
    protected = story.steps["destroy prod protected"]
    assert protected.code != ExitCode.OK
    assert "is protected from deletion" in protected.document["message"]


def test_a_removal_leaves_the_data_and_proves_the_rest_gone(story: Story) -> None:
    said = story.steps["destroy"].said

    assert "proven:" in said
    assert "still there  function" not in said
    assert sorted(story.facts["stays"]) == ["bucket", "bucket", "table"]


def test_a_removal_with_its_data_leaves_nothing(story: Story) -> None:
    document = story.steps["destroy prod"].document
    found = {r["name"]: r["found"] for r in document["resources"]}

    assert document["proven"] is True
    assert found["DataBucket"] == found["ArtifactBucket"] == found["RegistryTable"] == "gone"
    assert story.facts["stays of prod"] == []
    assert story.facts["stacks in the end"] == []


def test_a_first_deployment_that_failed_is_replaced_when_that_is_said(
    engine: Engine, story: Story
) -> None:
    assert story.facts["stacks in the end"] == []
    _fail_first_deployment(engine, "millrace")

    refused = engine.verb("deploy", "--release", str(story.one))
    replaced = engine.verb("deploy", "--release", str(story.one), "--replace-failed", "--json")

    assert refused.code == ExitCode.CONFLICT
    said = " ".join(refused.complained.split())
    assert "stack millrace is in ROLLBACK_COMPLETE" in said
    assert "aws cloudformation delete-stack --stack-name millrace" in said
    assert replaced.code == ExitCode.OK, replaced.said
    assert replaced.document["deployed"] is True
    assert replaced.document["record"]["version"] == "1.0"


@pytest.mark.parametrize(
    ("verb", "settings", "code", "said"),
    [
        ("plan", {"STAGE": "nope"}, ExitCode.INVALID, "expected a stage of samconfig.toml"),
        ("plan", {"AWS_REGION": "mars-1"}, ExitCode.UNREACHABLE, "AWS has no region 'mars-1'"),
        (
            "plan",
            {"PARAMETERS": "TrainMemry='a b'"},
            ExitCode.INVALID,
            "did you mean TrainMemory?",
        ),
        (
            "deploy",
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"},
            ExitCode.UNREACHABLE,
            "nothing answers at AWS_ENDPOINT_URL=http://127.0.0.1:1",
        ),
        ("smoke", {"STACK": "millrace-no"}, ExitCode.NOT_FOUND, "there is no stack millrace-no"),
        ("rollback", {"STACK": "millrace-no"}, ExitCode.NOT_FOUND, "nothing to go back to"),
        ("destroy", {"STACK": "millrace-no"}, ExitCode.NOT_FOUND, "there is no stack millrace-no"),
        (
            "deploy",
            {"ARTIFACT_BUCKET": "another-bucket"},
            ExitCode.INVALID,
            "ARTIFACT_BUCKET says another-bucket",
        ),
    ],
    ids=["stage", "region", "parameter", "engine", "smoke", "rollback", "destroy", "bucket"],
)
def test_bad_input_gets_a_sentence_and_a_code(
    engine: Engine, story: Story, verb: str, settings: dict[str, str], code: ExitCode, said: str
) -> None:
    python = str(PROJECT / ".venv/bin/python")
    given = {"RELEASE": str(story.one)} | settings

    done = engine.run(python, "-m", "infra.delivery", verb, "--json", **given)

    assert done.code == code, done.complained
    document = done.document
    assert said in document["message"] + " ".join(p["message"] for p in document["problems"])


def _fail_first_deployment(engine: Engine, stack: str) -> None:
    """Leaves a stack in ROLLBACK_COMPLETE: it wants a bucket whose name is taken."""
    taken = engine.client("s3").list_buckets()["Buckets"][0]["Name"]
    resources = {
        "Queue": {"Type": "AWS::SQS::Queue"},
        "Bucket": {
            "Type": "AWS::S3::Bucket",
            "DependsOn": "Queue",
            "Properties": {"BucketName": taken},
        },
    }
    client = engine.client("cloudformation")
    client.create_stack(StackName=stack, TemplateBody=json.dumps({"Resources": resources}))
    until(
        lambda: (
            client.describe_stacks(StackName=stack)["Stacks"][0]["StackStatus"]
            == "ROLLBACK_COMPLETE"
        )
    )


def _changed_build(folder: Path) -> Path:
    """The build with another trigger function, a queue that keeps longer, and a wider role."""
    shutil.copytree(PROJECT / BUILD_FOLDER, folder, copy_function=os.link)
    (folder / "TriggerFunction" / "new.txt").write_text("the second release")
    template = (folder / "template.yaml").read_text()
    (folder / "template.yaml").unlink()
    before = "MessageRetentionPeriod: 1209600"
    assert before in template
    changed = template.replace(before, "MessageRetentionPeriod: 1000000").replace(
        "../../infra/", f"{PROJECT}/infra/"
    )
    starts = "Action: states:StartExecution"
    at = changed.index(starts, changed.index("  TriggerRole:"))
    changed = (
        f"{changed[:at]}Action: [states:StartExecution, states:StopExecution]"
        f"{changed[at + len(starts) :]}"
    )
    (folder / "template.yaml").write_text(changed)
    return folder


def _dirty(release: Path, folder: Path) -> Path:
    """The same release, as if files had been changed."""
    shutil.copytree(release, folder)
    manifest = folder / "release.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"dirty": True}))
    return folder


def _stacks(engine: Engine) -> list[str]:
    found = engine.client("cloudformation").describe_stacks()["Stacks"]
    return [s["StackName"] for s in found if not s["StackName"].startswith("aws-sam-cli")]


def _change_by_hand(engine: Engine, stack: str, release: Path, **parameters: str) -> None:
    manifest = json.loads((release / "release.json").read_text())
    client = engine.client("cloudformation")
    known = client.describe_stacks(StackName=stack)["Stacks"][0]["Parameters"]
    client.update_stack(
        StackName=stack,
        TemplateURL=f"{engine.endpoint}/{manifest['bucket']}/{manifest['template']['key']}",
        Capabilities=["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"],
        Parameters=[
            {"ParameterKey": p["ParameterKey"], "ParameterValue": parameters[p["ParameterKey"]]}
            if p["ParameterKey"] in parameters
            else {"ParameterKey": p["ParameterKey"], "UsePreviousValue": True}
            for p in known
        ],
    )
    client.get_waiter("stack_update_complete").wait(
        StackName=stack, WaiterConfig={"Delay": 1, "MaxAttempts": 60}
    )


def _code(engine: Engine, stack: str) -> dict[str, str]:
    client = engine.client("lambda")
    pages = client.get_paginator("list_functions").paginate()
    return {
        f["FunctionName"].removeprefix(f"{stack}-"): f["CodeSha256"]
        for page in pages
        for f in page["Functions"]
        if f["FunctionName"].startswith(f"{stack}-")
    }


def _tamper(engine: Engine, release: Path) -> None:
    manifest = json.loads((release / "release.json").read_text())
    [trigger] = [a for a in manifest["artifacts"] if a["name"] == "TriggerFunction"]
    engine.client("s3").put_object(
        Bucket=manifest["bucket"], Key=trigger["key"], Body=b"not what was built"
    )


def _leftovers(engine: Engine, stack: str) -> list[str]:
    """Kinds of what is still called after the stack."""
    found = [
        "bucket"
        for b in engine.client("s3").list_buckets()["Buckets"]
        if b["Name"].startswith(f"{stack}-")
    ]
    found += [
        "table"
        for name in engine.client("dynamodb").list_tables()["TableNames"]
        if name.startswith(f"{stack}-")
    ]
    return found + ["function" for _ in _code(engine, stack)]

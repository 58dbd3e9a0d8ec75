"""The pipelines of infra/ci, run: each one's make commands, in its own order, against an engine.

No engine here enforces roles, so a proxy before it does: it reads off the wire what a job asks and refuses
what the deploy role of the job's stage does not grant. `make check` and `make test` are not run inside the
tests.
"""

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import boto3
import pytest

from tests.e2e.conftest import AnotherCloud
from tests.e2e.wire import Asked, Wire, listening, rights
from tests.infra.bootstrapped import ACCOUNT, REGION, allows, deploy
from tests.infra.pipelines import APPROVAL, PROVIDERS, Job, Trigger, jobs, sequence

PROJECT = Path(__file__).resolve().parents[2]
RELEASE = PROJECT / ".millrace" / "release"
NOT_HERE = {"make check", "make test"}
LOCAL_REGION = "us-east-1"

REFUSED = {
    # Production looks at both bootstrap stacks for the bucket, and may read its own.
    (
        "cloudformation:DescribeStacks",
        f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/millrace-ci-staging/id",
    ),
}
"""What a pipeline tries and does without."""

pytestmark = pytest.mark.needs("deployment", "rest-api", "disposable", "pipelines")


def _whole(provider: str) -> tuple[str, ...]:
    """All that a pipeline runs, approvals left out: a delivery, and each stage rolled back."""
    triggers: tuple[Trigger, ...] = ("push", "rollback-staging", "rollback-prod")
    return tuple(c for t in triggers for c in sequence(provider, t) if c != APPROVAL)


DISTINCT: dict[tuple[str, ...], list[str]] = {}
for _provider in PROVIDERS:
    DISTINCT.setdefault(_whole(_provider), []).append(_provider)


@dataclass(frozen=True, slots=True)
class Ran:
    """What a job did.

    Attributes:
        job: The job.
        refused: What its deploy role does not grant.
        put: Objects it wrote into the bucket of releases.
        handed: Roles it had CloudFormation use, empty where it gave none.
    """

    job: Job
    refused: set[tuple[str, str]] = field(default_factory=set)
    put: set[str] = field(default_factory=set)
    handed: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs make as a pipeline's job does.

    Attributes:
        wire: Before the engine.
        engine: The engine itself.
    """

    wire: Wire
    engine: str

    def client(self, service: Literal["cloudformation", "iam"]) -> Any:
        """A client that is not listened to."""
        return boto3.client(service, endpoint_url=self.engine, region_name=LOCAL_REGION)

    def make(self, command: str, endpoint: str, **settings: str) -> str:
        """Runs one command and returns what it printed."""
        # Nothing of the AWS settings and of the make that these tests run in.
        kept = {
            n: v
            for n, v in os.environ.items()
            if not n.startswith(("AWS_", "MAKE", "MFLAGS", "ARGS"))
        }
        done = subprocess.run(
            shlex.split(command),
            check=False,
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=900,
            env=kept
            | {
                "AWS_ENDPOINT_URL": endpoint,
                "AWS_REGION": LOCAL_REGION,
                "AWS_ACCESS_KEY_ID": "testing",
                "AWS_SECRET_ACCESS_KEY": "testing",
                # A checkout that is worked in is rarely clean; a pipeline's is.
                "ALLOW_DIRTY": "1",
            }
            | settings,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def run(self, job: Job, **settings: str) -> Ran:
        """Runs a job's commands with the rights of its deploy role alone."""
        ran = Ran(job)

        def refuses(asked: Asked) -> str | None:
            if asked.query.get("Action") == "CreateChangeSet":
                ran.handed.add(asked.query.get("RoleARN", ""))
            for action, arn in rights(asked, region=REGION, account=ACCOUNT):
                resource = _as_on_paper(arn)
                if action == "s3:PutObject" and "artifactbucket" in resource:
                    ran.put.add(resource.split("/", 1)[1])
                context = {"s3:prefix": asked.query.get("prefix", "")}
                if action == "iam:PassRole":
                    context = {"iam:PassedToService": "cloudformation.amazonaws.com"}
                if not allows(deploy, job.stage or "", action, resource, context):
                    ran.refused.add((action, resource))
                    return f"User is not authorized to perform: {action} on resource: {resource}"
            return None

        self.wire.refuses = refuses
        for command in job.commands:
            if command not in NOT_HERE:
                self.make(command, self.wire.endpoint, **settings)
        return ran


def _as_on_paper(arn: str) -> str:
    """An ARN of the engine as the bootstrap's policies are resolved in tests."""
    arn = arn.replace(":000000000000:", f":{ACCOUNT}:")
    bucket, slash, key = arn.partition("/")
    if ":s3:::millrace-ci-staging-artifactbucket-" in bucket:
        return f"arn:aws:s3:::millrace-ci-staging-artifactbucket-x{slash}{key}"
    return arn


@pytest.fixture(scope="module")
def runner(another_cloud: AnotherCloud) -> Iterator[Runner]:
    """An engine of its own, both stages bootstrapped, and the checkout's own release put aside."""
    aside = RELEASE.with_name("release.aside")
    if RELEASE.exists():
        RELEASE.rename(aside)
    try:
        with another_cloud() as info, listening(info.endpoint) as wire:
            runner = Runner(wire, info.endpoint)
            for stage in ("staging", "prod"):
                # No engine here has OIDC providers: the roles trust one that is taken to exist.
                parameters = "Provider=GITHUB Repository=me/it IdentityProvider=existing"
                runner.make(f"make bootstrap STAGE={stage}", info.endpoint, PARAMETERS=parameters)
            yield runner
    finally:
        shutil.rmtree(RELEASE, ignore_errors=True)
        if aside.exists():
            aside.rename(RELEASE)


@pytest.mark.timeout(1800)  # six deployments: three minutes on two quiet cores
@pytest.mark.parametrize(
    "provider", [p[0] for p in DISTINCT.values()], ids=["-".join(p) for p in DISTINCT.values()]
)
def test_pipeline_delivers_one_build_to_both_stages_and_takes_it_back(
    runner: Runner, provider: str
) -> None:
    first = [runner.run(job, RELEASE_VERSION="first") for job in jobs(provider, "push")]
    delivered = json.loads((RELEASE / "release.json").read_text())
    assert {_deployed(runner, stage)["CodeVersion"] for stage in ("staging", "prod")} == {"first"}

    # Only packaging writes code; what the stages write are their templates and records.
    for ran in first:
        assert (ran.job.gives) == any(key.endswith(".zip") for key in ran.put), ran.job.name

    second = [runner.run(job, RELEASE_VERSION="second") for job in jobs(provider, "push")]
    again = json.loads((RELEASE / "release.json").read_text())
    assert (delivered["version"], again["version"]) == ("first", "second")
    assert {_deployed(runner, stage)["CodeVersion"] for stage in ("staging", "prod")} == {"second"}

    back = [runner.run(job) for job in jobs(provider, "rollback-staging")]
    assert _deployed(runner, "staging")["CodeVersion"] == "first"
    assert _deployed(runner, "prod")["CodeVersion"] == "second"

    back += [runner.run(job) for job in jobs(provider, "rollback-prod")]
    assert _deployed(runner, "prod")["CodeVersion"] == "first"

    for ran in (*first, *second, *back):
        changes = any(c.startswith(("make deploy", "make rollback")) for c in ran.job.commands)
        ready = _outputs(runner, f"millrace-ci-{ran.job.stage}") if changes else {}
        assert ran.handed == ({ready["ExecutionRoleArn"]} if changes else set()), ran.job.name
    for stage in ("staging", "prod"):
        boundary = _outputs(runner, f"millrace-ci-{stage}")["PermissionsBoundaryArn"]
        assert _deployed(runner, stage)["PermissionsBoundaryArn"] == boundary

    # They were told so, and went on.
    refused = {each for ran in (*first, *second, *back) for each in ran.refused}
    assert refused == REFUSED


def _deployed(runner: Runner, stage: str) -> dict[str, str]:
    [stack] = runner.client("cloudformation").describe_stacks(StackName=f"millrace-{stage}")[
        "Stacks"
    ]
    assert stack["StackStatus"] in ("CREATE_COMPLETE", "UPDATE_COMPLETE")
    return {p["ParameterKey"]: p["ParameterValue"] for p in stack["Parameters"]}


def _outputs(runner: Runner, stack: str) -> dict[str, str]:
    [found] = runner.client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
    return {o["OutputKey"]: o["OutputValue"] for o in found["Outputs"]}

"""The e2e suite on a stack that is deployed already: a rehearsal of `make test-aws`.

The stack is on the embedded cloud, with the authorizer and the parameters it would have on AWS; the
suite is told that it is AWS, and reaches it by `AWS_ENDPOINT_URL` and the credentials it is given.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from millrace_cli import cloud
from millrace_cli.deploy import BUILD_FOLDER, deploy_local
from millrace_cli.target import Target

ROOT = Path(__file__).resolve().parents[2]
STACK = "rehearsal"
TESTS = (
    "test_an_upload_becomes_a_champion_that_answers",
    "test_a_wrong_row_is_named_with_row_and_field",
    "test_listings_and_one_version",
    "test_a_refused_upload_is_told_with_its_reason",
    "test_an_answer_is_found_in_the_log_by_its_prediction_id",
    "test_the_stack_holds_what_the_template_says_for_its_parameters",
    "test_an_aborted_execution_is_recorded_as_failed",
)


@pytest.fixture(scope="module")
def info() -> Iterator[cloud.CloudInfo]:
    """A cloud that holds the stack."""
    if not (ROOT / BUILD_FOLDER / "template.yaml").exists():
        pytest.fail("nothing is built: run the tests through `make test-infra`")
    with cloud.ephemeral(ROOT) as info:
        deploy_local(ROOT, info, print, stack=STACK, Stage="rehearsal", ApiAuthorizer="IAM")
        yield info


def _suite(info: cloud.CloudInfo, stack: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "tests/e2e", "-p", "no:cacheprovider"),
            *("--engine", "aws", "--stack", stack, "-k", " or ".join(TESTS)),
        ],
        cwd=ROOT,
        env=info.environment(),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def test_the_suite_uses_the_stack_signs_its_calls_and_tidies_up(info: cloud.CloudInfo) -> None:
    done = _suite(info, STACK)

    assert done.returncode == pytest.ExitCode.OK, done.stdout[-6000:]
    # One of the names above is two more cases.
    assert f"{len(TESTS) + 2} passed" in done.stdout
    assert "left on the stack" in done.stdout
    assert "the records of models e2e" in done.stdout
    target = Target(kind="local", stack=STACK, endpoint_url=info.endpoint, region=None)
    with closing(target):
        for bucket in (target.outputs.data_bucket, target.outputs.artifact_bucket):
            kept = target.s3.list_object_versions(Bucket=bucket)
            assert "Versions" not in kept, bucket
            assert "DeleteMarkers" not in kept, bucket
        with closing(target.session.client("sqs", endpoint_url=info.endpoint)) as sqs:
            queues = sqs.list_queues().get("QueueUrls", [])
        with closing(target.session.client("sns", endpoint_url=info.endpoint)) as sns:
            subscriptions = sns.list_subscriptions()["Subscriptions"]
    assert [_name(url) for url in queues] == [_name(target.outputs.raw["DeadLetterQueueUrl"])]
    assert subscriptions == []


def _name(queue_url: str) -> str:
    return queue_url.rpartition("/")[2]


def test_a_stack_that_is_not_there_ends_the_run_with_a_sentence(info: cloud.CloudInfo) -> None:
    done = _suite(info, "nobodys")

    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "the stack cannot be used: there is no stack 'nobodys'" in done.stdout
    assert "Traceback" not in done.stdout

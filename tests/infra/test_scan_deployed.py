"""Prowler on the stack that was really made: deployed as production is, on the embedded cloud.

In an environment of its own, and a target of its own, `make scan-deployed`.
"""

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from infra.build.artifact import function_names
from millrace_cli import cloud
from millrace_cli.deploy import BUILD_FOLDER, deploy_local
from tests.infra.deployment import ROOT
from tests.infra.scans import PROWLER_CHECKS, mutes

PROWLER = ROOT / ".tools" / "prowler" / "bin" / "python"
# As the template itself has it, where the embedded cloud's own parameters differ.
AS_ON_AWS = {
    "Stage": "prod",
    "ApiAuthorizer": "IAM",
    "ApiAccessLogs": "create-role",
    "TraceMode": "Active",
}

type Finding = dict[str, Any]


@pytest.fixture(scope="module")
def deployed() -> Iterator[cloud.CloudInfo]:
    """The stack on a cloud of its own."""
    if not PROWLER.exists():
        pytest.skip("Prowler is not installed; `make scan-deployed` installs and runs it")
    if not (ROOT / BUILD_FOLDER / "template.yaml").exists():
        pytest.fail("nothing is built: run `make build`")
    with cloud.ephemeral(ROOT) as info:
        deploy_local(ROOT, info, lambda _: None, **AS_ON_AWS)
        yield info


@pytest.fixture(scope="module")
def report(
    deployed: cloud.CloudInfo, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[Any]]:
    """What Prowler says of it."""
    return _prowler(deployed, tmp_path_factory.mktemp("prowler"))


def test_prowler_finds_nothing_that_is_not_explained(report: dict[str, list[Any]]) -> None:
    unknown = [
        f"{f['check']} on {f['resource']}: {f['text']}"
        for f in report["findings"]
        if f["status"] != "PASS" and not f.get("muted")
    ]

    assert unknown == []


def test_every_mute_is_still_needed(report: dict[str, list[Any]]) -> None:
    found = {f["check"] for f in report["findings"] if f["status"] != "PASS"}

    assert set(mutes()) - found == set()


def test_prowler_saw_the_stack(report: dict[str, list[Any]]) -> None:
    passed: dict[str, int] = {}
    for finding in report["findings"]:
        if finding["status"] == "PASS":
            passed[finding["check"]] = passed.get(finding["check"], 0) + 1

    # The authorizer stands only where tokens are taken.
    functions = len(function_names()) - 1
    assert passed["awslambda_function_using_supported_runtimes"] == functions
    assert passed["awslambda_function_not_publicly_accessible"] == functions
    assert passed["awslambda_function_no_secrets_in_code"] == functions
    assert passed["iam_inline_policy_allows_privilege_escalation"] == 8
    assert passed["iam_inline_policy_no_administrative_privileges"] == 8
    assert passed["s3_bucket_secure_transport_policy"] == 2
    assert passed["s3_bucket_level_public_access_block"] == 2
    assert passed["s3_bucket_object_versioning"] == 2
    assert passed["sqs_queues_server_side_encryption_enabled"] == 1
    assert passed["sns_topics_not_publicly_accessible"] == 1
    assert passed["apigateway_restapi_authorizers_enabled"] == 1


def test_a_bucket_that_somebody_opened_would_be_found(
    deployed: cloud.CloudInfo, report: dict[str, list[Any]], tmp_path: Path
) -> None:
    """After the clean scan (`report` comes first), so that it stays clean."""
    with ExitStack() as opened:
        s3 = boto3.client("s3", endpoint_url=deployed.endpoint)
        [bucket] = [b["Name"] for b in s3.list_buckets()["Buckets"] if "databucket" in b["Name"]]
        policy = s3.get_bucket_policy(Bucket=bucket)["Policy"]
        opened.callback(s3.put_bucket_policy, Bucket=bucket, Policy=policy)
        s3.delete_bucket_policy(Bucket=bucket)

        found = _prowler(deployed, tmp_path, "s3_bucket_secure_transport_policy")["findings"]

    assert {(f["resource"], f["status"]) for f in found if not f["muted"]} >= {(bucket, "FAIL")}


def test_what_is_left_out_has_a_reason() -> None:
    scope = yaml.safe_load(PROWLER_CHECKS.read_text())

    for entry in (*scope["left_out"], *scope["not_ours"]):
        assert len(entry["reason"].split()) >= 5, entry
    for reason in mutes().values():
        assert len(reason.split()) >= 8, reason


def _prowler(info: cloud.CloudInfo, folder: Path, *checks: str) -> dict[str, list[Any]]:
    done = subprocess.run(
        [
            PROWLER,
            ROOT / "infra" / "scan" / "deployed.py",
            *("--region", "us-east-1", "--log", str(folder / "prowler.log"), *checks),
        ],
        cwd=folder,
        env=info.environment({"PATH": "/usr/bin:/bin", "HOME": str(folder)}),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer: dict[str, list[Any]] = json.loads(done.stdout)
    return answer

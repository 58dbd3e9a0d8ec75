"""checkov on the templates: clean but for what infra/scan/checkov.yaml leaves, with a reason."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from samtranslator.yaml_helper import yaml_parse

from tests.infra.deployment import ROOT, TEMPLATE, Resolver, expanded
from tests.infra.scans import Finding, checkov_exemptions, run

BOOTSTRAP = ROOT / "infra" / "ci" / "bootstrap.yaml"
KEY = "arn:aws:kms:us-east-1:123456789012:key/1"
HARDENED = {
    "Stage": "prod",
    "ApiAuthorizer": "API_KEY",
    "KmsKeyArn": KEY,
    "PermissionsBoundaryArn": "arn:aws:iam::123456789012:policy/boundary",
    "NotificationEmail": "ops@example.org",
    "TableDeletionProtection": "true",
}

# What cloudsplaining finds in a policy: credentials exposed, data let out, permissions managed,
# privileges escalated, writes without constraints.
POLICIES = tuple(f"CKV_AWS_{number}" for number in range(107, 112))

type Findings = set[Finding]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Findings]:
    """Findings that failed and that passed, of one run over every form of every template.

    Among them is one form with holes in it, "opened".
    """
    folder = tmp_path_factory.mktemp("checkov")
    forms = {"written": TEMPLATE, "bootstrap": BOOTSTRAP}
    for name, document in (
        ("expanded", expanded()),
        ("hardened", _hardened()),
        ("bootstrap-resolved", _bootstrap()),
        ("opened", _opened()),
    ):
        forms[name] = folder / f"{name}.json"
        forms[name].write_text(json.dumps(document, indent=1))
    found = _checkov(forms, folder)
    return {
        "failed": {f for f in found["failed"] if f.template != "opened"},
        "passed": {f for f in found["passed"] if f.template != "opened"},
        "opened": {f for f in found["failed"] if f.template == "opened"},
    }


def test_checkov_finds_nothing_that_is_not_explained(report: dict[str, Findings]) -> None:
    exemptions = checkov_exemptions()

    unknown = [f for f in report["failed"] if not any(e.covers(f) for e in exemptions)]

    assert sorted(map(str, unknown)) == []


def test_every_exemption_is_still_needed(report: dict[str, Findings]) -> None:
    unused = [line for e in checkov_exemptions() for line in e.unused(report["failed"])]

    assert unused == []


def test_every_exemption_has_a_reason_that_says_something() -> None:
    for exemption in checkov_exemptions():
        assert len(exemption.reason.split()) >= 8, exemption
        assert exemption.title, exemption


def test_checkov_judges_every_role_and_bucket(report: dict[str, Findings]) -> None:
    """A condition among a policy's statements keeps it from judging the policy, without a word.

    That is why the templates are looked at in a resolved form too.
    """
    judged = {(f.template, f.check, f.resource) for f in report["passed"] | report["failed"]}
    for form, document in (("hardened", _hardened()), ("bootstrap-resolved", _bootstrap())):
        roles = {
            name: resource["Properties"]
            for name, resource in document["Resources"].items()
            if resource["Type"] == "AWS::IAM::Role"
        }
        assert roles
        for name, properties in roles.items():
            for check in ("CKV_AWS_60", *(POLICIES if "Policies" in properties else ())):
                assert (form, check, name) in judged
    for form in ("written", "expanded", "hardened"):
        for bucket in ("DataBucket", "ArtifactBucket"):
            assert (form, "CKV_AWS_53", bucket) in judged


def test_a_customer_key_closes_what_it_is_said_to_close(report: dict[str, Findings]) -> None:
    closed = {(f.check, f.resource) for f in report["passed"] if f.template == "hardened"}

    assert {
        ("CKV_AWS_19", "DataBucket"),
        ("CKV_AWS_19", "ArtifactBucket"),
        ("CKV_AWS_26", "NotificationTopic"),
        ("CKV_AWS_119", "RegistryTable"),
    } <= closed


def test_an_open_bucket_and_a_boundless_role_would_be_found(report: dict[str, Findings]) -> None:
    found = {(f.check, f.resource) for f in report["opened"]}

    assert {("CKV_AWS_53", "DataBucket"), ("CKV_AWS_63", "TrainRole")} <= found
    for exemption in checkov_exemptions():
        assert exemption.check not in ("CKV_AWS_53", "CKV_AWS_63")


def _opened() -> dict[str, Any]:
    document = _hardened()
    document["Resources"]["DataBucket"]["Properties"].pop("PublicAccessBlockConfiguration")
    [policy] = document["Resources"]["TrainRole"]["Properties"]["Policies"]
    policy["PolicyDocument"]["Statement"][0] |= {"Action": "*", "Resource": "*"}
    return document


def _hardened() -> dict[str, Any]:
    return _resolved(Resolver(**HARDENED))


def _bootstrap() -> dict[str, Any]:
    written: dict[str, Any] = yaml_parse(BOOTSTRAP.read_text())
    return _resolved(
        Resolver(written, Stage="staging", Repository="example/millrace", KmsKeyArn=KEY)
    )


def _resolved(resolver: Resolver) -> dict[str, Any]:
    resources = resolver.resources()
    for resource in resources.values():
        resource.pop("Condition", None)
    document: dict[str, Any] = json.loads(
        json.dumps({"AWSTemplateFormatVersion": "2010-09-09", "Resources": resources})
    )
    return document


def _checkov(forms: dict[str, Path], folder: Path) -> dict[str, Findings]:
    files = [part for path in forms.values() for part in ("--file", str(path))]
    answer = json.loads(
        run(
            "checkov",
            *(*files, "--framework", "cloudformation", "--output", "json"),
            *("--compact", "--skip-download"),
            home=folder,
        )
    )
    names = {str(path.resolve()): name for name, path in forms.items()}
    assert answer["summary"]["parsing_errors"] == 0
    return {
        outcome: set(_findings(answer["results"][f"{outcome}_checks"], names))
        for outcome in ("failed", "passed")
    }


def _findings(checks: list[dict[str, Any]], names: dict[str, str]) -> Iterator[Finding]:
    for check in checks:
        template = names[str(Path(check["file_abs_path"]).resolve())]
        yield Finding(template, check["check_id"], check["resource"].rsplit(".", 1)[1])

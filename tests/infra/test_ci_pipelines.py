"""The four pipelines do the same, in the same order, with no key and no second build."""

import re
import shlex
import subprocess
from itertools import pairwise
from typing import Any

import pytest
import yaml

from tests.infra.deployment import ROOT
from tests.infra.pipelines import APPROVAL, FOLDER, PROVIDERS, files, jobs, sequence

DELIVERY = (
    "make check",
    "make test",
    "make package",
    "make deploy STAGE=staging RELEASE=.millrace/release YES=1",
    "make smoke STAGE=staging",
    APPROVAL,
    "make deploy STAGE=prod RELEASE=.millrace/release YES=1",
    "make smoke STAGE=prod",
)
TRIGGERS: tuple[Any, ...] = ("push", "change", "schedule", "rollback-staging", "rollback-prod")

each_provider = pytest.mark.parametrize("provider", PROVIDERS)
each_trigger = pytest.mark.parametrize("trigger", TRIGGERS)


def _text(provider: str) -> str:
    return "\n".join((ROOT / path).read_text() for path in files(provider))


@each_provider
def test_a_push_to_main_is_checked_tested_packaged_once_and_delivered_in_order(
    provider: str,
) -> None:
    assert sequence(provider, "push") == DELIVERY


@each_provider
def test_a_change_request_is_checked_and_tested_and_takes_no_role(provider: str) -> None:
    assert sequence(provider, "change") == DELIVERY[:2]
    assert [job.stage for job in jobs(provider, "change")] == [None, None]


@each_provider
def test_known_vulnerabilities_are_asked_for_on_a_schedule_without_a_role(provider: str) -> None:
    assert sequence(provider, "schedule") == ("make audit",)
    assert [job.stage for job in jobs(provider, "schedule")] == [None]


@each_provider
@pytest.mark.parametrize("stage", ["staging", "prod"])
def test_a_person_can_take_a_stage_back_and_sees_that_it_answers(provider: str, stage: str) -> None:
    trigger: Any = f"rollback-{stage}"
    done = [step for step in sequence(provider, trigger) if step != APPROVAL]

    assert done == [f"make rollback STAGE={stage} YES=1", f"make smoke STAGE={stage}"]
    if stage == "prod":
        assert sequence(provider, trigger)[0] == APPROVAL


@each_provider
@each_trigger
def test_a_job_takes_the_role_of_the_stage_it_works_on(provider: str, trigger: Any) -> None:
    for job in jobs(provider, trigger):
        stages = {m[1] for c in job.commands for m in re.finditer(r"STAGE=(\w+)", c)}
        packages = "make package" in job.commands

        assert len(stages) <= 1
        assert job.stage == (stages.pop() if stages else "staging" if packages else None), job.name


@each_provider
@each_trigger
def test_jobs_that_change_a_stage_wait_for_each_other(provider: str, trigger: Any) -> None:
    for job in jobs(provider, trigger):
        changes = any(c.startswith(("make deploy", "make rollback")) for c in job.commands)

        assert job.lock == (f"millrace-{job.stage}" if changes else None), job.name


@each_provider
@each_trigger
def test_every_job_is_given_up_some_time(provider: str, trigger: Any) -> None:
    for job in jobs(provider, trigger):
        assert job.minutes is not None, job.name
        assert 0 < job.minutes <= 90, job.name


@each_provider
def test_the_release_is_made_once_and_handed_on(provider: str) -> None:
    delivered = jobs(provider, "push")

    assert sum("make package" in job.commands for job in delivered) == 1
    for job in delivered:
        deploys = any(c.startswith("make deploy") for c in job.commands)
        assert job.gives == ("make package" in job.commands), job.name
        assert job.takes == deploys, job.name
        if deploys:
            assert all(
                "RELEASE=.millrace/release" in shlex.split(command)
                for command in job.commands
                if command.startswith("make deploy")
            )


@each_provider
def test_the_folder_handed_on_is_the_release(provider: str) -> None:
    handed = {
        "github": r"path: (\.millrace/release)/?\n",
        "gitlab": r"paths: \[(\.millrace/release)/\]",
        "circleci": r"paths: \[(\.millrace/release)\]",
        "jenkins": r"includes: '(\.millrace/release)/\*\*'",
    }

    found = re.findall(handed[provider], _text(provider))
    assert found
    assert set(found) == {".millrace/release"}


@each_provider
@each_trigger
def test_every_command_is_one_make_target_that_exists(provider: str, trigger: Any) -> None:
    for command in sequence(provider, trigger):
        if command == APPROVAL:
            continue
        make, target, *settings = shlex.split(command)
        assert make == "make"
        assert all(re.fullmatch(r"[A-Z_]+=\S+", setting) for setting in settings), command

        done = subprocess.run(
            ["make", "--dry-run", "--no-print-directory", target, *settings],
            cwd=ROOT,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"


@each_provider
def test_no_key_is_stored_or_asked_for(provider: str) -> None:
    text = _text(provider)

    for word in (
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "aws-access-key-id", "withCredentials"),
        *("withAWS", "credentials(", "secrets.", "AKIA"),
    ):
        assert word not in text, word


@each_provider
def test_whatever_is_fetched_is_pinned_by_digest(provider: str) -> None:
    text = _text(provider)

    for action in re.findall(r"uses: (\S+.*)", text):
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action
    for image in re.findall(r"image:? '?(\S+?)'?$", text, re.MULTILINE):
        assert re.fullmatch(r"python:3\.13-bookworm@sha256:[0-9a-f]{64}", image), image
    assert "orbs:" not in text
    assert "include:" not in text
    assert "library(" not in text


def test_every_pin_is_the_same_wherever_it_is_used() -> None:
    texts = [_text(provider) for provider in PROVIDERS]

    pins: dict[str, set[str]] = {}
    for text in texts:
        for name, pin in re.findall(r"([\w/.:-]+)@((?:sha256:)?[0-9a-f]{40,64})", text):
            pins.setdefault(name, set()).add(pin)
    assert pins
    assert {name: len(found) for name, found in pins.items() if len(found) > 1} == {}


@each_provider
def test_python_is_the_one_that_lambda_runs(provider: str) -> None:
    text = _text(provider)
    versions = set(re.findall(r"python-version: \"([\d.]+)\"|python:([\d.]+)-", text))

    assert {a or b for a, b in versions} == {"3.13"}


# ── Particulars of a provider ───────────────────────────────────────────────────────────────────


def _workflows() -> dict[str, dict[Any, Any]]:
    return {
        path.stem: yaml.safe_load(path.read_text()) for path in (FOLDER / "github").glob("*.yml")
    }


def test_github_jobs_have_only_the_permissions_they_need() -> None:
    for name, workflow in _workflows().items():
        assert workflow["permissions"] == {}, name
        for job in workflow["jobs"].values():
            by_role = any(
                "configure-aws-credentials" in step.get("uses", "") for step in job["steps"]
            )
            token = {"id-token": "write"} if by_role else {}
            assert job["permissions"] == {"contents": "read", **token}, name
            assert ("environment" in job) == by_role, name


def test_github_checkouts_leave_no_token_behind() -> None:
    for workflow in _workflows().values():
        for job in workflow["jobs"].values():
            for step in job["steps"]:
                if step.get("uses", "").startswith("actions/checkout@"):
                    assert step["with"]["persist-credentials"] is False


def test_github_never_runs_a_forks_code_with_rights() -> None:
    for name, workflow in _workflows().items():
        # YAML 1.1 reads `on` as true.
        assert "pull_request_target" not in workflow[True], name
        assert "workflow_run" not in workflow[True], name


def test_gitlab_tokens_are_for_the_default_branch_alone() -> None:
    document = yaml.safe_load((FOLDER / "gitlab" / ".gitlab-ci.yml").read_text())

    holders = {
        name
        for name, job in document.items()
        if isinstance(job, dict) and job.get("extends") == ".by-role"
    }
    assert holders == {"package", "staging", "prod", "rollback-staging", "rollback-prod"}
    for name in holders:
        for rule in document[name].get("rules", document[".by-role"]["rules"]):
            assert "$CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH" in rule["if"], name


def test_circleci_contexts_are_for_main_alone() -> None:
    document = yaml.safe_load((FOLDER / "circleci" / "config.yml").read_text())

    for name, workflow in document["workflows"].items():
        for entry in workflow["jobs"]:
            for job, settings in entry.items() if isinstance(entry, dict) else ():
                if "context" in settings:
                    assert settings["filters"] == {"branches": {"only": "main"}}, (name, job)


def test_variables_of_every_pipeline_are_told_in_the_readme() -> None:
    page = (FOLDER / "README.md").read_text()

    for provider in PROVIDERS:
        text = _text(provider)
        asked = set(re.findall(r"vars\.([A-Z_]+)", text))
        asked |= set(re.findall(r"env\.(MILLRACE_[A-Z_]+)", text))
        asked |= set(re.findall(r"\$\"?(DEPLOY_ROLE)", text))
        assert asked, provider
        for variable in asked:
            assert f"`{variable}`" in page, f"{provider}: {variable}"


def test_stages_follow_each_other_in_the_readme_as_in_the_files() -> None:
    page = (FOLDER / "README.md").read_text()
    places = [page.find(step.split(" RELEASE")[0]) for step in DELIVERY if step != APPROVAL]

    assert all(place >= 0 for place in places)
    assert all(a < b for a, b in pairwise(places))

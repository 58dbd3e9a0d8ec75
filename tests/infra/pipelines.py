"""What each pipeline definition does, read from the file that the provider will run."""

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal

import yaml

from tests.infra.deployment import ROOT, as_list

FOLDER: Final = ROOT / "infra" / "ci"
APPROVAL: Final = "(a person approves)"
PROVIDERS: Final = ("github", "gitlab", "circleci", "jenkins")

Provider = Literal["github", "gitlab", "circleci", "jenkins"]
Trigger = Literal["push", "change", "rollback-staging", "rollback-prod", "schedule"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What runs in one place.

    Attributes:
        name: What the provider calls it.
        commands: Its shell commands, in order; those that only prepare the machine are left out.
        stage: The stage whose role it takes, None for none.
        approved: Whether a person has to agree before it begins.
        lock: What keeps two such jobs from running at once, None for nothing.
        minutes: After how long it is given up, None for never.
        gives: What it hands on.
        takes: What is handed to it.
        image: The container it runs in, None for the provider's machine.
        document: The definition itself.
    """

    name: str
    commands: tuple[str, ...]
    stage: str | None
    approved: bool
    lock: str | None
    minutes: int | None
    gives: bool
    takes: bool
    image: str | None
    document: Mapping[str, Any]


def files(provider: str) -> list[str]:
    """The files of a provider, as paths below the repository."""
    folder = FOLDER / provider
    return sorted(str(p.relative_to(ROOT)) for p in folder.iterdir() if p.is_file())


def jobs(provider: str, trigger: Trigger) -> list[Job]:
    """The jobs that a trigger starts, in the order in which they run."""
    return list(_READERS[provider](trigger))


def sequence(provider: str, trigger: Trigger) -> tuple[str, ...]:
    """The commands that a trigger starts, and where a person has to agree."""
    found: list[str] = []
    for job in jobs(provider, trigger):
        if job.approved:
            found.append(APPROVAL)
        found += job.commands
    return tuple(found)


@cache
def _yaml(path: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.load((FOLDER / path).read_text(), _Yaml12)  # noqa: S506 - a SafeLoader
    return document


class _Yaml12(yaml.SafeLoader):
    """YAML 1.2, where `on` is a word."""


_Yaml12.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":bool")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Yaml12.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(true|false)$"), list("tf"))


def _ordered(needs: Mapping[str, list[str]]) -> list[str]:
    """Names after all that they need."""
    done: list[str] = []
    while len(done) < len(needs):
        ready = [n for n, wanted in needs.items() if n not in done and set(wanted) <= set(done)]
        assert ready, f"a circle among {needs}"
        done.append(ready[0])
    return done


# ── GitHub Actions ──────────────────────────────────────────────────────────────────────────────


def _github(trigger: Trigger) -> Iterator[Job]:
    name, _, stage = trigger.partition("-")
    path = {"push": "deliver", "change": "deliver", "schedule": "audit"}.get(trigger, name)
    document = _yaml(f"github/{path}.yml")
    event = {"push": "push", "change": "pull_request", "schedule": "schedule"}
    assert event.get(trigger, "workflow_dispatch") in document["on"]
    described = document["jobs"]
    for each in _ordered({n: as_list(j.get("needs", [])) for n, j in described.items()}):
        job = described[each]
        if job.get("if") == "github.event_name == 'push'" and trigger == "change":
            continue
        environment = str(job.get("environment", "")).replace("${{ inputs.stage }}", stage)
        uses = [step.get("uses", "").split("@")[0] for step in job["steps"]]
        takes_role = "aws-actions/configure-aws-credentials" in uses
        yield Job(
            name=each,
            commands=tuple(
                step["run"].replace('"$STAGE"', stage) for step in job["steps"] if "run" in step
            ),
            stage=environment if takes_role else None,
            # The environment's required reviewers: infra/ci/README.md has them set.
            approved=environment == "prod",
            lock=job.get("concurrency", {}).get("group", "").replace("${{ inputs.stage }}", stage)
            or None,
            minutes=job.get("timeout-minutes"),
            gives="actions/upload-artifact" in uses,
            takes="actions/download-artifact" in uses,
            image=job.get("container"),
            document=job,
        )


# ── GitLab CI ───────────────────────────────────────────────────────────────────────────────────

_GITLAB_RULES: Final = {
    '$CI_PIPELINE_SOURCE == "merge_request_event"': {"change"},
    '$CI_PIPELINE_SOURCE == "push"': {"push"},
    '$CI_PIPELINE_SOURCE == "schedule"': {"schedule"},
    '$CI_PIPELINE_SOURCE == "push" && $CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH': {"push"},
}


def _gitlab(trigger: Trigger) -> Iterator[Job]:
    document = _yaml("gitlab/.gitlab-ci.yml")
    event = "push" if trigger.startswith("rollback") else trigger
    for stage in document["stages"]:
        for name, given in document.items():
            if not isinstance(given, dict) or given.get("stage") != stage:
                continue
            job = {**document.get(given.get("extends", ""), {}), **given}
            rule = next(
                (
                    rule
                    for rule in job["rules"]
                    if event in _GITLAB_RULES[rule["if"]] and "changes" not in rule
                ),
                None,
            )
            rolls_back = stage == "rollback"
            if rule is None or rolls_back != trigger.startswith("rollback"):
                continue
            if rolls_back and name != trigger:
                continue
            yield Job(
                name=name,
                commands=tuple(job["script"]),
                stage=job["environment"]["name"] if "id_tokens" in job else None,
                approved=rule.get("when") == "manual",
                lock=job.get("resource_group"),
                minutes=int(job.get("timeout", document["default"]["timeout"]).split()[0]),
                gives="artifacts" in job,
                takes="package" in job.get("needs", ()),
                image=document["default"]["image"],
                document=job,
            )


# ── CircleCI ────────────────────────────────────────────────────────────────────────────────────


def _circleci(trigger: Trigger) -> Iterator[Job]:
    document = _yaml("circleci/config.yml")
    workflow = {"push": "deliver", "change": "deliver", "schedule": "audit"}
    name, _, stage = trigger.partition("-")
    listed: dict[str, dict[str, Any]] = {}
    for entry in document["workflows"][workflow.get(trigger, name)]["jobs"]:
        listed |= {entry: {}} if isinstance(entry, str) else entry
    approvals = {n for n, entry in listed.items() if entry.get("type") == "approval"}
    for each in _ordered({n: e.get("requires", []) for n, e in listed.items()}):
        entry = listed[each]
        if each in approvals or (trigger == "change" and "filters" in entry):
            continue
        job = document["jobs"][each]
        executor = document["executors"][job["executor"]]
        steps = [step if isinstance(step, dict) else {step: {}} for step in job["steps"]]
        runs = [step["run"] for step in steps if "run" in step]
        [context] = entry.get("context", [None])
        values = {
            "<< pipeline.parameters.rollback >>": stage,
            "<< parameters.stage >>": stage,
            "<< pipeline.project.slug >>/": "",
        }
        waits = [re.fullmatch(r"(\d+)m", run["no_output_timeout"]) for run in runs]
        yield Job(
            name=each,
            commands=tuple(_filled(run["command"], values) for run in runs),
            stage=_filled(context, values).removeprefix("millrace-") if context else None,
            approved=bool(approvals & set(entry.get("requires", ()))),
            lock=_filled(entry.get("serial-group", ""), values) or None,
            minutes=sum(int(w[1]) for w in waits if w) if all(waits) else None,
            gives=any("persist_to_workspace" in step for step in steps),
            takes=any("attach_workspace" in step for step in steps),
            image=executor["docker"][0]["image"],
            document={**job, **entry},
        )


def _filled(text: str, values: Mapping[str, str]) -> str:
    for variable, value in values.items():
        text = text.replace(variable, value)
    return text


# ── Jenkins ─────────────────────────────────────────────────────────────────────────────────────

type Statement = dict[str, Any]


@cache
def jenkinsfile() -> Statement:
    """The pipeline of the Jenkinsfile, parsed by tests/infra/jenkinsfile.py."""
    python = ROOT / ".tools" / "ci" / "bin" / "python"
    script = ROOT / "tests" / "infra" / "jenkinsfile.py"
    command = [python, script, FOLDER / "jenkins" / "Jenkinsfile"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [pipeline] = json.loads(done.stdout)
    assert pipeline["name"] == "pipeline"
    found: Statement = pipeline
    return found


def directive(statement: Statement, name: str) -> list[Statement]:
    """The body of a directive in a block, empty when it is not there."""
    bodies = [s["body"] for s in statement["body"] if s["name"] == name]
    assert len(bodies) <= 1, f"{name} is given twice in line {statement['line']}"
    found: list[Statement] = bodies[0] or [] if bodies else []
    return found


def _jenkins(trigger: Trigger) -> Iterator[Job]:
    name = trigger.split("-")[0]
    facts = {
        "expression params.ROLLBACK == 'none'": name != "rollback",
        "expression params.ROLLBACK == 'staging'": trigger == "rollback-staging",
        "expression params.ROLLBACK == 'prod'": trigger == "rollback-prod",
        "triggeredBy TimerTrigger": trigger == "schedule",
        "branch main": trigger != "change",
        "changeRequest": trigger == "change",
        # Only some change requests change what is pinned.
        "changeset **/requirements/*.txt": False,
        "changeset **/requirements.txt": False,
    }
    approved = False
    for each in directive(jenkinsfile(), "stages"):
        if not all(_holds(condition, facts) for condition in directive(each, "when")):
            continue
        if directive(each, "input"):
            approved = True
            continue
        steps = directive(each, "steps")
        options = {s["name"]: s["arguments"] for s in directive(each, "options")}
        container = {
            s["name"]: s["arguments"][0]
            for docker in directive(each, "agent")
            for s in docker["body"]
        }
        given = dict(re.findall(r"(\w+): '?([\w-]+)'?", " ".join(options["timeout"])))
        yield Job(
            name=each["arguments"][0],
            commands=tuple(s["arguments"][0] for s in steps if s["name"] == "sh"),
            stage=container["label"].removeprefix("millrace").removeprefix("-") or None,
            approved=approved,
            lock=re.sub(r"resource: '(.*)'", r"\1", options["lock"][0])
            if "lock" in options
            else None,
            minutes=int(given["time"]) if given["unit"] == "MINUTES" else None,
            gives=any(s["name"] == "stash" for s in steps),
            takes=any(s["name"] == "unstash" for s in steps),
            image=container["image"],
            document=each,
        )
        approved = False


def _holds(condition: Statement, facts: Mapping[str, bool]) -> bool:
    name, body = condition["name"], condition["body"] or []
    match name:
        case "beforeAgent" | "beforeInput":
            return True
        case "not":
            return not _holds(body[0], facts)
        case "anyOf":
            return any(_holds(c, facts) for c in body)
        case "allOf":
            return all(_holds(c, facts) for c in body)
        case "expression":
            return facts[f"expression {body[0]['name']}"]
    return facts[" ".join([name, *condition["arguments"]])]


_READERS: Final = {
    "github": _github,
    "gitlab": _gitlab,
    "circleci": _circleci,
    "jenkins": _jenkins,
}

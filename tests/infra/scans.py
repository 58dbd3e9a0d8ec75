"""Runs the scanners, and reads what was left as it is and why.

`python -m tests.infra.scans` writes the tables of exceptions into `docs/security.md`; a test compares them
with what the files say.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infra.deployment import ROOT

DOCUMENT = ROOT / "docs" / "security.md"
TOOLS = ROOT / ".tools" / "scan" / "bin"
NODE = ROOT / "infra" / "build" / "node"
SEMGREP_RULES = ROOT / "infra" / "scan" / "semgrep"
SEMGREP_CASES = ROOT / "tests" / "infra" / "semgrep"
CHECKOV_EXCEPTIONS = ROOT / "infra" / "scan" / "checkov.yaml"
PROWLER_CHECKS = ROOT / "infra" / "scan" / "prowler" / "checks.yaml"
PROWLER_MUTES = ROOT / "infra" / "scan" / "prowler" / "mutelist.yaml"
SCANNED = ("functions", "shared", "infra")


# ── Running ─────────────────────────────────────────────────────────────────────────────────────


def run(tool: str, *arguments: str | Path, folder: Path = ROOT, home: Path) -> str:
    """What a scanner prints on standard output; it reports findings there, not by its exit code.

    Args:
        tool: Its name in the scanners' environment.
        arguments: Its arguments.
        folder: Where it runs.
        home: Where it may leave settings and logs of its own.
    """
    executable = TOOLS / tool
    if not executable.exists():
        pytest.fail(f"{tool} is missing: run `make setup-scan`")
    done = subprocess.run(
        [executable, *arguments],
        cwd=folder,
        env={
            "PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(home),
            "LC_ALL": "C.UTF-8",
            "PYTHONWARNINGS": "ignore",
            # Nothing is sent and nothing is asked for.
            "SEMGREP_SEND_METRICS": "off",
            "SEMGREP_ENABLE_VERSION_CHECK": "0",
            "CKV_GITHUB_CONFIG_FETCH_DATA": "False",
            "LOG_LEVEL": "ERROR",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    # 0: nothing found; 1: something found. Anything else, or no report, is a fault.
    if done.returncode not in (0, 1) or not done.stdout.strip():
        pytest.fail(f"{tool} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def semgrep(*targets: str, folder: Path = ROOT, home: Path) -> dict[str, Any]:
    """Semgrep's report on some files, by our rules alone."""
    report: dict[str, Any] = json.loads(
        run(
            "semgrep",
            *("scan", "--config", SEMGREP_RULES, "--metrics=off", "--disable-version-check"),
            # Its own list of folders to leave out has `build` in it, and with it infra/build.
            *("--x-ignore-semgrepignore-files", "--exclude", "node_modules"),
            *("--json", "--quiet", *targets),
            folder=folder,
            home=home,
        )
    )
    return report


def node_tool(name: str) -> list[str]:
    """The command of a locked Node tool; skips where there is no Node."""
    node = shutil.which("node")
    if node is None:
        pytest.skip(f"there is no Node here, and {name} needs one")
    executable = NODE / "node_modules" / ".bin" / name
    if not executable.exists():
        pytest.fail(f"{name} is missing: run `make setup-node`")
    return [node, str(executable)]


# ── Exceptions ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One finding of checkov: in which form of which template, which check, which resource."""

    template: str
    check: str
    resource: str

    def __str__(self) -> str:
        return f"{self.template}: {self.check} on {self.resource}"


@dataclass(frozen=True, slots=True)
class Exemption:
    """Findings of one check that stay as they are."""

    check: str
    title: str
    templates: tuple[str, ...]
    resources: tuple[str, ...]
    reason: str

    def covers(self, finding: Finding) -> bool:
        """Whether the finding is one of these."""
        return (
            finding.check == self.check
            and finding.template in self.templates
            and any(fnmatchcase(finding.resource, pattern) for pattern in self.resources)
        )

    def unused(self, findings: set[Finding]) -> Iterator[str]:
        """The templates and resources of this entry that no finding needs."""
        covered = {f for f in findings if self.covers(f)}
        for template in self.templates:
            if not any(f.template == template for f in covered):
                yield f"{self.check}: nothing is found in {template}"
        for pattern in self.resources:
            if not any(fnmatchcase(f.resource, pattern) for f in covered):
                yield f"{self.check}: nothing is found on {pattern}"


def checkov_exemptions() -> list[Exemption]:
    """The entries of infra/scan/checkov.yaml."""
    return [
        Exemption(
            check=entry["check"],
            title=entry["title"],
            templates=tuple(entry["templates"]),
            resources=tuple(entry["resources"]),
            reason=entry["reason"],
        )
        for entry in yaml.safe_load(CHECKOV_EXCEPTIONS.read_text())
    ]


def mutes() -> dict[str, str]:
    """Prowler's checks whose findings stay as they are, each with the reason."""
    accounts = yaml.safe_load(PROWLER_MUTES.read_text())["Mutelist"]["Accounts"]
    return {name: entry["Description"] for name, entry in accounts["*"]["Checks"].items()}


@dataclass(frozen=True, slots=True, order=True)
class Comment:
    """An exception that stands in the code: where, for which rule, and why."""

    path: str
    rule: str
    reason: str


_COMMENT = re.compile(r"# (?:nosemgrep|nosec)\b:? ?(?P<rule>[\w-]*)(?: -- (?P<reason>.+))?")


def comments() -> list[Comment]:
    """Every exception in the code that is scanned."""
    return sorted(
        Comment(str(path.relative_to(ROOT)), found["rule"], (found["reason"] or "").strip())
        for path in sources()
        for found in _COMMENT.finditer(path.read_text())
    )


def shown() -> dict[str, str]:
    """The tables of `docs/security.md`, by the name between their marks."""
    return {
        "checkov": _table(
            ("check", "on", "in", "why it stays"),
            (
                (
                    f"{e.check} {e.title}",
                    _names(e.resources),
                    ", ".join(e.templates),
                    e.reason,
                )
                for e in checkov_exemptions()
            ),
        ),
        "prowler": _table(
            ("check", "why it stays"), ((f"`{name}`", why) for name, why in mutes().items())
        ),
        "comments": _table(
            ("rule", "in", "why it stays"),
            ((f"`{c.rule}`", f"`{c.path}`", c.reason) for c in comments()),
        ),
        "rules": _table(
            ("rule", "what it says"),
            ((f"`{rule['id']}`", rule["message"]) for rule in semgrep_rules()),
        ),
    }


def written() -> dict[str, str]:
    """What stands between the marks of `docs/security.md`."""
    text = DOCUMENT.read_text()
    return {name: _between(text, name)[1].strip() for name in shown()}


def semgrep_rules() -> list[dict[str, Any]]:
    """Every local rule."""
    return [
        rule
        for file in sorted(SEMGREP_RULES.glob("*.yaml"))
        for rule in yaml.safe_load(file.read_text())["rules"]
    ]


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _names(patterns: tuple[str, ...]) -> str:
    return ", ".join(f"`{pattern}`" for pattern in patterns)


def _between(text: str, name: str) -> tuple[str, str, str]:
    begin = f"<!-- {name}: written by `python -m tests.infra.scans` -->"
    end = f"<!-- end of {name} -->"
    before, rest = text.split(begin, 1)
    inside, after = rest.split(end, 1)
    return before + begin, inside, end + after


def sources() -> list[Path]:
    """The Python files that are scanned."""
    return sorted(
        path
        for folder in SCANNED
        for path in (ROOT / folder).rglob("*.py")
        if not {"node_modules", "__pycache__"} & set(path.parts)
    )


if __name__ == "__main__":
    for name, table in shown().items():
        before, _, after = _between(DOCUMENT.read_text(), name)
        DOCUMENT.write_text(f"{before}\n{table}\n{after}")

"""bandit and semgrep on what runs on Lambda, on a laptop and in a pipeline."""

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

from tests.infra.scans import (
    ROOT,
    SCANNED,
    SEMGREP_CASES,
    SEMGREP_RULES,
    TOOLS,
    comments,
    run,
    semgrep,
    semgrep_rules,
    shown,
    sources,
    written,
)

# Ruff leaves the imports that bandit warns of to its preview; this one is used on purpose.
WITHOUT = {"B404": "programs are started here on purpose, with a list of arguments"}


# ── bandit ──────────────────────────────────────────────────────────────────────────────────────


def test_bandit_finds_nothing(tmp_path: Path) -> None:
    report = json.loads(
        run(
            "bandit",
            *("-c", "pyproject.toml", "--recursive", *SCANNED, "--exclude", "node_modules"),
            *("--format", "json", "--quiet"),
            home=tmp_path,
        )
    )

    assert report["errors"] == []
    assert [f"{r['filename']}:{r['line_number']}: {r['test_id']}" for r in report["results"]] == []
    assert set(report["metrics"]) - {"_totals"} == {_relative(path) for path in sources()}


def test_bandit_finds_an_import_that_ruff_would_let_pass(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("import telnetlib\n")

    report = json.loads(
        run(
            "bandit",
            *("-c", ROOT / "pyproject.toml", "--format", "json", "--quiet", tmp_path / "model.py"),
            home=tmp_path,
        )
    )

    assert [r["test_id"] for r in report["results"]] == ["B401"]


def test_bandit_looks_for_all_that_ruff_does_not() -> None:
    known = subprocess.run(
        [TOOLS / "python", "-c", _BANDIT_TESTS], capture_output=True, text=True, check=True
    )
    rules = subprocess.run(
        [ROOT / ".venv/bin/ruff", "rule", "--all", "--output-format", "json"],
        capture_output=True,
        text=True,
        check=True,
    )
    stable = {
        rule["code"] for rule in json.loads(rules.stdout) if rule["code"] and not rule["preview"]
    }
    chosen = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["bandit"]["tests"]

    beyond = {test for test in known.stdout.split() if f"S{test[1:]}" not in stable}

    assert set(chosen) == beyond - WITHOUT.keys()


_BANDIT_TESTS = """
from bandit.core.extension_loader import MANAGER
ids = {plugin.plugin._test_id for plugin in MANAGER.plugins}
ids |= {entry["id"] for entries in MANAGER.blacklist.values() for entry in entries}
print(*sorted(ids))
"""


# ── semgrep ─────────────────────────────────────────────────────────────────────────────────────


def test_semgrep_finds_nothing(tmp_path: Path) -> None:
    report = semgrep(*SCANNED, home=tmp_path)

    assert report["errors"] == []
    assert [f"{r['path']}:{r['start']['line']}: {r['check_id']}" for r in report["results"]] == []
    assert set(report["paths"]["scanned"]) >= {_relative(path) for path in sources()}


def test_every_rule_of_ours_tells_the_bad_line_from_the_good(tmp_path: Path) -> None:
    report = json.loads(
        run(
            "semgrep",
            *("scan", "--test", "--config", SEMGREP_RULES, SEMGREP_CASES, "--json"),
            *("--metrics=off", "--disable-version-check"),
            home=tmp_path,
        )
    )

    results = {
        rule: check for file in report["results"].values() for rule, check in file["checks"].items()
    }
    assert report["config_missing_tests"] == []
    assert report["config_with_errors"] == []
    assert results.keys() == set(_rules())
    assert {rule: check for rule, check in results.items() if not check["passed"]} == {}


def test_every_rule_of_ours_has_a_bad_and_a_good_example() -> None:
    marked = {
        mark: {
            rule
            for case in SEMGREP_CASES.glob("*.py")
            for rules in re.findall(rf"# {mark}: (.+)", case.read_text())
            for rule in rules.split(", ")
        }
        for mark in ("ruleid", "ok")
    }

    assert marked["ruleid"] == set(_rules())
    assert marked["ok"] == set(_rules())


def test_every_rule_of_ours_reaches_the_code_it_guards(tmp_path: Path) -> None:
    """`semgrep --test` leaves out `paths`, so that a rule could pass there and guard nothing."""
    project = tmp_path / "project"
    for folder in ("functions/any", "shared/millrace/registry", "shared/millrace/http"):
        (project / folder).mkdir(parents=True)
        for case in SEMGREP_CASES.glob("*.py"):
            shutil.copy(case, project / folder / f"bad_{case.name}")

    report = semgrep(".", folder=project, home=tmp_path)

    assert {r["check_id"].rsplit(".", 1)[1] for r in report["results"]} == set(_rules())


def test_every_exception_in_the_code_names_its_rule_and_its_reason() -> None:
    for comment in comments():
        assert comment.rule in _rules() or re.fullmatch(r"B\d+", comment.rule), comment
        assert comment.reason, comment


def test_security_page_shows_every_rule_and_every_exception() -> None:
    """Written by `python -m tests.infra.scans`."""
    assert written() == shown()


def _rules() -> list[str]:
    return [rule["id"] for rule in semgrep_rules()]


def _relative(path: Path) -> str:
    return str(path.relative_to(ROOT))

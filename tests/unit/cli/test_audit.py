"""`millrace audit --verify`: request after request, every fault told."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from millrace_cli import audit
from millrace_cli.app import app
from millrace_cli.exits import ExitCode

runner = CliRunner()
HASH = "ab" * 32


def part(**changes: Any) -> dict[str, Any]:
    return {
        "sound": True,
        "complete": True,
        "first": 1,
        "last": 5,
        "entries": 5,
        "anchor": f"5:{HASH}",
        "fault_count": 0,
        "faults": [],
        "next_page_token": None,
        **changes,
    }


class Answers:
    """An API that gives prepared answers, one after another."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, Any]] = []

    def get(self, path: str, **params: Any) -> dict[str, Any]:
        self.asked.append({"path": path, **{k: v for k, v in params.items() if v is not None}})
        return self.answers.pop(0)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    given = Answers()
    monkeypatch.setattr(audit, "connect", lambda _: given)
    return given


def test_a_sound_ledger_is_told_with_its_anchor(answers: Answers) -> None:
    answers.answers = [
        part(complete=False, entries=5, next_page_token="next"),
        part(first=6, last=7, entries=2, anchor=f"7:{HASH}"),
    ]

    result = runner.invoke(app, ["audit", "churn", "--verify", "--anchor", f"3:{HASH}"])

    assert result.exit_code == 0
    assert "sound: 7 entries of churn" in result.output
    assert f"anchor to keep elsewhere: 7:{HASH}" in result.output
    path = "/v1/models/churn/audit/verify"
    assert answers.asked == [
        {"path": path, "anchor": [f"3:{HASH}"]},
        {"path": path, "page_token": "next"},
    ]


def test_faults_are_named_and_have_an_exit_code(answers: Answers) -> None:
    fault = {"kind": "edited", "sequence": 4, "message": "entry 4 is not what its hash was made of"}
    answers.answers = [
        part(sound=False, fault_count=150, faults=[fault] * 100, next_page_token="next"),
        part(),
    ]

    result = runner.invoke(app, ["audit", "churn", "--verify"])

    assert result.exit_code == ExitCode.OUTCOME
    assert "150 faults in 10 entries of churn" in result.output
    assert "edited     entry 4 is not what its hash was made of" in result.output
    assert "and 50 more" in result.output


def test_a_check_for_machines_is_one_document(answers: Answers) -> None:
    answers.answers = [part(sound=False, fault_count=1, faults=[{"kind": "cut"}])]

    result = runner.invoke(app, ["audit", "churn", "--verify", "--json"])

    assert result.exit_code == ExitCode.OUTCOME
    assert json.loads(result.output) == {
        "model": "churn",
        "sound": False,
        "entries": 5,
        "anchor": f"5:{HASH}",
        "fault_count": 1,
        "faults": [{"kind": "cut"}],
    }


def test_an_anchor_without_a_check_is_a_wrong_command_line(answers: Answers) -> None:
    result = runner.invoke(app, ["audit", "churn", "--anchor", f"3:{HASH}"])

    assert result.exit_code == ExitCode.USAGE
    assert answers.asked == []


def test_the_audit_lists_who_changed_what(answers: Answers) -> None:
    entry = {
        "at": "2026-11-01T12:00:00Z",
        "actor": "ann",
        "action": "forced_promotion",
        "subject": "churn@3",
        "before": "churn@2",
        "after": "churn@3",
        "reason": "the season changed",
        "correlation_id": "",
    }
    answers.answers = [{"items": [entry], "next_page_token": None}]

    result = runner.invoke(app, ["audit", "churn"])

    assert result.exit_code == 0
    for text in ("forced promotion", "churn@2 → churn@3", "ann", "the season changed"):
        assert text in result.output

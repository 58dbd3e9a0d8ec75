"""The verb `rollout`: what it sends, what it shows, and how it watches."""

import io
import re
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from millrace.errors import InvalidRequestError, ServiceUnavailableError
from millrace_cli import rollouts
from millrace_cli.app import app
from millrace_cli.exits import ExitCode
from millrace_cli.rollouts import follow_rollout, parse_steps, rollout_panel, rollouts_table

runner = CliRunner()


def document(**changes: Any) -> dict[str, Any]:
    look = {
        "check": 3,
        "step": 1,
        "look": 2,
        "at": "2026-11-01T12:40:00Z",
        "decision": "wait",
        "why": "look 2 of 6: no breach",
        "findings": [
            {
                "condition": "errors",
                "found": "healthy",
                "text": "1.20% of its requests failed, and 1.00% of the champion's",
                "test": "t",
                "evidence": 0.42,
                "threshold": 1200.0,
                "figures": {},
            },
            {
                "condition": "traffic",
                "found": "short",
                "text": "120 requests of the challenger",
                "test": "",
                "evidence": None,
                "threshold": None,
                "figures": {},
            },
        ],
    }
    return {
        "rollout_id": "churn-7-abc",
        "model": "churn",
        "version": 7,
        "champion": 5,
        "strategy": "canary",
        "weights": [5.0, 25.0, 50.0],
        "status": "running",
        "step": 1,
        "weight": 25.0,
        "looks": 2,
        "looks_needed": 6,
        "why": "",
        "created_at": "2026-11-01T12:00:00Z",
        "changed_at": "2026-11-01T12:30:00Z",
        "steps": [
            {"step": 0, "weight": 5.0, "at": "2026-11-01T12:00:05Z"},
            {"step": 1, "weight": 25.0, "at": "2026-11-01T12:30:05Z"},
        ],
        "judgement": look,
        "judgements": [look],
        **changes,
    }


class FakeApi:
    """Answers from a list, the last for ever; keeps what was sent."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.sent: list[tuple[str, str, Any]] = []

    def get(self, path: str, **_: Any) -> Any:
        self.sent.append(("GET", path, None))
        if path.endswith("/rollouts"):
            return {"items": [document()], "next_page_token": None}
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def post(self, path: str, body: Any, **_: Any) -> Any:
        self.sent.append(("POST", path, body))
        return {"rollout_id": "churn-7-abc"}

    def close(self) -> None:
        """Nothing is open."""


def shown(what: Any) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(what)
    return console.export_text()


@pytest.mark.parametrize(
    ("text", "steps"), [("5,25,50", [5, 25, 50]), ("5%, 12.5 %", None), ("10", [10])]
)
def test_steps_are_percents(text: str, steps: list[float] | None) -> None:
    assert parse_steps(text) == (steps or [5, 12.5])


def test_steps_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="such as 5,25,50, got 'a,b'"):
        parse_steps("a,b")


def test_a_panel_says_where_it_is_and_what_the_last_look_found() -> None:
    text = shown(rollout_panel(document()))

    assert "churn@7 canary against churn@5: running" in text
    assert "● 5 %  ◉ 25 %  ○ 50 %  → champion   look 2 of 6" in text
    assert "evidence 0.42 of 1,200" in text


@pytest.mark.parametrize("status", ["paused", "held", "stalled"])
def test_a_panel_says_how_to_go_on(status: str) -> None:
    assert "millrace rollout churn --resume" in shown(rollout_panel(document(status=status)))


def test_a_table_lists_them() -> None:
    text = shown(rollouts_table([document(), document(status="rolled_back", why="3 % errors")]))

    assert "25 %" in text
    assert "rolled back" in text


def test_following_tells_each_thing_once_until_the_end() -> None:
    ended = document(status="rolled_back", why="12 % of its requests failed")
    api: Any = FakeApi(document(), ServiceUnavailableError("x"), document(), ended)
    waits: list[float] = []

    seen = list(follow_rollout(api, "churn-7-abc", pause=waits.append))

    lines = [line.plain for _, news in seen for line in news]
    assert len(lines) == len(set(lines)) == 4
    assert re.fullmatch(r"▶ 12:00:05  step 1 of 3: 5 %", lines[0])
    assert lines[-1] == "  rolled back: 12 % of its requests failed"
    assert len(waits) == 3


@pytest.mark.parametrize(
    "arguments",
    [["--pause", "--abort"], ["--to", "7", "--abort"], ["--steps", "5"], ["--list", "--resume"]],
)
def test_options_that_do_not_go_together_are_refused(arguments: list[str]) -> None:
    done = runner.invoke(app, ["rollout", "churn", *arguments])

    assert done.exit_code == ExitCode.INVALID


def test_a_start_sends_what_was_said_and_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    api = FakeApi(document())
    monkeypatch.setattr(rollouts, "connect", lambda _: api)

    done = runner.invoke(
        app, ["rollout", "churn", "--to", "7", "--strategy", "canary", "--steps", "5,25,50"]
    )

    assert done.exit_code == 0, done.output
    body = {"version": 7, "reason": "", "strategy": "canary", "steps": [5.0, 25.0, 50.0]}
    assert api.sent[0] == ("POST", "/v1/models/churn/rollouts", body)


@pytest.mark.parametrize("verb", ["pause", "resume", "abort"])
def test_a_verb_goes_to_the_rollout_under_way(monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    api = FakeApi(document())
    monkeypatch.setattr(rollouts, "connect", lambda _: api)

    done = runner.invoke(app, ["rollout", "churn", f"--{verb}", "--reason", "because"])

    assert done.exit_code == 0, done.output
    assert ("POST", f"/v1/rollouts/churn-7-abc/{verb}", {"reason": "because"}) in api.sent


def test_following_to_another_end_than_a_promotion_has_its_exit_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    api = FakeApi(document(status="rolled_back", why="slow"))
    monkeypatch.setattr(rollouts, "connect", lambda _: api)

    done = runner.invoke(app, ["rollout", "churn", "--follow"])

    assert done.exit_code == ExitCode.OUTCOME
    assert "rolled back: slow" in done.output

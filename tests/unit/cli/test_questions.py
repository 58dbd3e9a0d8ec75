"""Questions of the record on the command line: what is printed is true, and readable."""

import csv
import io
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from millrace.serving.identity import Role, new_prediction_id
from millrace_cli import console
from millrace_cli.app import app
from millrace_cli.exits import ExitCode
from tests.fakes import cases
from tests.fakes.record import Record

REASON = "complaints"


@pytest.fixture(scope="module")
def record() -> Record:
    """churn@1 to churn@3, and a rollback to the second."""
    made = Record()
    for number in (1, 2, 3):
        cases.champion(made.registry, number)
    made.registry.rollback("churn", actor="ann", reason=REASON)
    made.document(2, 3)
    return made


@pytest.fixture
def record_served(record: Record, monkeypatch: pytest.MonkeyPatch) -> Record:
    record.serve(monkeypatch)
    # Made at import, for the terminal or the log of that time.
    monkeypatch.setattr(console.out, "_width", 100)
    monkeypatch.setattr(console.err, "_width", 100)
    return record


pytestmark = pytest.mark.usefixtures("record_served")


def run(*words: str) -> Result:
    """One command."""
    return CliRunner().invoke(app, list(words))


def test_a_comparison_shows_what_differs_and_on_which_rows_it_was_measured() -> None:
    shown = run("compare", "churn@2", "churn@3")

    assert shown.exit_code == 0
    assert "+0.1100 [+0.0200, +0.2000]" in shown.output
    assert "both on the test rows of churn@3" in shown.output
    assert "age.missing_share" in shown.output
    assert "packages.numpy" in shown.output
    assert max(map(len, shown.output.splitlines())) <= 100


def test_a_comparison_without_documents_says_what_is_missing() -> None:
    shown = run("compare", "churn@1", "churn")

    assert shown.exit_code == 0
    assert "not measured on the same rows" in shown.output
    assert "environment of churn@1: it is not stored any more" in shown.output


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("compare", "churn@1", "other@2"), ExitCode.INVALID, "two versions of one model"),
        (("compare", "churn@1", "churn@1"), ExitCode.INVALID, "twice"),
        (("compare", "churn@1", "churn@8"), ExitCode.NOT_FOUND, "no version 8"),
        (("history", "churn", "--at", "noon"), ExitCode.INVALID, "ISO 8601"),
        (("history", "churn", "--at", "2026-01-01"), ExitCode.NOT_FOUND, "its first was churn@1"),
        (("history", "churn", "--at", "2027-01-01"), ExitCode.INVALID, "a time that has come"),
        (("history", "churn", "--page-token", "x"), ExitCode.INVALID, "page_token"),
        (("history", "nobody"), ExitCode.NOT_FOUND, "no model 'nobody'"),
        (("lineage", "churn@9"), ExitCode.NOT_FOUND, "no version 9"),
        (("audit", "churn", "--since", "now"), ExitCode.INVALID, "ISO 8601"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, tuple) else "",
)
def test_what_cannot_be_answered_says_why(
    words: tuple[str, ...], code: ExitCode, message: str
) -> None:
    shown = run(*words)
    as_json = run(*words, "--json")

    assert shown.exit_code == as_json.exit_code == code
    assert message in " ".join(shown.output.split())
    assert message in json.loads(as_json.stdout)["message"]


def test_the_history_names_decisions_and_the_end_of_each_period() -> None:
    lines = run("history", "churn").output.splitlines()

    assert lines[1].split()[2:] == ["now", "@2", "rolled", "back", "ann"]
    assert REASON in lines[2]
    assert [line.split()[4] for line in lines[3:]] == ["@3", "@2", "@1"]


def test_a_moment_without_a_zone_is_utc_and_said_so() -> None:
    bare = run("history", "churn", "--at", "2026-11-01T12:00:15")
    zoned = run("history", "churn", "--at", "2026-11-01T13:00:15+01:00")

    assert bare.output == zoned.output
    assert "live at 2026-11-01 12:00:15 UTC" in bare.output
    assert "churn@2" in bare.output


def test_pages_go_on_where_the_last_one_ended() -> None:
    seen: list[int] = []
    words: tuple[str, ...] = ()
    for _ in range(9):
        page = json.loads(run("history", "churn", "--limit", "1", "--json", *words).stdout)
        seen += [p["version"] for p in page["items"]]
        if page["next_page_token"] is None:
            break
        words = ("--page-token", page["next_page_token"])

    assert seen == [2, 3, 2, 1]


def test_a_lineage_is_a_tree_and_a_picture(tmp_path: Path) -> None:
    picture = tmp_path / "lineage.svg"

    shown = run("lineage", "churn@3", "--svg", str(picture))

    assert shown.exit_code == 0
    for words in ("file-3.csv", "dataset version d3", "spec churn/1", "the champion then, churn@2"):
        assert words in shown.output
    assert "2026-11-01 12:00:21 to 2026-11-01 12:00:22" in shown.output
    assert picture.read_text().startswith("<svg")


def test_a_prediction_shows_who_put_its_version_there(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = record.registry.list_live("churn").items[0]
    monkeypatch.setattr("time.time_ns", lambda: int(live.at.timestamp() * 1e9) + 10**9)

    shown = run("prediction", "churn", new_prediction_id(Role.CHAMPION, live.sequence))

    assert shown.exit_code == 0
    assert "churn@2, champion" in shown.output
    assert f"rolled back by ann, ledger entry {live.sequence}" in shown.output
    assert REASON in shown.output
    assert run("prediction", "churn", "7").exit_code == ExitCode.INVALID


def test_the_audit_is_csv_with_every_column() -> None:
    shown = run("audit", "churn", "--action", "promoted", "--csv", "--limit", "2")

    rows = list(csv.DictReader(io.StringIO(shown.stdout)))
    assert [r["subject"] for r in rows] == ["churn@3", "churn@2"]
    assert all(len(r["hash"]) == 64 for r in rows)
    assert "--page-token" in shown.stderr


def test_listings_filter() -> None:
    assert "churn" not in run("models", "--no-champion").output
    assert "@2" in run("models", "--champion", "--prefix", "ch").output
    assert run("runs", "churn", "--outcome", "promoted").output.count("churn-") == 3
    assert "churn-" not in run("runs", "churn", "--until", "2020-01-01").output

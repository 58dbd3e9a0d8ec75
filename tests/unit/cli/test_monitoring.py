"""The verbs `monitor` and `alarms`, and the routes behind them, on a registry in memory."""

import io
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from millrace.aws.sns import Notice
from millrace.monitoring.findings import Finding, Verdict
from millrace.monitoring.hours import WindowCounts
from millrace.monitoring.loop import take_up
from millrace.monitoring.report import conclude
from millrace.monitoring.retraining import Retraining, Standing
from millrace.monitoring.windows import WindowBook
from millrace_cli.app import app
from millrace_cli.exits import ExitCode
from millrace_cli.monitoring import alarms_view, monitor_view, sparkline, windows_view
from tests.fakes import cases
from tests.fakes.monitoring import drifted, finding, window
from tests.fakes.record import Record

runner = CliRunner()


class Silent:
    """Tells nobody."""

    def notify(self, notice: Notice) -> None:
        """See `Notifier.notify`."""


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Record:
    record = Record()
    cases.champion(record.registry, 1)
    record.serve(monkeypatch)
    return record


@pytest.fixture(scope="module")
def rings() -> Iterator[Record]:
    """A model with one open alarm, for what changes nothing."""
    with pytest.MonkeyPatch.context() as patched:
        record = Record()
        cases.champion(record.registry, 1)
        record.serve(patched)
        concluded(record, window(0, finding()))
        yield record


def concluded(record: Record, report: Any) -> None:
    record.now = report.made_at
    conclude(
        report,
        episodes=record.episodes,
        objects=record.store,
        bucket=cases.ARTIFACT_BUCKET,
        notifier=Silent(),
        link=str,
    )


def millrace(*arguments: str) -> Result:
    return runner.invoke(app, list(arguments), env={"COLUMNS": "160"})


def shown(view: Any, width: int = 150) -> str:
    page = io.StringIO()
    Console(file=page, width=width, highlight=False).print(view)
    return page.getvalue()


def test_a_model_that_needs_attention_is_exit_code_six(record: Record) -> None:
    concluded(record, drifted())

    answer = millrace("monitor", "churn")

    assert answer.exit_code == ExitCode.OUTCOME
    assert "needs attention" in answer.output
    assert "report: https://artifact-bucket/monitor/churn/2026-11-10T1800Z.html" in answer.output


def test_a_model_that_is_well_is_exit_code_zero(record: Record) -> None:
    concluded(record, window(0))

    answer = millrace("monitor", "churn")

    assert answer.exit_code == ExitCode.OK
    assert "as expected" in answer.output


def test_the_terminal_shows_what_the_page_shows() -> None:
    text = shown(monitor_view(drifted(summary="How it is.").model_dump(mode="json")))

    for words in (
        "How it is.",
        "38,204 (+9% on last week)",
        "61 (0.16%)",
        "p50 3.9 ms, p95 9.6 ms",
        "$8.41 this month",
        "14 captured predictions never arrived",
        "measured 0.961 [0.957, 0.965]",
        "estimated 0.963 [0.958, 0.968]",
        "labels of 2,000 of 7,500 rows (27%)",
        "it cannot see it change",
        "region = north",
        "income",
        "██████ → ▃▃▄▄▆█",
        "feature drift: income  moved by 0.42 against training",
        "Retraining started with 21,400 labelled rows",
    ):
        assert words in text


def test_nothing_breaks_when_there_is_nothing_to_show() -> None:
    report = window(0, state="unknown", refused="12 rows", summary="Too little.")

    text = shown(monitor_view(report.model_dump(mode="json")))

    assert "not judged: 12 rows" in text
    assert "too little to say" in text


def test_names_are_no_markup() -> None:
    report = drifted("[bold]x[/]").model_dump(mode="json")

    assert "[bold]x[/]income" in shown(monitor_view(report))


def test_json_is_the_whole_document(record: Record) -> None:
    concluded(record, drifted())

    answer = millrace("monitor", "churn", "--json")

    document = json.loads(answer.output)
    assert document["report"]["format"] == 1
    assert document["report"]["episodes"][0]["kind"] == "performance"
    assert answer.exit_code == ExitCode.OUTCOME


def test_an_earlier_window_is_found_by_its_begin(record: Record) -> None:
    for number in (0, 1):
        concluded(record, window(number))

    answer = millrace("monitor", "churn", "--window", "2026-11-01", "--json")

    assert json.loads(answer.output)["report"]["since"] == "2026-11-01T00:00:00Z"
    assert millrace("monitor", "churn", "--window", "2020-01-01").exit_code == ExitCode.NOT_FOUND


@pytest.mark.parametrize(
    ("model", "said"), [("churn", "no monitoring report yet"), ("other", "no model")]
)
def test_what_is_not_there_is_said(record: Record, model: str, said: str) -> None:
    answer = millrace("monitor", model)

    assert answer.exit_code == ExitCode.NOT_FOUND
    assert said in answer.output


def test_the_one_open_alarm_needs_no_name(record: Record) -> None:
    concluded(record, window(0, finding()))

    listed = millrace("alarms", "churn")
    answer = millrace("alarms", "churn", "acknowledge", "--reason", "looking into it")

    assert "feature drift: age" in listed.output
    assert answer.exit_code == ExitCode.OK
    (episode,) = record.episodes.open_of("churn")
    assert episode.state == "acknowledged"
    assert episode.history[-1].text == "looking into it"


def test_an_alarm_says_why_it_started_no_training(record: Record) -> None:
    concluded(record, window(0, finding(kind="performance", subject="roc_auc")))
    (episode,) = record.episodes.open_of("churn")
    retraining = Retraining(
        table=record.table,
        standing=lambda _: Standing(episode.opened_at, None, ""),
        labelled=lambda *_: 12,
        spent=lambda *_: 0.0,
        ask=lambda _: {},
        notifier=Silent(),
        clock=lambda: record.now,
    )

    undecided = millrace("alarms", "churn", "show")
    take_up(
        cases.spec(retrain={"on_drift": True}),
        [episode],
        retraining=retraining,
        episodes=record.episodes,
    )
    decided = millrace("alarms", "churn", "show")
    machine = json.loads(millrace("alarms", "churn", "show", "--json").output)

    assert "retraining" not in undecided.output
    assert "none: 12 rows predicted since" in decided.output
    assert (machine["training"]["outcome"], machine["training"]["code"]) == (
        "refuse",
        "too_few_rows",
    )


def test_of_several_alarms_one_must_be_named(record: Record) -> None:
    concluded(record, drifted())

    answer = millrace("alarms", "churn", "acknowledge")

    assert answer.exit_code == ExitCode.INVALID
    assert "2 alarms are open, name one:" in answer.output


def test_a_silence_lasts_as_long_as_is_said(record: Record) -> None:
    concluded(record, window(0, finding()))
    until = record.now.replace(day=20).isoformat()

    answer = millrace("alarms", "churn", "silence", "--until", until, "--json")

    assert answer.exit_code == ExitCode.OK
    assert json.loads(answer.output)["silenced_until"] == until.replace("+00:00", "Z")


def test_widening_and_taking_it_back(record: Record) -> None:
    concluded(record, window(0, finding()))

    assert millrace("alarms", "churn", "widen", "--to", "0.5").exit_code == ExitCode.OK
    assert record.episodes.widened("churn") == {"feature_drift:age": 0.5}
    assert millrace("alarms", "churn", "widen", "--to", "spec").exit_code == ExitCode.OK
    assert record.episodes.widened("churn") == {}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["silence"], 3, "give one of --until and --for"),
        (["silence", "--for", "3x"], 3, "--for: expected a number with s, m, h or d"),
        (["silence", "--for", "91d"], 3, "within the next 90 days"),
        (["widen", "--to", "much"], 3, "give --to with the effect to tolerate"),
        (["widen", "--to", "0.1"], 3, "more than the effect it has now, 0.31"),
        (["widen", "--to", "nan"], 3, "to"),
        (["acknowledge", "--to", "1"], 3, "--to belongs to widen"),
        (["widen", "--for", "3d"], 3, "belong to silence"),
        (["close"], 3, "expected one of acknowledge, silence, widen, show"),
        (["show", "20200101T0000-0123456789"], 4, "has no alarm"),
        (["show", "no-id"], 4, ""),
    ],
)
def test_what_cannot_be_done_is_said(
    rings: Record, arguments: list[str], code: int, said: str
) -> None:
    answer = millrace("alarms", "churn", *arguments)

    assert answer.exit_code == code
    assert said in answer.output


def test_closed_alarms_are_listed_when_asked_for(record: Record) -> None:
    concluded(record, window(0, finding()))
    for number in (1, 2, 3):
        concluded(record, window(number, finding(verdict="ok")))

    assert "no alarm of churn is open" in millrace("alarms", "churn").output
    assert "closed" in millrace("alarms", "churn", "--all").output
    assert millrace("alarms", "churn", "acknowledge").exit_code == ExitCode.NOT_FOUND


def test_a_closed_alarm_is_a_conflict(record: Record) -> None:
    concluded(record, window(0, finding()))
    (episode,) = record.episodes.open_of("churn")
    for number in (1, 2, 3):
        concluded(record, window(number, finding(verdict="ok")))

    answer = record.ask("POST", f"/v1/models/churn/alarms/{episode.id}/acknowledge", json={})

    assert answer.status_code == 409


def test_alarms_are_paged_and_filtered(record: Record) -> None:
    concluded(record, drifted())

    first = record.ask("GET", "/v1/models/churn/alarms", params={"limit": 1}).json()
    then = record.ask(
        "GET",
        "/v1/models/churn/alarms",
        params={"limit": 1, "page_token": first["next_page_token"]},
    ).json()
    closed = record.ask("GET", "/v1/models/churn/alarms", params={"state": "closed"}).json()

    assert {first["items"][0]["kind"], then["items"][0]["kind"]} == {"performance", "feature_drift"}
    assert closed["items"] == []
    assert record.ask("GET", "/v1/models/other/alarms").status_code == 404


def test_a_silence_needs_a_zone(record: Record) -> None:
    concluded(record, window(0, finding()))
    (episode,) = record.episodes.open_of("churn")

    answer = record.ask(
        "POST",
        f"/v1/models/churn/alarms/{episode.id}/silence",
        json={"until": "2026-11-20T00:00:00"},
    )

    assert answer.status_code == 422
    assert "with its zone" in answer.text


@pytest.mark.parametrize(
    ("values", "line"),
    [([], ""), ([0, 0], ""), ([1, 2, 4], "▃▅█"), ([3, 3], "██")],
)
def test_values_become_blocks(values: list[float], line: str) -> None:
    assert sparkline(values) == line


def test_no_alarm_at_all_is_said() -> None:
    assert "churn had no alarm" in shown(alarms_view("churn", [], everything=True))


# ── Windows ─────────────────────────────────────────────────────────────────────────────────────


def judged(record: Record, number: int, version: int = 1) -> None:
    """The window of an hour, as the monitor keeps it."""
    report = window(number, *(() if number % 2 else (finding(), finding(kind="missing"))))
    verdict = Verdict(
        "churn",
        version,
        report.since,
        report.until,
        5_000,
        "ok" if number % 2 else "alarm",
        "why",
        tuple(
            Finding(
                kind="feature_drift",
                subject=name,
                statistic="psi",
                value=0.3,
                first_seen=report.since,
                persisted=2,
                verdict="alarm",
            )
            for name in ("age", "plan")
            if not number % 2
        ),
    )
    counts = WindowCounts("churn", version, report.since, report.until, requests=90, rows=5_000)
    WindowBook(record.table, timedelta(days=90)).record(
        verdict, counts, None, report.made_at, drifted() if number == 2 else report
    )


def test_windows_are_listed_the_newest_first_and_paged(record: Record) -> None:
    for number in range(4):
        judged(record, number)

    first = record.ask("GET", "/v1/models/churn/monitor/windows", params={"limit": 3}).json()
    then = record.ask(
        "GET",
        "/v1/models/churn/monitor/windows",
        params={"limit": 3, "page_token": first["next_page_token"]},
    ).json()

    begun = [one["since"] for one in (*first["items"], *then["items"])]
    assert begun == sorted(begun, reverse=True)
    assert (len(begun), then["next_page_token"]) == (4, None)
    assert first["items"][1]["findings"] == {"feature_drift": {"alarm": 2, "watch": 0}}
    assert first["items"][0]["findings"] == {}
    assert record.ask("GET", "/v1/models/other/monitor/windows").status_code == 404
    wrong = record.ask("GET", "/v1/models/churn/monitor/windows", params={"page_token": "x"})
    assert wrong.status_code == 422


def test_windows_are_filtered_by_time_and_version(record: Record) -> None:
    for number in range(4):
        judged(record, number, version=1 + number // 3)

    def listed(**wanted: Any) -> list[str]:
        answer = record.ask("GET", "/v1/models/churn/monitor/windows", params=wanted).json()
        return [one["since"] for one in answer["items"]]

    begun = listed()
    assert listed(version=2) == begun[:1]
    assert listed(since=begun[1]) == begun[:2]
    assert listed(until=begun[1]) == begun[1:]
    assert listed(since=begun[2], until=begun[1]) == begun[1:3]
    assert listed(since=begun[0], until=begun[3]) == []


def test_windows_are_shown_in_the_terminal(record: Record) -> None:
    for number in range(3):
        judged(record, number)

    answer = millrace("monitor", "churn", "--windows", "--since", "2026-11-01")

    assert answer.exit_code == ExitCode.OK
    machine = json.loads(millrace("monitor", "churn", "--history", "--json").output)
    assert [one["version"] for one in machine["items"]] == [1, 1, 1]
    head, newest, before, _ = shown(windows_view("churn", machine["items"])).splitlines()
    assert "ROC AUC measured" in head
    assert "rings: feature drift ×2" in newest
    assert "5,000" in newest
    assert "nothing" in before
    assert "no window" in millrace("monitor", "churn", "--windows", "--since", "2027-01-01").output


@pytest.mark.parametrize(
    "arguments",
    [["--since", "2026-11-01"], ["--version", "2"], ["--windows", "--window", "2026-11-01"]],
)
def test_options_of_a_listing_go_with_it(record: Record, arguments: list[str]) -> None:
    assert millrace("monitor", "churn", *arguments).exit_code == ExitCode.INVALID
    assert record is not None

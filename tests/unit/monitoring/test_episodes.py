"""Alarms: opened once, told once, changed by people, and closed by themselves."""

from datetime import timedelta

import pytest

from millrace.errors import (
    ConditionFailedError,
    InvalidRequestError,
    InvalidTransitionError,
    NotFoundError,
)
from millrace.monitoring.causes import MEANING, likely_cause, next_step
from millrace.monitoring.document import Action
from millrace.monitoring.episode_records import TABLE, EpisodeEvent, EpisodeState, transition
from millrace.monitoring.episodes import FORGOTTEN_WINDOWS, Episodes, Observed
from millrace.registry.ledger import AUDIT, to_entry
from tests.fakes.clock import FakeClock, counting_ids
from tests.fakes.monitoring import START, WINDOW, finding, window
from tests.fakes.table import FakeTable

ALARM = finding()
OK = finding(verdict="ok", effect=0.0)
ANN = {"actor": "user:ann"}


class Watch:
    """Episodes on a table in memory."""

    def __init__(self) -> None:
        self.table = FakeTable()
        self.clock = FakeClock()
        self.episodes = Episodes(self.table, clock=self.clock, ids=counting_ids())

    def observe(self, number: int, *findings: object, **changes: object) -> Observed:
        """Observes a window, and tells people."""
        observed = self.episodes.observe(window(number, *findings, **changes))  # type: ignore[arg-type]
        self.episodes.told("churn", observed.untold)
        return observed

    def news(self, number: int, *findings: object, **changes: object) -> list[tuple[str, str]]:
        """What people are told of a window."""
        observed = self.observe(number, *findings, **changes)
        return [(news, episode.subject) for news, episode in observed.untold]

    @property
    def only(self) -> str:
        """The id of the one episode there is."""
        (episode,) = self.episodes.list_episodes("churn").items
        return episode.id

    @property
    def actions(self) -> list[str]:
        """What the ledger says, the oldest first."""
        page = self.table.query("MODEL#churn", prefix=AUDIT)
        return [to_entry(item).action for item in page.items]


@pytest.fixture
def watch() -> Watch:
    return Watch()


def test_an_alarm_opens_one_episode_and_people_hear_of_it_once(watch: Watch) -> None:
    first = watch.news(0, ALARM)
    second = watch.news(1, ALARM)

    assert first == [("opened", "age")]
    assert second == []
    (episode,) = watch.episodes.open_of("churn")
    assert (episode.state, episode.windows) == (EpisodeState.OPEN, 2)
    assert episode.last_window == START + WINDOW
    assert watch.actions == ["alarm_opened"]


def test_what_only_moved_opens_nothing(watch: Watch) -> None:
    assert watch.news(0, finding(verdict="watch"), finding("missing", verdict="ok")) == []
    assert watch.episodes.list_episodes("churn").items == ()


def test_the_same_window_again_changes_nothing(watch: Watch) -> None:
    watch.observe(0, ALARM)
    before = watch.episodes.get("churn", watch.only)
    writes = watch.table.calls.count("transact")

    assert watch.news(0, ALARM) == []
    assert watch.episodes.get("churn", watch.only) == before
    assert watch.table.calls.count("transact") == writes


def test_a_notice_that_was_never_sent_is_due_when_the_window_is_looked_at_again(
    watch: Watch,
) -> None:
    observed = watch.episodes.observe(window(0, ALARM))

    again = watch.episodes.observe(window(0, ALARM))
    watch.episodes.told("churn", again.untold)

    assert [news for news, _ in observed.untold] == ["opened"]
    assert [news for news, _ in again.untold] == ["opened"]
    assert watch.episodes.observe(window(0, ALARM)).untold == ()


def test_it_closes_by_itself_when_it_was_not_found_for_three_windows(watch: Watch) -> None:
    watch.observe(0, ALARM)

    told = [watch.news(number, OK) for number in (1, 2, 3)]

    assert told == [[], [], [("closed", "age")]]
    assert watch.episodes.open_of("churn") == ()
    closed = watch.episodes.get("churn", watch.only)
    assert closed.state is EpisodeState.CLOSED
    assert [step.event for step in closed.history] == ["opened", "closed"]
    assert watch.actions == ["alarm_opened", "alarm_closed"]


def test_what_is_found_again_begins_the_count_anew(watch: Watch) -> None:
    for number, found in enumerate((ALARM, OK, OK, finding(verdict="watch"), OK, OK)):
        watch.observe(number, found)

    assert len(watch.episodes.open_of("churn")) == 1


def test_an_older_window_that_is_computed_anew_takes_the_place_of_what_it_said(
    watch: Watch,
) -> None:
    watch.observe(0, ALARM)
    watch.observe(2, ALARM)
    watch.observe(1, OK)
    watch.observe(3, OK)
    watch.observe(4, OK)

    assert watch.news(2, OK) == [("closed", "age")]
    assert watch.episodes.get("churn", watch.only).windows == 1


def test_a_window_that_an_end_was_decided_on_opens_nothing_any_more(watch: Watch) -> None:
    for number, found in enumerate((ALARM, OK, OK, OK)):
        watch.observe(number, found)

    assert watch.news(2, ALARM) == []
    assert watch.news(4, ALARM) == [("opened", "age")]
    assert len(watch.episodes.list_episodes("churn").items) == 2


def test_performance_without_labels_neither_goes_on_nor_ends(watch: Watch) -> None:
    watch.observe(0, finding("performance", "roc_auc"))

    for number in range(1, FORGOTTEN_WINDOWS):
        assert watch.news(number) == []
    assert watch.news(FORGOTTEN_WINDOWS) == [("closed", "roc_auc")]


def test_a_window_that_was_refused_ends_nothing(watch: Watch) -> None:
    watch.observe(0, ALARM)

    for number in (1, 2, 3, 4):
        watch.observe(number, refused="12 rows", state="unknown")

    assert len(watch.episodes.open_of("churn")) == 1


@pytest.mark.parametrize("kind", ["feature_drift", "multivariate", "latency", "missing"])
def test_a_window_in_which_it_could_not_be_compared_ends_nothing(watch: Watch, kind: str) -> None:
    """A version without a baseline, or without an earlier week, tells nothing of it."""
    watch.observe(0, finding(kind))

    for number in range(1, 6):
        assert watch.news(number) == []

    assert len(watch.episodes.open_of("churn")) == 1


def test_a_drift_that_is_over_ends_though_last_week_was_another(watch: Watch) -> None:
    watch.observe(0, ALARM)
    of_last_week = finding(verdict="watch", against="last_week")
    of_the_season = finding(verdict="watch", against="same_hour")

    told = [watch.news(number, OK, of_last_week, of_the_season) for number in (1, 2, 3)]

    assert told[-1] == [("closed", "age")]


def test_a_silenced_alarm_is_told_again_when_the_silence_is_over_and_it_still_is(
    watch: Watch,
) -> None:
    watch.observe(0, ALARM)
    until = watch.clock.now + timedelta(hours=1)
    watch.episodes.silence("churn", watch.only, until, **ANN)

    during = watch.news(1, ALARM)
    watch.clock.now = until
    after = watch.news(2, ALARM)

    assert (during, after) == ([], [("woken", "age")])
    assert watch.episodes.get("churn", watch.only).state is EpisodeState.OPEN


def test_the_end_of_a_silenced_alarm_is_told_to_nobody(watch: Watch) -> None:
    watch.observe(0, ALARM)
    watch.episodes.silence("churn", watch.only, watch.clock.now + timedelta(days=3), **ANN)

    told = [watch.news(number, OK) for number in (1, 2, 3)]

    assert told == [[], [], []]
    assert watch.episodes.open_of("churn") == ()


def test_a_widened_alarm_ends_and_opens_only_beyond_what_is_tolerated(watch: Watch) -> None:
    watch.observe(0, ALARM)
    watch.episodes.widen("churn", watch.only, 0.4, reason="a campaign", **ANN)
    for number in (1, 2, 3):
        watch.observe(number, ALARM)

    assert watch.episodes.open_of("churn") == ()
    assert watch.episodes.widened("churn") == {"feature_drift:age": 0.4}
    assert watch.news(4, finding(effect=0.39)) == []
    assert watch.news(5, finding(effect=0.41)) == [("opened", "age")]


def test_a_widening_can_be_taken_back_after_the_end(watch: Watch) -> None:
    watch.observe(0, ALARM)
    only = watch.only
    watch.episodes.widen("churn", only, 0.4, **ANN)
    for number in (1, 2, 3):
        watch.observe(number, ALARM)

    watch.episodes.widen("churn", only, None, **ANN)

    assert watch.episodes.widened("churn") == {}
    assert watch.news(4, ALARM) == [("opened", "age")]


@pytest.mark.parametrize("to", [0.31, 0.0, -1.0, float("nan"), float("inf")])
def test_widening_to_what_would_ring_on_is_refused(watch: Watch, to: float) -> None:
    watch.observe(0, ALARM)

    with pytest.raises(InvalidRequestError, match="more than the effect it has now, 0.31"):
        watch.episodes.widen("churn", watch.only, to, **ANN)


@pytest.mark.parametrize("days", [-1, 0, 91])
def test_a_silence_ends_within_ninety_days(watch: Watch, days: int) -> None:
    watch.observe(0, ALARM)

    with pytest.raises(InvalidRequestError, match="within the next 90 days"):
        watch.episodes.silence("churn", watch.only, watch.clock.now + timedelta(days=days), **ANN)


def test_the_ledger_says_who_did_what_and_why(watch: Watch) -> None:
    watch.observe(0, ALARM)

    watch.episodes.acknowledge("churn", watch.only, actor="user:ann", reason="I look into it")
    watch.episodes.acknowledge("churn", watch.only, actor="user:ann", reason="I look into it")

    page = watch.table.query("MODEL#churn", prefix=AUDIT)
    last = to_entry(page.items[-1])
    assert watch.actions == ["alarm_opened", "alarm_acknowledged"]
    assert (last.actor, last.reason, last.before, last.after) == (
        "user:ann",
        "I look into it",
        "open",
        "acknowledged",
    )
    assert (last.facts["kind"], last.facts["subject"]) == ("feature_drift", "age")


def test_a_closed_alarm_cannot_be_changed(watch: Watch) -> None:
    for number, found in enumerate((ALARM, OK, OK, OK)):
        watch.observe(number, found)

    with pytest.raises(InvalidTransitionError, match="expected one that is open"):
        watch.episodes.acknowledge("churn", watch.only, **ANN)


def test_an_alarm_that_is_not_there_is_not_found(watch: Watch) -> None:
    with pytest.raises(NotFoundError, match="has no alarm"):
        watch.episodes.get("churn", "20261101T0000-0123456789")


def test_an_episode_notes_one_retraining_and_keeps_it(watch: Watch) -> None:
    watch.observe(0, ALARM)

    first = watch.episodes.note_retraining("churn", watch.only, "churn-run1", text="AUC fell")
    second = watch.episodes.note_retraining("churn", watch.only, "churn-run2", text="again")

    assert (first.run_id, second.run_id) == ("churn-run1", "churn-run1")
    assert watch.actions == ["alarm_opened", "alarm_retraining"]


def test_who_changes_an_episode_meanwhile_is_not_overwritten(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch.observe(0, ALARM)
    only = watch.only
    rival = Episodes(watch.table, clock=watch.clock, ids=counting_ids("rival"))
    transact = watch.table.transact
    raced: list[str] = []

    def slow(writes: object, what: str) -> None:
        if not raced:
            raced.append(what)
            rival.acknowledge("churn", only, actor="user:bob")
        transact(writes, what)  # type: ignore[arg-type]

    monkeypatch.setattr(watch.table, "transact", slow)
    until = watch.clock.now + timedelta(days=1)
    watch.episodes.silence("churn", only, until, **ANN)

    episode = watch.episodes.get("churn", only)
    assert [(s.event, s.by) for s in episode.history[1:]] == [
        ("acknowledged", "user:bob"),
        ("silenced", "user:ann"),
    ]


def test_a_crash_before_the_write_leaves_nothing_half_done(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(writes: object, what: str) -> None:
        raise RuntimeError("the process ends")

    with monkeypatch.context() as patched:
        patched.setattr(watch.table, "transact", crash)
        with pytest.raises(RuntimeError):
            watch.observe(0, ALARM)

    assert watch.episodes.list_episodes("churn").items == ()
    assert watch.news(0, ALARM) == [("opened", "age")]


def test_writes_assume_what_was_read(watch: Watch) -> None:
    watch.observe(0, ALARM)
    stale = watch.episodes.get("churn", watch.only)
    watch.episodes.acknowledge("churn", watch.only, **ANN)

    with pytest.raises(ConditionFailedError):
        watch.episodes._write(None, None, stale, stale, "write", "id", "user:eve", None, "")


def test_the_worst_of_several_references_counts(watch: Watch) -> None:
    calm = finding(verdict="ok", effect=0.0, against="last_week")

    assert watch.news(0, ALARM, calm) == [("opened", "age")]


def test_what_matters_most_to_users_is_told_first(watch: Watch) -> None:
    told = watch.news(0, ALARM, finding("performance", "roc_auc"), finding("errors", "requests"))

    assert [subject for _, subject in told] == ["requests", "roc_auc", "age"]


def test_every_edge_of_the_table_is_taken_and_nothing_leaves_the_end() -> None:
    for (state, event), after in TABLE.items():
        assert transition(state, event, "e") is after
    for event in EpisodeEvent:
        with pytest.raises(InvalidTransitionError):
            transition(EpisodeState.CLOSED, event, "e")


@pytest.mark.parametrize("kind", MEANING)
def test_every_kind_of_alarm_has_a_cause_and_a_next_step(kind: str) -> None:
    found = finding(kind, "age")

    assert likely_cause(found, window(0, found))
    assert next_step(found, window(0, found))


def test_a_promotion_in_the_window_is_the_likely_cause_of_moved_scores() -> None:
    found = finding("score_drift", "scores")
    promoted = Action(at=START, kind="promotion", text="churn@3 became champion", by="pipeline")

    assert "churn@3 became champion" in likely_cause(found, window(0, found, actions=(promoted,)))
    assert "their mix changed" in likely_cause(found, window(0, found))


def test_many_features_that_moved_together_are_a_population() -> None:
    found = [finding(subject=name) for name in ("age", "income", "debt")]

    assert "another population" in likely_cause(found[0], window(0, *found))
    assert "its source" in likely_cause(found[0], window(0, found[0]))

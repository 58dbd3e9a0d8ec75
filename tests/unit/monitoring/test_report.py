"""The monitoring report: whole, self-contained, safe whatever names users choose, and told once."""

import re
from dataclasses import dataclass, field
from typing import Literal

import pytest

from millrace.aws.sns import Notice
from millrace.errors import ArtifactError
from millrace.layout import latest_monitor_report_key, monitor_report_key
from millrace.monitoring.archive import latest, of_window
from millrace.monitoring.document import Distribution, Feature, Interval, MonitorReport
from millrace.monitoring.episodes import Episodes, Observed
from millrace.monitoring.report import conclude, dollars, milliseconds, render, share
from tests.fakes.clock import FakeClock, counting_ids
from tests.fakes.monitoring import START, WINDOW, drifted, finding, window
from tests.fakes.pages import HOSTILE, Page
from tests.fakes.store import FakeStore
from tests.fakes.table import FakeTable

SECTIONS = {"first", "alarms", "performance", "drift", "quality", "traffic", "judged"}


@dataclass
class Desk:
    """Where windows are concluded.

    Attributes:
        store: What was written.
        notices: What people were told.
    """

    store: FakeStore = field(default_factory=FakeStore)
    notices: list[Notice] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Opens the alarms."""
        self.episodes = Episodes(FakeTable(), clock=FakeClock(), ids=counting_ids())

    def notify(self, notice: Notice) -> None:
        """Keeps it."""
        self.notices.append(notice)

    def conclude(self, report: MonitorReport) -> tuple[MonitorReport, Observed]:
        """Concludes a window."""
        return conclude(
            report,
            episodes=self.episodes,
            objects=self.store,
            bucket="artifacts",
            notifier=self,
            link=lambda key: f"https://artifacts/{key}",
        )


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_the_page_has_every_section_and_is_well_formed(desk: Desk) -> None:
    written, _ = desk.conclude(drifted())

    page = Page(render(written))

    assert {*SECTIONS, "segments", "cost"} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    targets = {v[1:] for k, v in page.attributes if k == "href" and v}
    assert targets <= set(page.ids)


def test_hostile_names_stay_text(desk: Desk) -> None:
    written, _ = desk.conclude(drifted(HOSTILE))

    page = Page(render(written))

    assert not page.tags & {"script", "img", "iframe", "object", "embed", "form", "link"}
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "alert(1)" in "".join(page.text)


def test_the_page_needs_nothing_else() -> None:
    page = Page(render(drifted()))

    for name, value in page.attributes:
        assert name not in {"src", "srcset", "data", "action"}
        if name == "href":
            assert (value or "").startswith("#")
    assert "url(" not in "".join(page.text)
    assert "@import" not in "".join(page.text)
    policy = [v for k, v in page.attributes if k == "content" and v and "default-src" in v]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_drawings_have_names_and_tables_have_heads_for_screen_readers() -> None:
    html = render(drifted())

    images = re.findall(r"<svg [^>]*>", html)
    assert len(images) > 5
    assert all('aria-label="' in i for i in images)
    assert not re.findall(r"<th(?![^>]*scope)[ >]", html)
    assert '<a class="skip" href="#main">' in html


def test_colours_of_words_can_be_read_in_light_and_dark() -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1, for every ink on the tints it is put on."""
    css = re.sub(r"\s+", " ", re.sub(r"<body>.*", "", render(drifted()), flags=re.DOTALL))
    roots = re.findall(r":root \{([^}]*)\}", css)
    light: dict[str, str] = {}
    dark: dict[str, str] = {}
    for block, into in zip(roots, (light, dark, None, light, dark, None), strict=False):
        if into is not None:
            into |= dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block))

    for palette in (light, dark):
        for ink, paper in (
            ("ink", "card"),
            ("muted", "card"),
            ("muted", "page"),
            ("muted", "faint"),
            ("blue", "card"),
            ("red", "red-tint"),
            ("amber", "amber-tint"),
            ("green", "green-tint"),
            ("ink", "red-tint"),
            ("ink", "amber-tint"),
        ):
            assert _contrast(palette[ink], palette[paper]) >= 4.5, (ink, paper, palette[ink])


def _contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dim = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def test_the_page_says_what_a_reader_needs(desk: Desk) -> None:
    written, _ = desk.conclude(drifted())

    text = " ".join(" ".join(Page(render(written)).text).split())

    assert "Needs attention Performance of ROC AUC and 1 more." in text
    assert "Drift of a feature: income first" in text
    assert "2,000 of 7,500 rows of this window (26.7 %)" in text
    assert "it cannot see it change" in text
    assert "Before you rely on it:" in text
    assert "14 captured predictions never arrived." in text
    assert "alone it never starts a retraining" in text
    assert "$8.41 of this month's $20.00 are spent: within the budget." in text
    assert "Retraining started with 21,400 labelled rows" in text


def test_estimates_and_measurements_differ_in_more_than_colour() -> None:
    html = render(drifted())

    assert html.count('class="hollow"') == 20
    assert html.count('class="dot candidate"') == 18
    assert 'class="line second dashed"' in html
    assert html.count('class="ring"') == 2


def test_an_empty_window_says_so() -> None:
    quiet = window(0, state="unknown", refused="12 rows, 200 are needed")

    text = " ".join(" ".join(Page(render(quiet)).text).split())

    assert "Not judged: 12 rows, 200 are needed." in text
    assert "There is neither a label nor an estimate" in text
    assert "No inputs were captured" in text


def test_nothing_of_a_private_column_but_its_name_is_shown() -> None:
    html = render(drifted())

    row = html[html.index(">email ") :].split("</tr>")[0]
    assert "not captured; 1.0 % missing in training" in row


def test_a_window_is_written_and_is_the_newest_until_a_newer_one_is(desk: Desk) -> None:
    for number in (1, 2, 0):
        desk.conclude(window(number))

    newest = latest("churn", objects=desk.store, bucket="artifacts")

    assert newest is not None
    assert newest.since == START + 2 * WINDOW
    assert desk.store.exists("artifacts", "monitor/churn/2026-11-01T0000Z.html")
    forms: tuple[Literal["html", "json"], ...] = ("html", "json")
    for form in forms:
        key = latest_monitor_report_key("churn", form)
        of = monitor_report_key("churn", newest.since, form)
        assert desk.store.read("artifacts", key) == desk.store.read("artifacts", of)


def test_a_window_that_is_concluded_again_tells_nobody_and_writes_the_same(desk: Desk) -> None:
    desk.conclude(drifted())
    key = monitor_report_key("churn", drifted().since, "json")
    before = desk.store.read("artifacts", key)

    desk.conclude(drifted())

    assert len(desk.notices) == 1
    assert desk.store.read("artifacts", key) == before


def test_labels_that_came_late_are_seen_in_the_newest_report_too(desk: Desk) -> None:
    series = drifted().performance[0]
    last = series.points[-1]
    newer = drifted(since=last.until, until=last.until + WINDOW)
    desk.conclude(drifted())
    desk.conclude(newer)
    measured = last.model_copy(update={"realised": Interval(value=0.951), "labelled": 900})
    late = series.model_copy(update={"points": (*series.points[:-1], measured)})

    desk.conclude(drifted(performance=(late,)))

    newest = latest("churn", objects=desk.store, bucket="artifacts")
    assert newest is not None
    assert newest.since == last.until
    assert newest.performance[0].points[-1] == measured
    again = of_window("churn", newest.since, objects=desk.store, bucket="artifacts")
    assert again == newest
    assert of_window("churn", START, objects=desk.store, bucket="artifacts") is None


def test_a_stored_document_that_is_no_report_is_told(desk: Desk) -> None:
    desk.store.write(
        "artifacts", latest_monitor_report_key("churn", "json"), b"{}", content_type="x"
    )

    with pytest.raises(ArtifactError, match="is no monitoring report of format 1"):
        latest("churn", objects=desk.store, bucket="artifacts")


def test_one_notice_tells_all_alarms_of_a_window_with_what_to_do(desk: Desk) -> None:
    desk.conclude(drifted())

    (notice,) = desk.notices
    said = notice.details

    assert notice.subject == "churn: performance of ROC AUC rings, and 1 more"
    assert notice.event == "alarm_opened"
    assert "0.964 to 0.976 is expected" in notice.why
    assert "millrace retrain churn" in notice.next_step
    assert said["likely_cause"].startswith("the inputs moved to where the model is weaker: income")
    assert said["effect"] == "0.011"
    assert said["also"] == "Drift of a feature: income (opened)"
    assert said["report"] == "https://artifacts/monitor/churn/2026-11-10T1800Z.html"
    assert said["runbook"] == "docs/monitoring.md#performance"


def test_a_notice_of_drift_has_the_distribution(desk: Desk) -> None:
    moved = [f for f in drifted().findings if f.kind == "feature_drift"]

    desk.conclude(drifted(findings=tuple(moved)))

    said = desk.notices[0].details
    assert said["distribution"].startswith("52,000 to 240,000: 17% → 31%")
    assert said["performance"] == "ROC AUC 0.963 estimated, 0.970 in training"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", "missing: 0.2% → 3.2%"),
        ("range", "below training: 0.1%, above: 5.6% of the rows"),
    ],
)
def test_a_notice_of_what_arrived_has_the_shares(desk: Desk, kind: str, said: str) -> None:
    desk.conclude(drifted(findings=(finding(kind, "income"),)))

    assert desk.notices[0].details["distribution"] == said


def test_the_end_of_an_alarm_is_told_without_figures(desk: Desk) -> None:
    desk.conclude(window(0, finding()))
    for number in (1, 2, 3):
        written, _ = desk.conclude(window(number, finding(verdict="ok")))

    opened, closed = desk.notices
    assert opened.event == "alarm_opened"
    assert closed.event == "alarm_closed"
    assert closed.subject == "churn: drift of a feature of age is over"
    assert "effect" not in closed.details
    assert written.episodes[0].state == "closed"


def test_an_open_alarm_keeps_a_calm_window_from_looking_calm(desk: Desk) -> None:
    desk.conclude(window(0, finding(), state="alarm"))

    written, _ = desk.conclude(window(1))

    assert written.state == "watch"
    assert written.summary == "Drift of a feature: age."


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (dollars(8.411), "$8.41"),
        (dollars(0.0056), "$0.0056"),
        (dollars(0), "$0.00"),
        (dollars(1e-9), "under $0.000001"),
        (milliseconds(9.64), "9.6 ms"),
        (milliseconds(140.4), "140 ms"),
        (milliseconds(1_234), "1.2 s"),
        (share(0.123), "12.3 %"),
        (share(0.0016), "0.16 %"),
        (share(0.0), "0.0 %"),
    ],
)
def test_numbers_are_written_for_people(said: str, expected: str) -> None:
    assert said == expected


@pytest.mark.parametrize("kind", ["feature_drift", "class_drift"])
def test_values_as_long_as_books_are_cut_in_what_people_are_told(desk: Desk, kind: str) -> None:
    names = tuple(f"{place} " + "a value " * 5_000 for place in range(12))
    made = Distribution(categories=names, window=(900, *[10] * 11), training=(100,) * 12)
    feature = Feature(
        name="plan",
        kind="categorical",
        rows=1_010,
        missing=0,
        missing_training=0.0,
        distribution=made,
        verdict="alarm",
    )

    desk.conclude(
        window(
            0,
            finding(kind, "plan" if kind == "feature_drift" else "classes"),
            features=(feature,),
            classes=made,
        )
    )

    (notice,) = desk.notices
    assert "…" in notice.details["distribution"]
    assert len(notice.details["distribution"]) < 300

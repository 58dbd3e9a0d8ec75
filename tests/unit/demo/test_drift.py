"""What `make demo-drift` says of a run: whether the loop closed, in words and in a picture."""

import io
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from rich.console import Console

from infra.demo import picture
from infra.demo.drift import Sent, labels_csv, real_auc, rows_of, some_of, wait_for
from infra.demo.streams import Part, Stream
from infra.demo.timeline import (
    CENSUS,
    LOANS,
    Chunk,
    Happening,
    Record,
    Window,
    broken,
    happenings_of,
    summary,
)
from millrace.errors import ServiceUnavailableError
from millrace.spec import ColumnType, ModelSpec

BEGIN = datetime(2026, 11, 22, 4, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
AUCS = (0.970, 0.971, 0.969, 0.970, 0.972, 0.959, 0.965, 0.966, 0.967, 0.966)
SVG = "{http://www.w3.org/2000/svg}"


def chunk(model: str, number: int, auc: float, state: str, version: int = 1) -> Chunk:
    interval = (auc, auc - 0.004, auc + 0.004)
    alarms = ("performance roc_auc",) if state == "alarm" else ()
    window = Window(version, 500, 500, interval, interval, 0.962, state, ("a", "b"), alarms)
    answered, real = {version: 500}, {version: auc}
    return Chunk(model, number, BEGIN + number * MINUTE, 500, 5, answered, real, window)


def closed_run() -> Record:
    """A run as it should be."""
    loans = [
        chunk(LOANS, n, auc, "alarm" if n == 5 else "ok", 1 if n < 6 else 2)
        for n, auc in enumerate(AUCS)
    ]
    census = [chunk(CENSUS, n, 0.9, "ok") for n in range(4)]
    told = [
        ("promoted", "car-loan@1", -1.0),
        ("alarm_opened", "20261122T0406-0123456789", 6.2),
        ("run_created", "car-loan-2", 6.3),
        ("rollout_started", "car-loan@2", 6.6),
        ("promoted", "car-loan@2", 6.9),
        ("alarm_closed", "20261122T0406-0123456789", 10.2),
    ]
    upload = {"run_id": "car-loan-1", "cause": "upload", "outcome": "promoted", "model_version": 1}
    drift = {"run_id": "car-loan-2", "cause": "drift", "outcome": "promoted", "model_version": 2}
    times = {"started_at": at(6.3), "ended_at": at(6.6), "rows": {"accepted": 8_000}}
    return Record(
        loans + census,
        [
            Happening(BEGIN + minutes * MINUTE, LOANS, action, subject, "monitor", "<why>")
            for action, subject, minutes in told
        ],
        {
            LOANS: [drift | times, upload | times],
            CENSUS: [upload | {"run_id": "census-1"}],
        },
        {
            LOANS: [
                {
                    "id": "20261122T0406-0123456789",
                    "kind": "performance",
                    "subject": "roc_auc",
                    "state": "closed",
                    "opened_at": at(6.2),
                    "closed_at": at(10.2),
                }
            ],
            CENSUS: [],
        },
        {"stream": 600.0},
    )


def at(minutes: float) -> str:
    return (BEGIN + minutes * MINUTE).isoformat()


def with_window(record: Record, place: int, **changes: Any) -> None:
    told = record.chunks[place]
    record.chunks[place] = replace(told, window=replace(told.window, **changes))


# ── Whether it closed ───────────────────────────────────────────────────────────────────────────


def test_a_run_as_it_should_be_has_no_fault() -> None:
    assert broken(closed_run()) == []


def no_alarm(record: Record) -> None:
    record.alarms[LOANS] = []


def open_alarm(record: Record) -> None:
    record.alarms[LOANS][0]["state"] = "open"


def two_trainings(record: Record) -> None:
    record.trainings[LOANS] *= 2


def gates_failed(record: Record) -> None:
    record.trainings[LOANS][0]["outcome"] = "gates_failed"


def early_alarm(record: Record) -> None:
    with_window(record, 2, state="alarm")


def wrong_auc(record: Record) -> None:
    with_window(record, 3, measured=(0.98, 0.97, 0.99))


def no_auc(record: Record) -> None:
    with_window(record, 3, measured=None)


def still_census(record: Record) -> None:
    for place in range(10, 14):
        with_window(record, place, drifted=())


def retrained_census(record: Record) -> None:
    record.trainings[CENSUS].append({"run_id": "census-2", "cause": "drift"})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (no_alarm, "none opened"),
        (open_alarm, "it is open"),
        (two_trainings, "there are 2"),
        (gates_failed, "it is gates_failed"),
        (early_alarm, "chunk 2 alarms"),
        (wrong_auc, "0.970000"),
        (no_auc, "none came"),
        (still_census, "none did"),
        (retrained_census, "no retraining of census"),
    ],
)
def test_what_did_not_happen_is_said(spoil: Any, said: str) -> None:
    record = closed_run()

    spoil(record)

    [fault] = broken(record)
    assert said in fault


def test_a_run_that_is_kept_is_read_again(tmp_path: Path) -> None:
    record = closed_run()
    path = tmp_path / "record.json"

    path.write_text(record.to_json(), "utf-8")

    assert Record.read(path) == record
    assert json.loads(path.read_text("utf-8"))["broken"] == []


# ── What is read of the deployment ──────────────────────────────────────────────────────────────


def test_a_window_is_what_its_report_says() -> None:
    point = {
        "since": at(3),
        "labelled": 480,
        "realised": {"value": 0.97, "low": 0.96, "high": 0.98},
        "estimated": {"value": 0.971, "low": None, "high": None},
    }
    earlier = point | {"since": at(2), "labelled": 1}
    moved = {"kind": "feature_drift", "against": "training", "verdict": "ok", "adjusted_p": 0.001}
    report = {
        "since": at(3),
        "version": 2,
        "state": "alarm",
        "traffic": {"rows": 500},
        "performance": [
            {"metric": "accuracy", "threshold_low": 0.5, "points": []},
            {"metric": "roc_auc", "threshold_low": 0.962, "points": [earlier, point]},
        ],
        "findings": [
            moved | {"subject": "b"},
            moved | {"subject": "a"},
            moved | {"subject": "c", "against": "last_week"},
            moved | {"subject": "d", "adjusted_p": 0.02},
            moved | {"subject": "e", "adjusted_p": None},
            moved | {"subject": "roc_auc", "kind": "performance", "verdict": "alarm"},
        ],
    }

    window = Window.of_report(report)

    assert window == Window(
        version=2,
        rows=500,
        labelled=480,
        measured=(0.97, 0.96, 0.98),
        estimated=(0.971, 0.971, 0.971),
        threshold=0.962,
        state="alarm",
        drifted=("a", "b"),
        alarms=("performance roc_auc",),
    )


def test_the_ledger_is_told_in_its_order_and_without_what_nobody_asks() -> None:
    entry = {"at": at(1), "subject": "car-loan@1", "actor": "monitor", "reason": ""}

    told = happenings_of(
        LOANS,
        [
            entry | {"action": "promoted", "sequence": 3},
            entry | {"action": "spec_applied", "sequence": 1},
            entry | {"action": "run_created", "sequence": 2},
        ],
    )

    assert [one.action for one in told] == ["run_created", "promoted"]


# ── What is sent ────────────────────────────────────────────────────────────────────────────────


def part() -> Part:
    inputs = {
        "age": np.asarray([41.0, np.nan]),
        "member": np.asarray([1.0, 0.0]),
        "income": np.asarray([1.5, 2.0]),
        "town": np.asarray(["Bath", ""], dtype=object),
    }
    return Part(
        np.asarray([7, 8], np.int64), inputs, np.asarray([1, 0], np.int64), np.asarray([0.9, 0.2])
    )


def stream() -> Stream:
    kinds = (ColumnType.INTEGER, ColumnType.BOOLEAN, ColumnType.NUMBER, ColumnType.STRING)
    features = dict(zip(part().inputs, kinds, strict=True))
    return Stream("car-loan", "repaid", features, part(), part())


def test_rows_are_sent_in_the_types_of_their_columns() -> None:
    assert rows_of(stream(), part()) == [
        {"age": 41, "member": True, "income": 1.5, "town": "Bath"},
        {"age": None, "member": False, "income": 2.0, "town": None},
    ]


def test_some_rows_of_a_part_are_spread_over_it() -> None:
    many = Part(np.arange(100), {}, np.zeros(100, np.int64), np.zeros(100))

    assert some_of(many, 3).ids.tolist() == [0, 49, 99]
    assert some_of(many, 1_000).rows == 100


def test_labels_name_the_prediction_and_its_row() -> None:
    sent = Sent(BEGIN, [("one", 0), ("one", 1)], [1, 1], [0.9, 0.2], 1)

    assert labels_csv(part(), sent).splitlines() == [
        "prediction_id,row,label",
        "one,0,1",
        "one,1,0",
    ]


def test_each_version_has_the_auc_of_its_own_answers() -> None:
    rows = Part(np.arange(4), {}, np.asarray([0, 1, 0, 1], np.int64), np.zeros(4))
    sent = Sent(BEGIN, [("one", n) for n in range(4)], [1, 1, 2, 2], [0.1, 0.9, 0.9, 0.1], 4)

    assert real_auc(rows, sent) == {1: 1.0, 2: 0.0}


def test_waiting_says_what_was_expected_and_what_came() -> None:
    with pytest.raises(ServiceUnavailableError, match=r"expected a window .* got 3 rows"):
        wait_for("a window", lambda: None, lambda: "3 rows", seconds=-1)


@pytest.mark.parametrize("name", [LOANS, CENSUS])
def test_specs_of_the_demo_are_valid(name: str) -> None:
    path = Path(picture.__file__).with_name(f"{name}.yaml")

    spec = ModelSpec.from_yaml(path.read_text("utf-8"))

    assert spec.name == name
    assert spec.retrain.on_drift


# ── What is shown ───────────────────────────────────────────────────────────────────────────────


def test_the_terminal_shows_every_chunk_and_what_happened() -> None:
    record = closed_run()
    console = Console(file=io.StringIO(), width=160)

    console.print(summary(record))

    shown = console.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO above
    assert shown.count("@1: 500") == 10
    assert shown.count("@2: 500") == 4
    assert "0.9590 [0.9550, 0.9630]" in shown
    assert shown.index("alarm closed") > shown.index("promoted")


def texts(svg: str) -> list[str]:
    return [one.text or "" for one in ET.fromstring(svg).iter(f"{SVG}text")]  # noqa: S314 - made here


def test_the_picture_has_every_chunk_within_its_bounds() -> None:
    svg = picture.draw(closed_run())

    root = ET.fromstring(svg)  # noqa: S314 - made here
    circles = [one for one in root.iter(f"{SVG}circle") if one.find(f"{SVG}title") is not None]
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    assert len(circles) == 14
    assert all(0 < float(one.attrib["cx"]) < width for one in circles)
    assert all(0 < float(one.attrib["cy"]) < height for one in circles)
    assert all(float(one.attrib["y"]) <= height for one in root.iter(f"{SVG}text"))
    assert "alarms, measured: roc auc" in texts(svg)
    assert "champion: car-loan@2" in texts(svg)


def test_a_better_auc_is_drawn_higher() -> None:
    root = ET.fromstring(picture.draw(closed_run()))  # noqa: S314 - made here

    heights = {
        float((one.findtext(f"{SVG}title") or "").split(": ")[1].split(" ")[0]): float(
            one.attrib["cy"]
        )
        for one in root.iter(f"{SVG}circle")
        if (one.findtext(f"{SVG}title") or "").endswith("]") and float(one.attrib["cy"]) < 400
    }
    assert sorted(heights, key=lambda auc: heights[auc], reverse=True) == sorted(set(AUCS))


def test_the_picture_of_a_loop_that_did_not_close_says_so(tmp_path: Path) -> None:
    record = closed_run()
    open_alarm(record)

    page = picture.write(record, tmp_path)

    assert "did not close" in page.read_text("utf-8")
    assert any("did not close" in words for words in texts((tmp_path / "drift.svg").read_text()))

"""Draws a run of `make demo-drift`: AUC measured and estimated by chunk, and what Millrace did about it.

    python -m infra.demo.picture .millrace/demo/drift/record.json

writes ``drift.svg`` and ``drift.html`` beside it.
"""

import html
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from infra.demo.timeline import CENSUS, FALLEN, GUESSED, LOANS, Chunk, Record, broken

_WIDTH: Final = 1180
_LEFT, _RIGHT = 76, 1150
_INK, _SOFT, _GRID = "#1c2430", "#5b6675", "#e3e7ec"
_GOOD, _BAD, _DONE, _GUESS = "#0b6e4f", "#c0404b", "#1d4ed8", "#b7791f"
_APART: Final = 5.0
"""Half of what lies between a measured value and its estimate."""
_HOUR: Final = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class _Panel:
    """Where a model's AUC is drawn.

    Attributes:
        top: Its upper edge.
        bottom: Its lower edge.
        begin: The first moment.
        end: The last moment.
        low: The least AUC.
        high: The greatest.
    """

    top: float
    bottom: float
    begin: datetime
    end: datetime
    low: float
    high: float

    def x(self, at: datetime) -> float:
        """Where a moment is."""
        share = (at - self.begin) / (self.end - self.begin)
        return _LEFT + min(1.0, max(0.0, share)) * (_RIGHT - _LEFT)

    def y(self, auc: float) -> float:
        """Where an AUC is."""
        share = (auc - self.low) / (self.high - self.low)
        return self.bottom - min(1.0, max(0.0, share)) * (self.bottom - self.top)


def draw(record: Record) -> str:
    """A run as SVG."""
    loans, census = record.of(LOANS), record.of(CENSUS)
    begin = min(c.since for c in record.chunks) - _HOUR / 4
    end = max([c.since + _HOUR for c in record.chunks] + [h.at for h in record.happenings])
    end += _HOUR / 4
    upper = _panel(loans, 118, 356, begin, end)
    parts = [
        _text(_LEFT, 34, "Drift, and the way back", size=21, weight=650),
        _text(_LEFT, 58, _headline(record), size=13.5, colour=_SOFT),
        *_legend(_LEFT, 86),
        *_lanes(record, upper, 404),
        *_plot(loans, upper, "car-loan · ROC AUC"),
        *_below(loans, upper, lambda chunk: f"{chunk.since:%H:%M}"),
    ]
    bottom = 404 + len(_rows(record)) * 26 + 34
    if census:
        lower = _panel(census, bottom + 40, bottom + 150, begin, end)
        parts += _plot(census, lower, "census · ROC AUC, and how many inputs moved beyond chance")
        parts += _below(census, lower, lambda chunk: f"{len(chunk.window.drifted)} moved")
        bottom += 208
    parts += _axis(upper, bottom - 6)
    height = bottom + 26
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" '
        f'width="{_WIDTH}" height="{height:.0f}" role="img" aria-label="{html.escape(_headline(record))}" '
        'font-family="Inter, Helvetica, Arial, sans-serif">'
        f'<rect width="{_WIDTH}" height="{height:.0f}" fill="#ffffff"/>'
        + "".join(parts)
        + "</svg>\n"
    )


def write(record: Record, folder: Path) -> Path:
    """Writes ``drift.svg`` and ``drift.html``, which shows it; the page."""
    folder.mkdir(parents=True, exist_ok=True)
    svg = draw(record)
    (folder / "drift.svg").write_text(svg, encoding="utf-8")
    page = folder / "drift.html"
    page.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Drift, and the way back</title>'
        "<style>body{margin:0;background:#fff;display:flex;justify-content:center}"
        f"svg{{max-width:100%;height:auto}}</style>{svg}</html>\n",
        encoding="utf-8",
    )
    return page


def _headline(record: Record) -> str:
    faults = broken(record)
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        return f"The loop did not close: {faults[0]}{more}"
    [run] = [r for r in record.trainings[LOANS] if r["cause"] == "drift"]
    first = next(c.number for c in record.of(LOANS) if c.window.state == "alarm")
    words = (
        f"Chunk {first} of the loans opens an alarm; one retraining, car-loan@{run['model_version']}, "
        f"takes over by a canary; the alarm closes by itself."
    )
    if record.of(CENSUS):
        words += " The census drifts, stays right, and is left alone."
    return words


# ── AUC ─────────────────────────────────────────────────────────────────────────────────────────


def _panel(
    chunks: Sequence[Chunk], top: float, bottom: float, begin: datetime, end: datetime
) -> _Panel:
    # Of an estimate the value alone: its interval may be wide, and is cut where the panel ends.
    told = [value for c in chunks for value in (c.window.measured or ())]
    told += [c.window.estimated[0] for c in chunks if c.window.estimated is not None]
    told += [c.window.threshold for c in chunks if c.window.threshold is not None]
    low, high = min(told, default=0.5), max(told, default=1.0)
    room = 0.08 * (high - low)
    return _Panel(top, bottom, begin, end, low - room, high + room)


def _plot(chunks: Sequence[Chunk], panel: _Panel, title: str) -> list[str]:
    parts = [_text(_LEFT, panel.top - 10, title, size=13, weight=600)]
    step = next(
        s
        for s in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 1)
        if (panel.high - panel.low) / s < 7
    )
    tick = int(panel.low / step + 1)
    while tick * step < panel.high:
        y = panel.y(tick * step)
        parts.append(
            f'<line x1="{_LEFT}" x2="{_RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_GRID}"/>'
        )
        parts.append(_text(_LEFT - 8, y + 4, f"{tick * step:.3f}", size=11, colour=_SOFT, end=True))
        tick += 1
    for chunk in chunks:
        parts += _marks(chunk, panel)
    for before, after in pairwise(chunks):
        if before.window.measured and after.window.measured:
            parts.insert(
                1,
                _line(
                    (panel.x(_middle(before)) - _APART, panel.y(before.window.measured[0])),
                    (panel.x(_middle(after)) - _APART, panel.y(after.window.measured[0])),
                    _INK,
                    1.2,
                ),
            )
    return parts


def _marks(chunk: Chunk, panel: _Panel) -> list[str]:
    window, x = chunk.window, panel.x(_middle(chunk))
    own = x - _APART
    half = (panel.x(chunk.since + _HOUR) - panel.x(chunk.since)) / 2 - 3
    parts = []
    if window.threshold is not None:
        y = panel.y(window.threshold)
        parts.append(_line((x - half, y), (x + half, y), _BAD, 1.4, dash="4 3"))
    if window.estimated is not None:
        value, low, high = window.estimated
        parts.append(
            _line((x + _APART, panel.y(low)), (x + _APART, panel.y(high)), _GUESS, 1.2, faint=True)
        )
        parts.append(_diamond(x + _APART, panel.y(value), _GUESS))
    if window.measured is not None:
        value, low, high = window.measured
        colour = _BAD if window.state == "alarm" else _GOOD
        parts.append(_line((own, panel.y(low)), (own, panel.y(high)), colour, 2.0))
        fill = "#ffffff" if window.state == "watch" else colour
        parts.append(
            f'<circle cx="{own:.1f}" cy="{panel.y(value):.1f}" r="5" fill="{fill}" stroke="{colour}" '
            f'stroke-width="2"><title>chunk {chunk.number}: {value:.4f} [{low:.4f}, {high:.4f}]'
            "</title></circle>"
        )
        parts.append(
            _text(
                own,
                panel.y(high) - 6,
                f"{value:.4f}",
                size=11,
                colour=colour,
                middle=True,
                halo=True,
            )
        )
    parts.append(
        _text(
            x,
            panel.bottom + 14,
            f"{chunk.number} · @{window.version}",
            size=11,
            colour=_SOFT,
            middle=True,
        )
    )
    return parts


def _middle(chunk: Chunk) -> datetime:
    return chunk.since + _HOUR / 2


# ── What Millrace did ───────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Bar:
    words: str
    since: datetime
    until: datetime | None
    colour: str


@dataclass(frozen=True, slots=True)
class _Alarm:
    kind: str
    subject: str
    since: datetime
    until: datetime | None

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "_Alarm":
        """An alarm as the API tells it."""
        closed = told["closed_at"]
        return cls(
            told["kind"],
            str(told["subject"]).replace("_", " "),
            datetime.fromisoformat(told["opened_at"]),
            datetime.fromisoformat(closed) if closed else None,
        )


def _joined(alarms: Sequence[_Alarm], colour: str) -> list[_Bar]:
    """Alarms that are open at the same time in one bar, with what they are about."""
    bars: list[list[_Alarm]] = []
    for alarm in sorted(alarms, key=lambda one: one.since):
        before = bars[-1] if bars else []
        if before and any(a.until is None or a.until >= alarm.since for a in before):
            before.append(alarm)
        else:
            bars.append([alarm])
    return [
        _Bar(
            ", ".join(dict.fromkeys(a.subject for a in some)),
            some[0].since,
            None if any(a.until is None for a in some) else max(a.until for a in some if a.until),
            colour,
        )
        for some in bars
    ]


def _rows(record: Record) -> list[tuple[str, list[_Bar]]]:
    """Lanes below the loans: alarms, the retraining, the canary, who is champion."""
    own = [h for h in record.happenings if h.model == LOANS]
    alarms = [_Alarm.of(told) for told in record.alarms.get(LOANS, ())]
    runs = [
        _Bar(
            f"on {r['rows']['accepted']:,} rows",
            datetime.fromisoformat(r["started_at"]),
            datetime.fromisoformat(r["ended_at"]) if r["ended_at"] else None,
            _DONE,
        )
        for r in record.trainings.get(LOANS, ())
        if r["cause"] == "drift"
    ]
    rows: list[tuple[str, list[_Bar]]] = []
    for name, kinds, colour in (
        ("alarms, measured", (FALLEN,), _BAD),
        ("alarms, estimated", (GUESSED,), _GUESS),
        ("other alarms", None, _SOFT),
    ):
        own_alarms = [
            a for a in alarms if (a.kind in kinds if kinds else a.kind not in (FALLEN, GUESSED))
        ]
        if own_alarms:
            rows.append((name, _joined(own_alarms, colour)))
    if runs:
        rows.append(("retraining", runs))
    canary = [h.at for h in own if h.action.startswith("rollout")]
    crowned = [h for h in own if h.action == "promoted"]
    if canary:
        rows.append(("canary", [_Bar("", min(canary), crowned[-1].at if crowned else None, _DONE)]))
    ends: list[datetime | None] = [*(h.at for h in crowned[1:]), None]
    rows.append(
        (
            "champion",
            [_Bar(h.subject, h.at, until, _GOOD) for h, until in zip(crowned, ends, strict=True)],
        )
    )
    return rows


def _lanes(record: Record, panel: _Panel, top: float) -> list[str]:
    parts = []
    for place, (name, bars) in enumerate(_rows(record)):
        y = top + place * 26
        parts.append(_line((_LEFT, y + 10), (_RIGHT, y + 10), _GRID, 1.0))
        for bar in bars:
            left = panel.x(bar.since)
            right = panel.x(bar.until) if bar.until else float(_RIGHT)
            width = max(4.0, right - left)
            parts.append(
                f'<rect x="{left:.1f}" y="{y + 1}" width="{width:.1f}" height="18" rx="4" '
                f'fill="{bar.colour}" fill-opacity="0.85"/>'
            )
            words = f"{name}: {bar.words}" if bar.words else name
            inside = width > 7.2 * len(words) + 12
            begin = left + 8 if inside else left - 8
            parts.append(
                _text(
                    begin,
                    y + 14.5,
                    words,
                    size=12,
                    colour="#ffffff" if inside else _INK,
                    end=not inside,
                )
            )
    return parts


def _below(chunks: Iterable[Chunk], panel: _Panel, words: Callable[[Chunk], str]) -> list[str]:
    """A second line below each chunk."""
    return [
        _text(
            panel.x(_middle(chunk)),
            panel.bottom + 28,
            words(chunk),
            size=10.5,
            colour=_SOFT,
            middle=True,
        )
        for chunk in chunks
    ]


def _legend(left: float, y: float) -> list[str]:
    entries = (
        ("measured by labels, with 95 % interval (hollow: watched)", _GOOD, "circle"),
        ("the same, and the window alarms", _BAD, "circle"),
        ("estimated without labels", _GUESS, "diamond"),
        ("what it falls below when it counts", _BAD, "dash"),
    )
    parts, x = [], left + 5.0
    for words, colour, form in entries:
        if form == "circle":
            parts.append(f'<circle cx="{x:.1f}" cy="{y - 4}" r="5" fill="{colour}"/>')
        elif form == "diamond":
            parts.append(_diamond(x, y - 4, colour))
        else:
            parts.append(_line((x - 6, y - 4), (x + 8, y - 4), colour, 1.6, dash="4 3"))
        parts.append(_text(x + 13, y, words, size=12, colour=_INK))
        x += 42 + 6.3 * len(words)
    return parts


def _axis(panel: _Panel, y: float) -> list[str]:
    return [
        _text(
            _LEFT,
            y + 16,
            f"{panel.begin:%Y-%m-%d}; one hour of monitoring is a minute",
            size=11,
            colour=_SOFT,
        ),
        _text(
            _RIGHT,
            y + 16,
            "chunk · version that was judged",
            size=11,
            colour=_SOFT,
            end=True,
        ),
    ]


# ── SVG ─────────────────────────────────────────────────────────────────────────────────────────


def _text(
    x: float,
    y: float,
    words: str,
    *,
    size: float,
    colour: str = _INK,
    weight: int = 400,
    end: bool = False,
    middle: bool = False,
    halo: bool = False,
) -> str:
    anchor = ' text-anchor="end"' if end else ' text-anchor="middle"' if middle else ""
    around = ' stroke="#ffffff" stroke-width="3" paint-order="stroke"' if halo else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" '
        f'fill="{colour}"{anchor}{around}>{html.escape(words)}</text>'
    )


def _line(
    a: tuple[float, float],
    b: tuple[float, float],
    colour: str,
    width: float,
    *,
    dash: str = "",
    faint: bool = False,
) -> str:
    more = (f' stroke-dasharray="{dash}"' if dash else "") + (' opacity="0.6"' if faint else "")
    return (
        f'<line x1="{a[0]:.1f}" y1="{a[1]:.1f}" x2="{b[0]:.1f}" y2="{b[1]:.1f}" '
        f'stroke="{colour}" stroke-width="{width}"{more}/>'
    )


def _diamond(x: float, y: float, colour: str) -> str:
    return f'<path d="M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z" fill="{colour}"/>'


def main(arguments: Sequence[str]) -> int:
    """Draws a run that was kept."""
    path = Path(arguments[0])
    sys.stdout.write(f"{write(Record.read(path), path.parent)}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""Draws how often monitors cry wolf against how soon they tell: an SVG below ``.millrace/bench``."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tests.bench.measure import RESULTS

COLOURS: Final = {
    "Millrace": "#0b6e4f",
    "Evidently": "#c2410c",
    "NannyML": "#6d28d9",
    "SageMaker, simple": "#1d4ed8",
    "SageMaker, robust": "#64748b",
}
DASHES: Final = {"SageMaker, robust": "6 4"}
_DAYS: Final = 30.0
_NEVER: Final = 36.0
_WIDTH, _HEIGHT = 980, 430
_TOP, _BOTTOM = 64, 370


@dataclass(frozen=True, slots=True)
class Point:
    """A rule at some threshold.

    Attributes:
        rule: Whose.
        default: Whether the threshold is its default.
        false_alarms: Share of months without drift that had an alarm.
        days: Median days until a shift was told; None: not within the month.
    """

    rule: str
    default: bool
    false_alarms: float
    days: float | None


def draw_curves(
    rows: int,
    points: Sequence[Point],
    detected: Mapping[str, Mapping[float, float | None]],
    runs: int,
) -> None:
    """Writes ``drift-curves-<rows>.svg``.

    Args:
        rows: Of a window.
        points: False alarms and days at a shift of a quarter of a standard deviation.
        detected: Median days by rule and shift, at the default thresholds.
        runs: Months behind each share of false alarms.
    """
    left, right = _Panel(70, 470, (0.0, 1.0)), _Panel(560, 780, (math.log(0.1), math.log(1.0)))
    parts = [
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        _text(70, 26, f"Daily windows of {rows:,} rows, 20 features, no season", size=16, weight=600),
        _text(70, 48, "False alarms against time to tell a shift of 0.25 σ", size=12),
        _text(560, 48, "Time to tell a shift, at the default thresholds", size=12),
        *left.frame([(math.sqrt(v), f"{v:.0%}") for v in (0, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0)],
                    f"months without drift that had an alarm ({runs} simulated)"),
        *right.frame([(math.log(v), f"{v:g}") for v in (0.1, 0.15, 0.2, 0.3, 0.5, 1.0)],
                     "shift of one feature in standard deviations"),
    ]  # fmt: skip
    defaults: list[tuple[float, float, str]] = []
    for rule, colour in COLOURS.items():
        own = sorted(
            (p for p in points if p.rule == rule), key=lambda p: (p.false_alarms, -_day(p.days))
        )
        parts.append(_line([left.at(math.sqrt(p.false_alarms), p.days) for p in own], rule, 1.5))
        for p in own:
            x, y = left.at(math.sqrt(p.false_alarms), p.days)
            if p.default:
                defaults.append((x, y, colour))
                continue
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="#ffffff" stroke="{colour}"/>'
            )
        line = [right.at(math.log(shift), days) for shift, days in detected[rule].items()]
        parts.append(_line(line, rule, 2.0))
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in line]
    for place, (x, y, colour) in enumerate(defaults):
        # Where several stand in one place, the first ones show as rings around the last.
        above = sum((x, y) == other[:2] for other in defaults[place + 1 :])
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{6.5 + 4 * above:.1f}" fill="{colour}"/>'
        )
    for place, (rule, colour) in enumerate(COLOURS.items()):
        y = 100 + 24 * place
        dash = f' stroke-dasharray="{DASHES[rule]}"' if rule in DASHES else ""
        parts.append(
            f'<line x1="812" x2="838" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2.5"{dash}/>'
        )
        parts.append(_text(846, y + 4, rule, size=12))
    parts.append(_text(812, 240, "● default threshold", size=11))
    parts.append(_text(812, 258, "○ 0.25 to 3 times it", size=11))
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"drift-curves-{rows}.svg").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'font-family="system-ui, sans-serif" role="img"><title>False alarms against time to '
        f"detect, windows of {rows:,} rows</title>{''.join(parts)}</svg>\n",
        encoding="utf-8",
    )


@dataclass(frozen=True, slots=True)
class _Panel:
    left: float
    right: float
    across: tuple[float, float]

    def at(self, value: float, days: float | None) -> tuple[float, float]:
        share = (value - self.across[0]) / (self.across[1] - self.across[0])
        top, bottom = math.log(_NEVER), math.log(0.9)
        up = (math.log(_day(days)) - bottom) / (top - bottom)
        return self.left + share * (self.right - self.left), _BOTTOM - up * (_BOTTOM - _TOP)

    def frame(self, ticks: Sequence[tuple[float, str]], label: str) -> list[str]:
        parts = []
        for value, text in ticks:
            x, _ = self.at(value, 1)
            parts.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_BOTTOM}" stroke="#e5e7eb"/>'
            )
            parts.append(_text(x, _BOTTOM + 16, text, size=11, anchor="middle"))
        for days in (1.0, 2.0, 3.0, 5.0, 10.0, 20.0, _DAYS, None):
            _, y = self.at(self.across[0], days)
            parts.append(
                f'<line x1="{self.left}" x2="{self.right}" y1="{y:.1f}" y2="{y:.1f}" '
                f'stroke="#e5e7eb"/>'
            )
            told = "never" if days is None else f"{days:g} d"
            if days != _DAYS:
                parts.append(_text(self.left - 8, y + 4, told, size=11, anchor="end"))
        middle = (self.left + self.right) / 2
        parts.append(_text(middle, _BOTTOM + 38, label, size=12, anchor="middle"))
        return parts


def _day(days: float | None) -> float:
    return _NEVER if days is None else days


def _line(points: Sequence[tuple[float, float]], rule: str, width: float) -> str:
    dash = f' stroke-dasharray="{DASHES[rule]}"' if rule in DASHES else ""
    where = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return (
        f'<polyline points="{where}" fill="none" stroke="{COLOURS[rule]}" '
        f'stroke-width="{width}"{dash}/>'
    )


def _text(
    x: float, y: float, text: str, *, size: int, anchor: str = "start", weight: int = 400
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" '
        f'text-anchor="{anchor}" fill="#1f2937">{text}</text>'
    )

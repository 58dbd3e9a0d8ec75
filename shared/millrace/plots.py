"""What every drawing of a report is made of: axes, images and legends as inline SVG.

No script, no external resource, readable in light, dark and print. Colours come from the report's
style sheet by class. Everything that came from a user is escaped where it is put in.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup, escape

type Points = Sequence[tuple[float, float]]

WIDTH: Final = 460
HEIGHT: Final = 320
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 14, 44


def ticks(low: float, high: float, wanted: int = 6) -> list[float]:
    """Round numbers from low to high."""
    span = high - low
    if not (span > 0 and math.isfinite(span)):
        return [low]
    rough = span / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def tick_text(value: float) -> str:
    """A number on an axis."""
    size = abs(value)
    if size >= 1_000_000:
        return f"{value / 1e6:g}M"
    if size >= 10_000:
        return f"{value / 1e3:g}k"
    return f"{0.0 if size < 1e-12 else value:.6g}"


def px(value: float) -> str:
    """A coordinate."""
    return f"{value:.1f}"


@dataclass(frozen=True, slots=True)
class Axes:
    """A plot area with scales."""

    x: tuple[float, float]
    y: tuple[float, float]
    height: int = HEIGHT
    width: int = WIDTH
    left: int = LEFT
    right: int = RIGHT
    top: int = TOP
    bottom: int = BOTTOM

    def across(self, value: float) -> float:
        """Where a value lies from left to right."""
        share = (value - self.x[0]) / (self.x[1] - self.x[0] or 1)
        return self.left + share * (self.width - self.left - self.right)

    def up(self, value: float) -> float:
        """Where a value lies from the top."""
        share = (value - self.y[0]) / (self.y[1] - self.y[0] or 1)
        return self.height - self.bottom - share * (self.height - self.top - self.bottom)

    def frame(
        self, x_label: str, y_label: str, y_ticks: Callable[[float], str] = tick_text
    ) -> list[str]:
        """Grid, tick labels and axis labels."""
        parts = []
        floor, ceiling = self.height - self.bottom, self.top
        for value in ticks(*self.x):
            at = px(self.across(value))
            parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{ceiling}" y2="{floor}"/>')
            parts.append(
                f'<text x="{at}" y="{floor + 16}" text-anchor="middle">{tick_text(value)}</text>'
            )
        for value in ticks(*self.y):
            at = px(self.up(value))
            parts.append(
                f'<line class="grid" x1="{self.left}" x2="{self.width - self.right}" '
                f'y1="{at}" y2="{at}"/>'
            )
            parts.append(
                f'<text x="{self.left - 8}" y="{at}" dy="0.35em" text-anchor="end">'
                f"{escape(y_ticks(value))}</text>"
            )
        middle = (self.left + self.width - self.right) / 2
        parts.append(
            f'<text class="axis" x="{px(middle)}" y="{self.height - 8}" text-anchor="middle">'
            f"{escape(x_label)}</text>"
        )
        centre = px((ceiling + floor) / 2)
        parts.append(
            f'<text class="axis" transform="translate(13 {centre}) rotate(-90)" '
            f'text-anchor="middle">{escape(y_label)}</text>'
        )
        return parts

    def path(self, points: Points, style: str) -> str:
        """A line; ``style`` is a class of the style sheet."""
        commands = (
            f"{'L' if i else 'M'}{px(self.across(x))} {px(self.up(y))}"
            for i, (x, y) in enumerate(points)
        )
        return f'<path class="line {style}" d="{"".join(commands)}"/>'


def image(
    parts: Sequence[str], title: str, description: str, *, width: int = WIDTH, height: int = HEIGHT
) -> Markup:
    """A drawing with a title and a description for screen readers."""
    body = "".join(parts)
    return Markup(  # noqa: S704  (every piece of user text in it was escaped where it was put in)
        f'<svg viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}. {escape(description)}">'
        f"<title>{escape(title)}</title><desc>{escape(description)}</desc>{body}</svg>"
    )


def legend(entries: Sequence[tuple[str, str]]) -> Markup:
    """A legend in HTML, so that it wraps and can be selected."""
    items = Markup("").join(
        Markup('<li><span class="key {}"></span>{}</li>').format(style, name)
        for name, style in entries
    )
    return Markup('<ul class="legend">{}</ul>').format(items)

"""A directed graph as SVG: boxes in columns, arrows between them, the same picture every time.

Made for lineages: a dozen boxes whose column is known from what they are. Within a column boxes
stand near those that lead to them (one pass of the barycentre heuristic of Sugiyama, Tagawa and
Toda, 1981). No script and no external resource; colours follow the reader's light or dark scheme.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final, Literal

Style = Literal["data", "work", "model", "traffic", "muted"]

MOST_CHARACTERS: Final = 34
"""Of a line; longer ones lose their middle, which the title of the box has whole."""

_CHARACTER: Final = 6.7
"""Pixels of a character of 12 px in an ordinary sans serif, on the safe side."""
_BOLD_CHARACTER: Final = 8.3
_LINE: Final = 16
_PAD: Final = 11
_BETWEEN_COLUMNS: Final = 74
_BETWEEN_BOXES: Final = 18
_MARGIN: Final = 10
_NARROWEST: Final = 120

STYLES: Final = """\
svg.graph{--g-ink:#1b2430;--g-muted:#5b6675;--g-card:#fff;--g-line:#8a94a0;--g-data:#00795a;\
--g-work:#8a6d00;--g-model:#0072b2;--g-traffic:#b3401a;--g-grey:#8a94a0}
@media (prefers-color-scheme:dark){svg.graph{--g-ink:#e6eaf0;--g-muted:#9ba7b5;--g-card:#1a2029;\
--g-line:#758192;--g-data:#4cc9a0;--g-work:#e0b93a;--g-model:#56b4e9;--g-traffic:#ff9a70;\
--g-grey:#758192}}
svg.graph text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif;\
fill:var(--g-muted)}
svg.graph text.kind{font-size:10.5px;letter-spacing:.06em;text-transform:uppercase}
svg.graph text.name{fill:var(--g-ink);font-weight:600}
svg.graph text.edge{font-size:10.5px}
svg.graph rect.box{fill:var(--g-card);stroke-width:1.4}
svg.graph .data{stroke:var(--g-data)}svg.graph .work{stroke:var(--g-work)}
svg.graph .model{stroke:var(--g-model)}svg.graph .traffic{stroke:var(--g-traffic)}
svg.graph .muted{stroke:var(--g-grey)}
svg.graph rect.tab{stroke:none}svg.graph rect.tab.data{fill:var(--g-data)}
svg.graph rect.tab.work{fill:var(--g-work)}svg.graph rect.tab.model{fill:var(--g-model)}
svg.graph rect.tab.traffic{fill:var(--g-traffic)}svg.graph rect.tab.muted{fill:var(--g-grey)}
svg.graph path.arrow{fill:none;stroke:var(--g-line);stroke-width:1.4}
svg.graph path.dashed{stroke-dasharray:5 4}svg.graph path.head{fill:var(--g-line)}
"""


@dataclass(frozen=True, slots=True)
class Box:
    """A node.

    Attributes:
        id: Its name in arrows.
        column: How far right, from 0.
        kind: What it is, above the name.
        name: Its name.
        lines: Facts below it.
        style: Its colour.
        whole: What it is in full, for the reader's pointer and screen reader; default: the name.
    """

    id: str
    column: int
    kind: str
    name: str
    lines: tuple[str, ...] = ()
    style: Style = "muted"
    whole: str = ""

    @property
    def width(self) -> float:
        """Pixels across."""
        plain = max(len(shortened(t)) for t in (self.kind, *self.lines)) * _CHARACTER
        bold = len(shortened(self.name)) * _BOLD_CHARACTER
        return max(_NARROWEST, round(max(plain, bold) + 2 * _PAD + 4, 1))

    @property
    def height(self) -> float:
        """Pixels down."""
        return _LINE * (2 + len(self.lines)) + _PAD


@dataclass(frozen=True, slots=True)
class Arrow:
    """An edge, from a box to one of a later column; within a column it runs beside the boxes."""

    source: str
    target: str
    label: str = ""
    dashed: bool = False


def shortened(text: str) -> str:
    """A text that fits a box: what is too long loses its middle."""
    if len(text) <= MOST_CHARACTERS:
        return text
    kept = MOST_CHARACTERS - 1
    return f"{text[: kept - kept // 2]}…{text[-(kept // 2) :]}"


def draw(boxes: Sequence[Box], arrows: Sequence[Arrow], *, title: str, description: str) -> str:
    """The picture, whole in itself.

    Args:
        boxes: Nodes; their ids differ.
        arrows: Edges between them.
        title: What the picture shows.
        description: The same in a sentence, for those who cannot see it.
    """
    columns = _columns(boxes, arrows)
    places, width, height = _places(columns)
    by_id = {b.id: b for b in boxes}
    parts = [
        f'<svg class="graph" xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="0 0 {width:g} {height:g}" style="max-width:{width:g}px" role="img" '
        f'aria-label="{escape(title)}. {escape(description)}">',
        f"<title>{escape(title)}</title><desc>{escape(description)}</desc>",
        f"<style>{STYLES}</style>",
    ]
    parts += [_arrow(a, by_id, places) for a in arrows]
    parts += [_box(b, *places[b.id], columns) for column in columns for b in column]
    return "".join([*parts, "</svg>"])


def _columns(boxes: Sequence[Box], arrows: Sequence[Arrow]) -> list[list[Box]]:
    """Boxes by column; empty columns are closed up."""
    columns = [[b for b in boxes if b.column == c] for c in sorted({b.column for b in boxes})]
    row: dict[str, float] = {}
    for column in columns:
        order = {b.id: _middle(b, arrows, row, i) for i, b in enumerate(column)}
        column.sort(key=lambda box: order[box.id])
        row |= {b.id: i - (len(column) - 1) / 2 for i, b in enumerate(column)}
    return columns


def _middle(
    box: Box, arrows: Sequence[Arrow], row: Mapping[str, float], position: int
) -> tuple[float, int]:
    """Where a box wants to stand: in the middle of those that lead to it, else where it came."""
    before = [row[a.source] for a in arrows if a.target == box.id and a.source in row]
    return (sum(before) / len(before) if before else float(position), position)


def _places(
    columns: Sequence[Sequence[Box]],
) -> tuple[dict[str, tuple[float, float]], float, float]:
    """Where each box's upper left corner is, and the size of the whole."""
    tall = [sum(b.height for b in c) + _BETWEEN_BOXES * (len(c) - 1) for c in columns]
    height = max(tall, default=0) + 2 * _MARGIN
    places: dict[str, tuple[float, float]] = {}
    left = float(_MARGIN)
    for column, own in zip(columns, tall, strict=True):
        top = (height - own) / 2
        for box in column:
            places[box.id] = (left, top)
            top += box.height + _BETWEEN_BOXES
        left += _wide(column) + _BETWEEN_COLUMNS
    return places, left - _BETWEEN_COLUMNS + _MARGIN, height


def _wide(column: Sequence[Box]) -> float:
    return max(b.width for b in column)


def _box(box: Box, left: float, top: float, columns: Sequence[Sequence[Box]]) -> str:
    width = next(_wide(c) for c in columns if any(b.id == box.id for b in c))
    text = left + _PAD + 4
    lines = [
        f'<text class="kind" x="{text:g}" y="{top + _LINE:g}">{escape(box.kind)}</text>',
        f'<text class="name" x="{text:g}" y="{top + 2 * _LINE:g}">{escape(shortened(box.name))}</text>',
    ]
    lines += [
        f'<text x="{text:g}" y="{top + (3 + i) * _LINE:g}">{escape(shortened(line))}</text>'
        for i, line in enumerate(box.lines)
    ]
    whole = box.whole or " · ".join((box.name, *box.lines))
    return (
        f"<g><title>{escape(box.kind)}: {escape(whole)}</title>"
        f'<rect class="box {box.style}" x="{left:g}" y="{top:g}" width="{width:g}" '
        f'height="{box.height:g}" rx="7"/>'
        f'<rect class="tab {box.style}" x="{left:g}" y="{top + 7:g}" width="4" '
        f'height="{box.height - 14:g}" rx="2"/>{"".join(lines)}</g>'
    )


def _arrow(arrow: Arrow, by_id: dict[str, Box], places: dict[str, tuple[float, float]]) -> str:
    source, target = by_id[arrow.source], by_id[arrow.target]
    (x1, y1), (x2, y2) = places[source.id], places[target.id]
    dashed = " dashed" if arrow.dashed else ""
    if source.column == target.column:
        x, down = x1 + min(source.width, target.width) / 2, y2 > y1
        start = y1 + source.height if down else y1
        end = y2 if down else y2 + target.height
        tip = -7 if down else 7
        return (
            f'<path class="arrow{dashed}" d="M{x:g} {start:g}L{x:g} {end + tip:g}"/>'
            f'<path class="head" d="M{x:g} {end:g}l-4 {tip:g}h8z"/>'
        )
    start, end = y1 + source.height / 2, y2 + target.height / 2
    # From where the source's column ends, whatever the width of this box.
    same = [b for b in by_id.values() if b.column == source.column]
    out = x1 + _wide(same)
    bend = max((x2 - out) / 2, 24)
    path = (
        f'<path class="arrow{dashed}" d="M{out:g} {start:g}'
        f'C{out + bend:g} {start:g} {x2 - bend:g} {end:g} {x2 - 7:g} {end:g}"/>'
        f'<path class="head" d="M{x2:g} {end:g}l-7 -4v8z"/>'
    )
    if arrow.label:
        x, y = (out + x2) / 2, (start + end) / 2 - 5
        path += (
            f'<text class="edge" x="{x:g}" y="{y:g}" text-anchor="middle">'
            f"{escape(arrow.label)}</text>"
        )
    return path

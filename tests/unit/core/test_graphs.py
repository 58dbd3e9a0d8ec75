"""Graphs as SVG: well formed, the same every time, and nothing of a user's runs in them."""

import itertools
import re
from xml.etree import ElementTree as ET

import pytest

from millrace.graphs import MOST_CHARACTERS, Arrow, Box, draw, shortened

BOXES = [
    Box("b", 1, "run", "run-1", ("upload",), "work"),
    Box("a", 0, "upload", "data.csv", ("120 bytes",), "data"),
    Box("c", 1, "spec", "churn/1"),
    Box("d", 3, "model version", "churn@1", ("linear", "sha256 ab"), "model"),
]
ARROWS = [Arrow("a", "b"), Arrow("c", "b", dashed=True), Arrow("b", "d", "made")]


def drawn(boxes: list[Box]) -> str:
    return draw(boxes, ARROWS, title="A <graph>", description="All & everything")


def test_it_is_one_whole_image_with_a_title() -> None:
    root = ET.fromstring(drawn(BOXES))  # noqa: S314 - made here

    texts = [t.text for t in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"run-1", "data.csv", "churn@1", "made", "120 bytes"} <= set(texts)
    assert root.attrib["aria-label"] == "A <graph>. All & everything"
    assert drawn(BOXES) == drawn(BOXES)


def test_boxes_of_a_column_do_not_overlap_and_columns_follow_each_other() -> None:
    found = re.findall(
        r'class="box \w+" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"',
        drawn(BOXES),
    )
    places = sorted(tuple(map(float, f)) for f in found)

    assert len(places) == len(BOXES)
    for (x1, y1, w1, h1), (x2, y2, _, _) in itertools.pairwise(places):
        assert x2 >= x1 + w1 if x1 != x2 else y2 >= y1 + h1


@pytest.mark.parametrize("hostile", ["<script>alert(1)</script>", '"><b>', "a & b"])
def test_what_a_user_wrote_is_text(hostile: str) -> None:
    box = Box("a", 0, "upload", hostile, (hostile,), whole=hostile)

    picture = draw([box], [], title=hostile, description=hostile)

    ET.fromstring(picture)  # noqa: S314 - made here
    assert "<script>" not in picture
    assert "<b>" not in picture


def test_a_long_name_loses_its_middle_and_keeps_its_ends() -> None:
    name = "churn-" + "0" * 60 + "-end"

    assert len(shortened(name)) == MOST_CHARACTERS
    assert shortened(name).startswith("churn-")
    assert shortened(name).endswith("-end")
    assert shortened("short") == "short"

"""Which lines a log subscription is sent."""

import json
from typing import Any

import pytest

from infra.local.filters import UnknownPatternError, matches

CAPTURED = json.dumps({"message": "predicted", "rows": 2.5, "capture": {"schema": 1}})
EITHER = "{ ($.capture.schema >= 1) || ($.rollout.step >= 0) }"
PLAIN = json.dumps({"message": "predicted", "capture": None})


@pytest.mark.parametrize(
    ("pattern", "message", "expected"),
    [
        pytest.param("{ $.capture.schema = 1 }", CAPTURED, True, id="a number that is there"),
        pytest.param("{$.capture.schema=2}", CAPTURED, False, id="another number"),
        pytest.param("{ $.capture.schema >= 1 }", CAPTURED, True, id="at least"),
        pytest.param("{ $.rows > 2.5 }", CAPTURED, False, id="more than"),
        pytest.param("{ $.capture.schema = 1 }", PLAIN, False, id="nothing there"),
        pytest.param("{ $.capture.schema = 1 }", "START RequestId: 1", False, id="no JSON"),
        pytest.param("{ $.capture.schema = 1 }", "[1]", False, id="no object"),
        pytest.param("{ $.capture = 1 }", '{"capture": true}', False, id="a boolean is no number"),
        pytest.param('{ $.message = "predicted" }', CAPTURED, True, id="a text"),
        pytest.param('{ $.message != "predicted" }', CAPTURED, False, id="another text"),
        pytest.param(EITHER, CAPTURED, True, id="the first of two"),
        pytest.param(EITHER, '{"rollout": {"step": 0}}', True, id="the second of two"),
        pytest.param(EITHER, PLAIN, False, id="none of two"),
        pytest.param("", PLAIN, True, id="every line"),
        pytest.param("predicted capture", CAPTURED, True, id="all terms"),
        pytest.param("predicted refused", CAPTURED, False, id="a term that is not there"),
        pytest.param('"RequestId: 1"', "START RequestId: 1", True, id="a phrase"),
    ],
)
def test_a_line_fits_a_pattern(pattern: str, message: str, expected: bool) -> None:
    assert matches(pattern, message) is expected


UNKNOWN: list[Any] = [
    "{ $.a = 1 || $.b = 2 }",
    "{ ($.a = 1) || ($.b IS NULL) }",
    "{ $.a = 1 && $.b = 2 }",
    "{ $.a IS NULL }",
    "[ip, user]",
    "-error",
    "%re%",
]


@pytest.mark.parametrize("pattern", UNKNOWN)
def test_a_pattern_that_is_not_known_is_refused(pattern: str) -> None:
    with pytest.raises(UnknownPatternError, match="expected"):
        matches(pattern, CAPTURED)

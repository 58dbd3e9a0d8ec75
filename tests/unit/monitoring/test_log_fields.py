"""Whether real log lines fit the mapping that docs/monitoring.md gives to OpenSearch and Elasticsearch."""

import io
import json
import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aws_lambda_powertools import Logger

from millrace.errors import InvalidRequestError
from millrace.serving.identity import Role
from millrace.serving.journal import PredictionLog
from tests.unit.serving.test_journal import line_of, predicted

ROOT = Path(__file__).parents[3]
TEMPLATE = json.loads((ROOT / "infra/monitoring/opensearch-index-template.json").read_text())
MAPPING = TEMPLATE["template"]["mappings"]
PAGE = (ROOT / "docs/monitoring.md").read_text()

DATES = (
    re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+(Z|[+-]\d\d:\d\d)"),
    re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}[+-]\d{4}"),
)
"""``strict_date_optional_time`` and the format of Powertools."""


def misfits(document: dict[str, Any], properties: dict[str, Any], path: str = "") -> list[str]:
    """Fields that the mapping does not name, or would refuse."""
    found = []
    for name, value in document.items():
        rule, at = properties.get(name), f"{path}{name}"
        if rule is None:
            found.append(f"{at} is not mapped")
        elif "properties" in rule:
            found += misfits(value, rule["properties"], f"{at}.")
        elif not fits(value, rule):
            found.append(f"{at}: {value!r} is no {rule['type']}")
    return found


def fits(value: Any, rule: dict[str, Any]) -> bool:
    """Whether a value can be indexed so; a list by each of its values."""
    if isinstance(value, list) and rule["type"] != "object":
        return all(fits(one, rule) for one in value)
    match rule["type"]:
        case "object":
            return isinstance(value, dict) and rule.get("enabled") is False
        case "keyword" | "text":
            return isinstance(value, str | int | float | bool)
        case "long" | "integer":
            return type(value) is int
        case "double":
            return type(value) in (int, float)
        case "boolean":
            return type(value) is bool
        case "date":
            return isinstance(value, str) and any(form.fullmatch(value) for form in DATES)
        case other:
            raise AssertionError(f"no rule for {other}")


def refused() -> dict[str, Any]:
    lines: list[bytes] = []
    PredictionLog(lines.append).refused(
        InvalidRequestError("no"), model="churn", seconds=0.01, correlation_id="c"
    )
    read: dict[str, Any] = json.loads(lines[0])
    return read


def logged() -> dict[str, Any]:
    stream = io.StringIO()
    logger = Logger(
        service="fields", utc=True, logger_handler=logging.StreamHandler(stream), child=False
    )
    logger.append_keys(run_id="churn-1", model="churn", function_name="millrace-train")
    logger.set_correlation_id("c")
    try:
        raise ValueError("told")
    except ValueError:
        logger.exception("a step failed", error="told", cold_start=True, function_memory_size=512)
    read: dict[str, Any] = json.loads(stream.getvalue())
    return read


def rolled() -> dict[str, Any]:
    route: Any = SimpleNamespace(rollout_id="churn-3-abc", step=1)
    return line_of(predicted(2)._replace(role=Role.CHALLENGER, lacking=True, route=route))


LINES = {
    "an answer": lambda: line_of(predicted(1)),
    "an answer of many rows": lambda: line_of(predicted(400)),
    "an answer of a rollout": rolled,
    "a refusal": refused,
    "a line of a function": logged,
}


@pytest.mark.parametrize("line", LINES)
def test_real_lines_fit_the_mapping(line: str) -> None:
    document = LINES[line]()

    assert misfits(document, MAPPING["properties"]) == []


def test_a_field_that_is_not_mapped_is_found() -> None:
    properties = {k: v for k, v in MAPPING["properties"].items() if k != "row_count"}

    assert misfits(line_of(predicted(1)), properties) == ["row_count is not mapped"]
    assert not fits("9", {"type": "long"})
    assert not fits("yesterday", {"type": "date"})


def test_inputs_and_outputs_are_kept_and_not_searched() -> None:
    """So that a feature's name or value makes no field, and no index grows with a contract."""
    for name in ("capture", "warnings"):
        assert MAPPING["properties"][name] == {"type": "object", "enabled": False}


def test_the_page_names_every_field() -> None:
    missing = [n for n in MAPPING["properties"] if f"`{n}`" not in PAGE]

    assert missing == []

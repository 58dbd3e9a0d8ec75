"""Metrics in logs: CloudWatch's embedded metric format, read as CloudWatch reads it.

Format: "Specification: Embedded metric format" in the CloudWatch user guide.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MAX_DIMENSIONS = 30
MAX_VALUES = 100


@dataclass(frozen=True, slots=True)
class MetricValue:
    """One value of one metric in one dimension set."""

    namespace: str
    name: str
    value: float
    unit: str
    dimensions: tuple[tuple[str, str], ...]


def embedded_metrics(log: str) -> Iterator[MetricValue]:
    """Finds every embedded metric of a log; lines that are not in the format are plain log."""
    for line in log.splitlines():
        if '"_aws"' not in line:
            continue
        try:
            document = json.loads(line)
        except ValueError:
            continue
        if isinstance(document, dict):
            yield from _of_document(document)


def _of_document(document: dict[str, Any]) -> Iterator[MetricValue]:
    metadata = document.get("_aws")
    directives = metadata.get("CloudWatchMetrics") if isinstance(metadata, dict) else None
    for directive in directives if isinstance(directives, list) else ():
        if isinstance(directive, dict) and isinstance(directive.get("Namespace"), str):
            yield from _of_directive(document, directive)


def _of_directive(document: dict[str, Any], directive: dict[str, Any]) -> Iterator[MetricValue]:
    for keys in directive.get("Dimensions") or [[]]:
        if len(keys) > MAX_DIMENSIONS or not all(isinstance(document.get(k), str) for k in keys):
            continue
        dimensions = tuple(sorted((key, document[key]) for key in keys))
        for metric in directive.get("Metrics") or ():
            name = metric.get("Name")
            found = document.get(name)
            for value in (found if isinstance(found, list) else [found])[:MAX_VALUES]:
                if isinstance(value, int | float) and not isinstance(value, bool):
                    yield MetricValue(
                        namespace=directive["Namespace"],
                        name=name,
                        value=float(value),
                        unit=metric.get("Unit", "None"),
                        dimensions=dimensions,
                    )

"""The pages behind the link of a notice: small, without scripts, readable on a telephone."""

import base64
import hashlib
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from millrace.messages import MetricValue


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("millrace.http", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"moment": _moment, "number": _number}
    # Our own file, and part of no request.
    made.globals["style"] = Markup(_style())  # noqa: S704
    return made


def render(template: str, **facts: Any) -> str:
    """A page.

    Args:
        template: Its file in this folder.
        **facts: What it shows; escaped, whatever it is.
    """
    return _environment().get_template(template).render(**facts)


@cache
def policy() -> str:
    """The pages' content security policy: their one style sheet, their form, and nothing else."""
    digest = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    )


@cache
def _style() -> str:
    return resources.files("millrace.http.pages").joinpath("page.css").read_text(encoding="utf-8")


def _moment(at: datetime | None) -> str:
    return "" if at is None else f"{at.astimezone(UTC):%d %B %Y, %H:%M} UTC".lstrip("0")


def _number(metric: MetricValue | None, *, signed: bool = False) -> str:
    if metric is None:
        return "–"
    text = f"{metric.value:+.4f}" if signed else f"{metric.value:.4f}"
    if metric.low is None or metric.high is None:
        return text
    between = (
        f"{metric.low:+.4f} to {metric.high:+.4f}"
        if signed
        else (f"{metric.low:.4f} to {metric.high:.4f}")
    )
    return f"{text} ({between})"

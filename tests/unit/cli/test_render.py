"""What a person sees fits the width there is, and cuts nothing away."""

from typing import Any

import pytest
from rich.console import Console, RenderableType

from millrace_cli import render
from millrace_cli.follow import Happening

WIDTHS = [60, 80, 120]
REASON = "1 of 4 gates failed: roc_auc 0.742 [0.703, 0.783] is below the least allowed 0.850"


def _shown(renderable: RenderableType, width: int) -> list[str]:
    console = Console(width=width, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get().splitlines()


def _version(**changed: Any) -> dict[str, Any]:
    return {
        "version": 12,
        "status": "rejected",
        "aliases": [],
        "algorithm": "hist_gradient_boosting",
        "metrics": {"roc_auc": {"value": 0.7421, "low": 0.7, "high": 0.78}},
        "cv_metric": "roc_auc",
        "dataset_version": "403c505d1d350f8ea1eee90278cdb0e2",
        "created_at": "2026-11-21T13:20:01.5Z",
        "reason": REASON,
    } | changed


@pytest.mark.parametrize("width", WIDTHS)
def test_a_long_reason_is_shown_whole_and_leaves_the_columns_alone(width: int) -> None:
    lines = _shown(render.versions_table([_version(), _version(version=3)]), width)

    assert max(map(len, lines)) <= width
    assert REASON in " ".join(" ".join(lines).split())
    if width >= 80:
        row = next(line for line in lines if line.startswith("12"))
        assert "rejected" in row
        assert "hist_gradient_boosting" in row
        assert "roc_auc 0.7421" in row


def test_a_champion_is_named_by_its_alias() -> None:
    lines = _shown(render.versions_table([_version(status="champion", aliases=["champion"])]), 80)

    assert "@champion" in lines[1]


@pytest.mark.parametrize("width", WIDTHS)
def test_long_parameters_wrap_below_themselves(width: int) -> None:
    words = "roc_auc 0.6730 ± 0.0205  " + ", ".join(f"parameter_{i}={i}" for i in range(9))
    happening = Happening("trial", "hist_gradient_boosting", words, 1.25)

    first, *rest = _shown(render.happening_line(happening), width)

    assert "✓" in first
    assert "1.2 s" in first
    column = first.index("roc_auc")
    assert all(line[:column].strip() == "" for line in rest)


def test_a_refusal_names_its_rule_and_no_error() -> None:
    run = {
        "run_id": "churn-1",
        "status": "FINISHED",
        "outcome": "refused",
        "reason": "the column age is missing",
        "error": "missing_columns",
    }

    shown = "\n".join(_shown(render.run_summary(run), 80))

    assert "rule" in shown
    assert "missing_columns" in shown
    assert "error" not in shown


def test_an_empty_listing_says_so() -> None:
    assert _shown(render.models_table([]), 80) == ["none yet"]


def test_a_boolean_label_reads_as_its_probability_column() -> None:
    answer = {
        "model": "churn",
        "version": 1,
        "prediction_id": "p",
        "predictions": [{"label": False, "probabilities": {"false": 0.9, "true": 0.1}}],
    }

    shown = "\n".join(_shown(render.prediction_table(answer), 80))

    assert "p(false)" in shown
    assert "False" not in shown

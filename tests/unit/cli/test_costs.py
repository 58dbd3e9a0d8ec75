"""What a person sees of a model's costs."""

from io import StringIO
from typing import Any

from rich.console import Console

from millrace_cli.costs import costs_page, dollars

COSTS: dict[str, Any] = {
    "model": "churn",
    "since": "2026-11-01T00:00:00Z",
    "until": "2026-11-21T12:00:00Z",
    "usd": 1.25,
    "requests": 90_000,
    "rows": 100_000,
    "per_thousand_predictions": 0.0124,
    "parts": [
        {"name": "API requests", "usd": 0.315},
        {"name": "logs", "usd": 0.0},
        {"name": "trainings", "usd": 0.004},
    ],
    "trainings": [
        {"run_id": "churn-1", "began": "2026-11-20T03:00:00Z", "usd": 0.004, "seconds": 44.0}
    ],
    "monthly_budget": 1.5,
    "budget_state": "warned",
    "prices_of": "2026-05-05",
}


def shown(costs: dict[str, Any]) -> str:
    console = Console(file=StringIO(), width=100, color_system=None)
    console.print(costs_page(costs))
    file = console.file
    assert isinstance(file, StringIO)
    return file.getvalue()


def test_the_month_the_budget_a_thousand_predictions_and_each_training_are_shown() -> None:
    page = shown(COSTS)

    assert "November 2026 so far" in page
    assert "$1.25" in page
    assert "more than four fifths of the budget of $1.50" in page
    assert "100,000 rows in 90,000 requests" in page
    assert "$0.01240" in page
    assert "churn-1" in page
    assert "logs" not in page, "what costs nothing is left out"
    assert "public prices of 2026-05-05" in page


def test_a_model_that_nobody_asked_says_so() -> None:
    page = shown({**COSTS, "per_thousand_predictions": None, "parts": [], "trainings": []})

    assert "none yet" in page


def test_small_sums_keep_the_digits_that_say_something() -> None:
    assert (dollars(12.345), dollars(0.00421)) == ("$12.35", "$0.00421")

"""What a model costs."""

from typing import Annotated, Literal

from fastapi import FastAPI, Query
from pydantic import AwareDatetime, Field

from millrace.http import problems
from millrace.http.endpoints.collaborators import Collaborators
from millrace.http.endpoints.parameters import Name, moment
from millrace.http.prediction_models import Answer
from millrace.monitoring import prices
from millrace.monitoring.costs import Spending, counted_from
from millrace.monitoring.retraining import Spent

Until = Annotated[
    str | None,
    Query(
        max_length=40,
        description="From the first of this moment's month to it, ISO 8601. Default: now.",
    ),
]


class CostPart(Answer):
    """One thing that is paid for."""

    name: str
    usd: float


class TrainingCostView(Answer):
    """What a run cost."""

    run_id: str
    began: AwareDatetime
    usd: float
    seconds: float = Field(description="Measured time of its steps.")


class ModelCosts(Answer):
    """What a model cost in a calendar month, in US dollars without tax and free tiers."""

    model: str
    since: AwareDatetime
    until: AwareDatetime
    usd: float
    requests: int
    rows: int
    per_thousand_predictions: float | None = Field(
        description="A thousand predicted rows; null when nothing was predicted."
    )
    parts: tuple[CostPart, ...]
    trainings: tuple[TrainingCostView, ...] = Field(description="The newest first.")
    monthly_budget: float | None = Field(description="Of the spec; null when it sets none.")
    budget_state: Literal["none", "within", "warned", "exhausted"]
    prices_of: str = Field(description="Date of the public prices, us-east-1.")


def add_cost_routes(app: FastAPI, with_: Collaborators) -> None:
    """Adds them to the app."""
    spending = Spending(with_.table, with_.registry, counted_from(with_.table), with_.sizes)

    @app.get(
        "/v1/models/{name}/costs",
        tags=["monitoring"],
        operation_id="get_costs",
        summary="What a model costs: by month, by thousand predictions, by training",
        responses=problems.documented(404),
    )
    async def get_costs(name: Name, until: Until = None) -> ModelCosts:
        model = with_.registry.get_model(name)
        at = moment(until, "until") or with_.clock()
        month = spending.of_month(name, at)
        per_thousand = month.per_thousand
        return ModelCosts(
            model=name,
            since=month.month,
            until=at,
            usd=float(month.usd),
            requests=month.usage.requests,
            rows=month.usage.rows,
            per_thousand_predictions=None if per_thousand is None else float(per_thousand),
            parts=tuple(CostPart(name=line.name, usd=float(line.usd)) for line in month.lines),
            trainings=tuple(
                TrainingCostView(
                    run_id=one.run_id, began=one.began, usd=float(one.usd), seconds=one.seconds
                )
                for one in month.trainings
            ),
            monthly_budget=model.monthly_budget,
            budget_state=Spent(float(month.usd), model.monthly_budget).state,
            prices_of=prices.READ,
        )

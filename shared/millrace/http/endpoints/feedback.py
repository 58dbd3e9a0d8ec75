"""POST /v1/models/{name}/feedback: ground truth for predictions made before."""

from typing import Annotated, Any, Final

from fastapi import FastAPI, Path
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from millrace.http import problems
from millrace.http.bodies import expect_media_type, media_type, read_body
from millrace.monitoring.feedback import MAX_BODY_BYTES, MAX_LABELS, Feedback, Format
from millrace.monitoring.labels import MAX_ROW
from millrace.serving.identity import PREDICTION_ID_PATTERN
from millrace.spec import MODEL_NAME_PATTERN

JSON_TYPE: Final = "application/json"
NDJSON_TYPES: Final = ("application/x-ndjson", "application/jsonl", "application/jsonlines")
CSV_TYPE: Final = "text/csv"


class LabelEntry(BaseModel):
    """The truth about one row of one prediction."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prediction_id: str = Field(
        pattern=PREDICTION_ID_PATTERN, description="As the answer to the prediction named it."
    )
    row: int = Field(
        0, ge=0, le=MAX_ROW, description="Which row of the prediction's request, 0-based."
    )
    label: int | float | bool | str = Field(
        description="A class in the type in which predictions name it, or a regression's value."
    )
    observed_at: str | None = Field(
        None,
        description="When it was so, in ISO 8601 with its offset from UTC. The label observed last "
        "holds; without this, the label received last.",
    )


class LabelEntries(BaseModel):
    """Many of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    labels: list[LabelEntry] = Field(min_length=1, max_length=MAX_LABELS)


class FeedbackTaken(BaseModel):
    """What came of the labels of one request."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    received: int = Field(description="Entries of the request.")
    accepted: int = Field(description="First labels of their rows.")
    duplicate: int = Field(description="Labels that were known already.")
    corrected: int = Field(description="Labels that took the place of another.")
    outdated: int = Field(
        description="Labels observed before the one that is known; kept as history."
    )


DOCUMENTED: Final = (LabelEntry, LabelEntries)
"""Models of the request body, which the OpenAPI document must define beside the route."""

_ID: Final = "01983f5e-6c00-7a10-8b3c-0123456789ab"
_CSV: Final = f"prediction_id,row,label,observed_at\n{_ID},0,true,2026-11-21T18:20:00Z\n"
_BODY: Final[dict[str, Any]] = {
    "required": True,
    "description": f"One label or up to {MAX_LABELS:,}; all are taken or none. May come gzipped.",
    "content": {
        JSON_TYPE: {
            "schema": {
                "oneOf": [
                    {"$ref": "#/components/schemas/LabelEntry"},
                    {"$ref": "#/components/schemas/LabelEntries"},
                ]
            },
            "examples": {
                "one": {"value": {"prediction_id": _ID, "label": True}},
                "many": {
                    "value": {
                        "labels": [
                            {"prediction_id": _ID, "row": 0, "label": True},
                            {
                                "prediction_id": _ID,
                                "row": 1,
                                "label": False,
                                "observed_at": "2026-11-21T18:20:00Z",
                            },
                        ]
                    }
                },
            },
        },
        NDJSON_TYPES[0]: {
            "schema": {"type": "string"},
            "examples": {"lines": {"value": f'{{"prediction_id": "{_ID}", "label": true}}\n'}},
        },
        CSV_TYPE: {"schema": {"type": "string"}, "examples": {"lines": {"value": _CSV}}},
    },
}


def add_feedback_route(app: FastAPI, feedback: Feedback) -> None:
    """Adds the route.

    Args:
        app: The app.
        feedback: Takes the labels.
    """

    @app.post(
        "/v1/models/{name}/feedback",
        tags=["predictions"],
        operation_id="feedback",
        summary="Tell the truth about predictions",
        responses=problems.documented(400, 404, 413, 415),
        openapi_extra={"requestBody": _BODY},
    )
    async def send_feedback(
        name: Annotated[str, Path(pattern=MODEL_NAME_PATTERN, description="The model.")],
        request: Request,
    ) -> FeedbackTaken:
        expect_media_type(request, JSON_TYPE, *NDJSON_TYPES, CSV_TYPE)
        body = await read_body(request, MAX_BODY_BYTES)
        counts = feedback.take(name, body, _format(media_type(request)))
        return FeedbackTaken(
            model=name,
            received=counts.total,
            accepted=counts.accepted,
            duplicate=counts.duplicate,
            corrected=counts.corrected,
            outdated=counts.outdated,
        )


def _format(kind: str) -> Format:
    if kind == CSV_TYPE:
        return Format.CSV
    return Format.NDJSON if kind in NDJSON_TYPES else Format.JSON

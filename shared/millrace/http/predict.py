"""The prediction app as FastAPI describes it.

FastAPI gives the OpenAPI document and the answers to routes that do not exist. Predictions are
dispatched past it by `service`; asked here, they are answered by the same code.
"""

from typing import Any, Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

import millrace
from millrace.http import problems
from millrace.http.entity import ENTITY_PARAMETERS
from millrace.http.hot_route import PREDICTION_HEADER, VERSION_HEADER, HotRoute
from millrace.http.prediction_models import (
    PredictColumns,
    PredictionColumns,
    Predictions,
    PredictRows,
)
from millrace.serving.answers import Output
from millrace.serving.identity import PREDICTION_ID_PATTERN
from millrace.vocabulary import MODEL_NAME_PATTERN

_CSV: Final = "text/csv"
_ARROW: Final = "application/vnd.apache.arrow.stream"
_BODY: Final[dict[str, Any]] = {
    "required": True,
    "description": "One row or thousands. Every feature of the model's signature must be there; "
    "null, or an empty cell, where there is no value. Every format may come gzipped, and every one "
    "is held to the same rules. More rows than one request may carry are scored as a batch: "
    "`POST /v1/models/{name}/batch`.",
    "content": {
        "application/json": {
            "schema": {
                "oneOf": [
                    {"$ref": "#/components/schemas/PredictRows"},
                    {"$ref": "#/components/schemas/PredictColumns"},
                ]
            },
            "examples": {
                "rows": {"value": {"rows": [{"age": 41, "plan": "basic"}]}},
                "columns": {
                    "value": {
                        "columns": {"age": [41, 29], "plan": ["basic", None]},
                        "form": "columns",
                    }
                },
            },
        },
        _CSV: {
            "schema": {
                "type": "string",
                "description": "UTF-8 with a header of features, separated by commas (RFC 4180). "
                "The spec's `null_values` mean no value; booleans are true, false, yes, no, 1, 0.",
            },
            "example": "age,plan\r\n41,basic\r\n29,\r\n",
        },
        _ARROW: {
            "schema": {
                "type": "string",
                "format": "binary",
                "description": "An Arrow IPC stream, uncompressed: a column per feature of "
                "integers, floating-point numbers, booleans or strings, which may be "
                "dictionary-encoded. Null and NaN mean no value.",
            }
        },
    },
}
_NAME_PARAMETER: Final[dict[str, Any]] = {
    "name": "name",
    "in": "path",
    "required": True,
    "description": "The model.",
    "schema": {"type": "string", "pattern": MODEL_NAME_PATTERN},
}
_VERSION_PARAMETER: Final[dict[str, Any]] = {
    "name": "version",
    "in": "path",
    "required": True,
    "description": "A model version that may answer: one that passed its gates.",
    "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
}
_QUERY: Final[list[dict[str, Any]]] = [
    {
        "name": "outputs",
        "in": "query",
        "description": "What to tell of each row, separated by commas; labels and probabilities "
        "by default. Not beside `outputs` in the body.",
        "style": "form",
        "explode": False,
        "schema": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "string", "enum": [str(o) for o in Output]},
        },
    },
    {
        "name": "coverage",
        "in": "query",
        "description": "As `coverage` in the body.",
        "schema": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    },
    {
        "name": "form",
        "in": "query",
        "description": "As `form` in the body.",
        "schema": {"type": "string", "enum": ["rows", "columns"]},
    },
]
_ROUTES: Final = (
    (
        "/v1/models/{name}/predict",
        "predict",
        "Ask the champion of a model",
        [_NAME_PARAMETER, *_QUERY, *ENTITY_PARAMETERS],
        (400, 404, 406, 408, 413, 415, 422, 500, 502, 503),
    ),
    (
        "/v1/models/{name}/versions/{version}/predict",
        "predictVersion",
        "Ask a version of a model",
        [_NAME_PARAMETER, _VERSION_PARAMETER, *_QUERY],
        (400, 404, 406, 408, 409, 413, 415, 422, 500, 502, 503),
    ),
)
_ANSWERED: Final[dict[str, Any]] = {
    "description": "Answered, in the format that `Accept` prefers; JSON by default.",
    "headers": {
        VERSION_HEADER: {
            "description": "The model version that answered.",
            "required": True,
            "schema": {"type": "integer"},
        },
        PREDICTION_HEADER: {
            "description": "The prediction's id; ground truth may be sent for it later.",
            "required": True,
            "schema": {"type": "string", "pattern": PREDICTION_ID_PATTERN},
        },
    },
    "content": {
        "application/json": {
            "schema": {
                "oneOf": [
                    {"$ref": "#/components/schemas/Predictions"},
                    {"$ref": "#/components/schemas/PredictionColumns"},
                ]
            }
        },
        _CSV: {
            "schema": {
                "type": "string",
                "description": "A header and one line per row: `label`, `probability_<class>`; "
                "`value`; `contributions_label`, `contributions_base`, `contribution_<feature>`; "
                "`interval_lower`, `interval_upper` or `interval_labels`, a JSON array.",
            }
        },
        _ARROW: {
            "schema": {
                "type": "string",
                "format": "binary",
                "description": "An Arrow IPC stream of one record batch, its columns as in CSV.",
            }
        },
    },
}
DOCUMENTED: Final = (PredictRows, PredictColumns, Predictions, PredictionColumns)
"""Models of bodies that are read and written by hand, which the OpenAPI document must define."""


def create_app(route: HotRoute) -> FastAPI:
    """The app, which answers by the hot route's own code.

    Args:
        route: Answers prediction requests.
    """
    app = FastAPI(
        title="Millrace predictions",
        version=millrace.__version__,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    problems.install(app)

    async def predict(request: Request) -> Response:
        reply = await route.received(request.scope, request.receive)
        reply.tell()
        response = Response(reply.body, reply.status)
        response.raw_headers = list(reply.headers)
        return response

    for path, operation_id, summary, parameters, refusals in _ROUTES:
        app.post(
            path,
            tags=["predictions"],
            operation_id=operation_id,
            summary=summary,
            response_class=Response,
            responses={200: _ANSWERED, **problems.documented(*refusals)},
            openapi_extra={"requestBody": _BODY, "parameters": parameters},
        )(predict)
    return app

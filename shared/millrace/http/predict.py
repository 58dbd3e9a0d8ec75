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
from millrace.http.hot_route import PREDICTION_HEADER, VERSION_HEADER, HotRoute
from millrace.http.prediction_models import PredictColumns, Predictions, PredictRows
from millrace.vocabulary import MODEL_NAME_PATTERN

_BODY: Final[dict[str, Any]] = {
    "required": True,
    "description": "One row or thousands. Every feature of the model's signature must be there; "
    "null where there is no value. JSON may come gzipped.",
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
                "columns": {"value": {"columns": {"age": [41, 29], "plan": ["basic", None]}}},
            },
        }
    },
}
_NAME_PARAMETER: Final[dict[str, Any]] = {
    "name": "name",
    "in": "path",
    "required": True,
    "description": "The model.",
    "schema": {"type": "string", "pattern": MODEL_NAME_PATTERN},
}
_ROUTES: Final = (
    (
        "/v1/models/{name}/predict",
        "predict",
        "Ask the champion of a model",
        [_NAME_PARAMETER],
    ),
)
_ANSWER_HEADERS: Final[dict[str, Any]] = {
    VERSION_HEADER: {
        "description": "The model version that answered.",
        "schema": {"type": "integer"},
    },
    PREDICTION_HEADER: {
        "description": "The prediction's id; ground truth may be sent for it later.",
        "schema": {"type": "string"},
    },
}
DOCUMENTED: Final = (PredictRows, PredictColumns)
"""Models of the request body, which the OpenAPI document must define beside the route."""


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
        reply = await route.reply(request.scope, request.receive)
        response = Response(reply.body, reply.status)
        response.raw_headers = list(reply.headers)
        return response

    for path, operation_id, summary, parameters in _ROUTES:
        app.post(
            path,
            tags=["predictions"],
            operation_id=operation_id,
            summary=summary,
            response_class=Response,
            responses={
                200: {"model": Predictions, "description": "Answered.", "headers": _ANSWER_HEADERS},
                **problems.documented(400, 404, 413, 415, 422, 500, 502, 503),
            },
            openapi_extra={"requestBody": _BODY, "parameters": parameters},
        )(predict)
    return app

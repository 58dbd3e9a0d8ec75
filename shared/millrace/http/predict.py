"""The prediction app: one route, whose body and answer FastAPI never touches.

FastAPI gives routing, errors and the OpenAPI document; the rows go from the request's bytes to
NumPy and from NumPy to the answer's bytes in `serving.codec`. The endpoint is ``async`` although
nothing in it waits: a plain ``def`` would cost a hop to a thread, more than the prediction.
"""

import re
import time
from collections.abc import Callable
from typing import Any, Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

import millrace
from millrace.errors import MillraceError, NotFoundError
from millrace.http import problems
from millrace.http.bodies import expect_media_type, read_body
from millrace.http.prediction_models import PredictColumns, Predictions, PredictRows
from millrace.serving import telemetry
from millrace.serving.codec import DEFAULT_LIMITS, Limits
from millrace.serving.store import LoadedModel, ModelStore
from millrace.spec import MODEL_NAME_PATTERN

_NAME: Final = re.compile(MODEL_NAME_PATTERN)
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
_ANSWER_HEADERS: Final[dict[str, Any]] = {
    "X-Millrace-Model-Version": {
        "description": "The model version that answered.",
        "schema": {"type": "integer"},
    },
    "X-Millrace-Prediction-Id": {
        "description": "The prediction's id; ground truth may be sent for it later.",
        "schema": {"type": "string"},
    },
}
DOCUMENTED: Final = (PredictRows, PredictColumns)
"""Models of the request body, which the OpenAPI document must define beside the route."""


def create_app(
    store: ModelStore,
    *,
    new_id: Callable[[], str],
    limits: Limits = DEFAULT_LIMITS,
    clock: Callable[[], float] = time.perf_counter,
) -> FastAPI:
    """The app.

    Args:
        store: Gives the loaded champion of a model.
        new_id: Makes a prediction id.
        limits: How much one request may carry.
        clock: Seconds, to measure the time an answer takes.
    """
    app = FastAPI(
        title="Millrace predictions",
        version=millrace.__version__,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    problems.install(app)

    @app.post(
        "/v1/models/{name}/predict",
        tags=["predictions"],
        operation_id="predict",
        summary="Ask the champion of a model",
        response_class=Response,
        responses={
            200: {"model": Predictions, "description": "Answered.", "headers": _ANSWER_HEADERS},
            **problems.documented(400, 404, 413, 415, 422, 500, 502, 503),
        },
        openapi_extra={"requestBody": _BODY, "parameters": [_NAME_PARAMETER]},
    )
    async def predict(request: Request) -> Response:
        started = clock()
        loaded: LoadedModel | None = None
        try:
            name = request.path_params["name"]
            if not _NAME.match(name):
                raise NotFoundError(f"there is no model {problems.shown(name)}")
            expect_media_type(request, "application/json")
            body = await read_body(request, limits.body_bytes)
            loaded = store.get(name)
            batch = loaded.codec.decode(body)
            prediction_id = new_id()
            content = loaded.codec.answer(
                loaded.run(batch),
                version=loaded.version,
                prediction_id=prediction_id,
                warnings=batch.warnings,
            )
            telemetry.note_answer(
                model=name,
                version=loaded.version,
                prediction_id=prediction_id,
                rows=batch.rows,
                seconds=clock() - started,
            )
        except MillraceError as exc:
            telemetry.note_refusal(
                model=None if loaded is None else loaded.record.model,
                error=type(exc).__name__,
                fields=len(getattr(exc, "problems", ())),
            )
            raise
        finally:
            telemetry.flush()
        return Response(
            content,
            media_type="application/json",
            headers={
                "X-Millrace-Model-Version": str(loaded.version),
                "X-Millrace-Prediction-Id": prediction_id,
            },
        )

    return app

"""The Open Inference Protocol in the OpenAPI document: its messages and its routes.

`inference` reads and writes them by hand, without a framework; these are their documentation, and
tests hold the two together. Only the document loads them, never a function.
"""

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from millrace.http.entity import ENTITY_PARAMETERS
from millrace.http.problems import ProblemField
from millrace.spec import MODEL_NAME_PATTERN

type Datatype = Literal[
    "BOOL", "BYTES", "FP16", "FP32", "FP64",
    "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64",
]  # fmt: skip
type Parameters = dict[str, Any]


class _Message(BaseModel):
    """Base of the protocol's messages, which may carry more than is known here."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())


class ServerMetadata(_Message):
    """Which server this is."""

    name: str
    version: str
    extensions: list[str] = Field(description="Extensions of the protocol that it speaks.")


class ServerLive(_Message):
    """The server answers."""

    live: bool


class ServerReady(_Message):
    """The server can learn what to serve."""

    ready: bool


class ModelReady(_Message):
    """A model can answer."""

    name: str
    ready: bool


class IndexRequest(_Message):
    """Which models to list."""

    ready: bool = Field(False, description="Only those that are ready.")


class IndexedModel(_Message):
    """One model of the repository."""

    name: str
    version: str | None = Field(None, description="Its champion; absent when it has none.")
    state: Literal["READY", "UNAVAILABLE"]
    reason: str = Field(description="Why it is not ready; empty when it is.")


class TensorMetadata(_Message):
    """One input or output of a model."""

    name: str
    datatype: Datatype
    shape: list[int] = Field(description="-1 is the number of rows.")


class ModelMetadata(_Message):
    """What a model takes and gives."""

    name: str
    versions: list[str] = Field(description="The version that the rest speaks of.")
    platform: str
    inputs: list[TensorMetadata] = Field(description="One tensor per feature.")
    outputs: list[TensorMetadata]
    properties: dict[str, str] = Field(
        description="`task`, `target`, `classes` in the order of the probabilities, and the "
        "features of the packed inputs: `packed.numeric`, `packed.categorical`. Lists are JSON."
    )


class RequestTensor(_Message):
    """One input, with its data here or, with `binary_data_size`, after the JSON."""

    name: str
    shape: list[int] = Field(min_length=1, max_length=2)
    datatype: Datatype
    parameters: Parameters | None = None
    data: list[Any] | None = Field(None, description="Row-major, flat or nested as the shape.")


class RequestedOutput(_Message):
    """An output that is wanted."""

    name: str
    parameters: Parameters | None = Field(None, description="`binary_data`: true for bytes.")


class InferRequest(_Message):
    """Rows as tensors: one per feature, or the packed `numeric` and `categorical`."""

    id: str | None = Field(None, description="Given back in the answer.")
    parameters: Parameters | None = Field(
        None, description="`binary_data_output`: true for all outputs as bytes."
    )
    inputs: list[RequestTensor]
    outputs: list[RequestedOutput] | None = Field(None, description="All, when none is named.")


class ResponseTensor(_Message):
    """One output, with its data here or, with `binary_data_size`, after the JSON."""

    name: str
    shape: list[int]
    datatype: Datatype
    parameters: Parameters | None = None
    data: list[Any] | None = None


class InferResponse(_Message):
    """What the model answered."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: Parameters = Field(
        description="`prediction_id`, that ground truth may be sent for; `warnings`, JSON, when "
        "values lie outside the training contract."
    )
    outputs: list[ResponseTensor]


class InferenceError(_Message):
    """An error as the protocol has it, with the code and fields of problem details."""

    error: str = Field(description="What was expected and what came, for people.")
    code: str | None = Field(None, description="Stable name of the error, for programs.")
    correlation_id: str | None = Field(None, description="Finds the log lines of this request.")
    errors: list[ProblemField] = Field([], description="Every wrong field.")


DOCUMENTED: Final = (
    ServerMetadata,
    ServerLive,
    ServerReady,
    ModelReady,
    IndexRequest,
    IndexedModel,
    ModelMetadata,
    InferRequest,
    InferResponse,
    InferenceError,
)
_ERRORS: Final[dict[int, str]] = {
    401: "Nobody proved who calls.",
    403: "The caller may not ask this.",
    400: "The request is malformed or does not fit the model; `errors` names the fields.",
    404: "There is no such model or version, or it has no champion.",
    409: "The version has not passed its gates: it may not answer.",
    413: "More rows or bytes than one request may carry.",
    415: "The content encoding is not supported.",
    429: "Too many requests.",
    500: "Something failed inside.",
    502: "A service behind the API refused it.",
    503: "A service behind the API is busy; `Retry-After` says when to try again.",
}
_NAME: Final[dict[str, Any]] = {
    "name": "name",
    "in": "path",
    "required": True,
    "description": "The model.",
    "schema": {"type": "string", "pattern": MODEL_NAME_PATTERN},
}
_VERSION: Final[dict[str, Any]] = {
    "name": "version",
    "in": "path",
    "required": True,
    "description": "A version that may answer.",
    "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
}
_LENGTH: Final[dict[str, Any]] = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "required": False,
    "description": "Bytes of JSON, when binary tensors follow them.",
    "schema": {"type": "integer", "minimum": 1},
}
_OF_MODEL: Final = (400, 404, 409, 413, 415, 500, 502, 503)
_OF_SERVER: Final = (400, 413, 415, 500, 502, 503)


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def documented(*statuses: int) -> dict[int, dict[str, Any]]:
    """The OpenAPI entries of the errors that a route may answer with."""
    return {
        status: {
            "description": _ERRORS[status],
            "content": {"application/json": {"schema": _reference(InferenceError)}},
        }
        for status in statuses
    }


def _operation(
    name: str,
    summary: str,
    schema: dict[str, Any],
    errors: tuple[int, ...],
    *,
    parameters: tuple[dict[str, Any], ...] = (),
    body: type[BaseModel] | None = None,
) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    headers: dict[str, Any] = {}
    if body is InferRequest:
        content["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
        headers = {"headers": {_LENGTH["name"]: {k: _LENGTH[k] for k in ("description", "schema")}}}
    made: dict[str, Any] = {
        "tags": ["inference"],
        "operationId": name,
        "summary": summary,
        "responses": {
            "200": {"description": "Answered.", "content": content, **headers},
            **{str(status): answer for status, answer in documented(*errors).items()},
        },
    }
    if parameters:
        made["parameters"] = list(parameters)
    if body is not None:
        made["requestBody"] = {
            "required": body is InferRequest,
            "content": {"application/json": {"schema": _reference(body)}},
        }
        if body is InferRequest:
            made["requestBody"]["description"] = (
                "JSON, and after it the data of binary tensors. JSON alone and together they may "
                "come compressed, by gzip or deflate; the Content-Type does not matter."
            )
            made["requestBody"]["content"]["application/json"]["examples"] = {
                "features": {
                    "value": {
                        "inputs": [
                            {"name": "age", "datatype": "INT64", "shape": [2], "data": [41, 29]},
                            {
                                "name": "plan",
                                "datatype": "BYTES",
                                "shape": [2],
                                "data": ["basic", "premium"],
                            },
                        ]
                    }
                }
            }
    return made


def paths() -> dict[str, dict[str, Any]]:
    """The routes as an OpenAPI document has them."""
    found: dict[str, dict[str, Any]] = {
        "/v2": {
            "get": _operation(
                "getServer", "Say which server this is", _reference(ServerMetadata), _OF_SERVER
            )
        },
        "/v2/health/live": {
            "get": _operation(
                "isServerLive", "Say that the server answers", _reference(ServerLive), _OF_SERVER
            )
        },
        "/v2/health/ready": {
            "get": _operation(
                "isServerReady",
                "Say that the server can learn what to serve",
                _reference(ServerReady),
                _OF_SERVER,
            )
        },
        "/v2/repository/index": {
            "post": _operation(
                "indexRepository",
                "List the models and whether they can answer",
                {"type": "array", "items": _reference(IndexedModel)},
                _OF_SERVER,
                body=IndexRequest,
            )
        },
    }
    for path, suffix, parameters in (
        ("/v2/models/{name}", "", (_NAME,)),
        ("/v2/models/{name}/versions/{version}", "Version", (_NAME, _VERSION)),
    ):
        whose = "a version" if suffix else "a champion"
        found[path] = {
            "get": _operation(
                f"get{suffix or 'Model'}Metadata",
                f"Say what {whose} takes and gives",
                _reference(ModelMetadata),
                _OF_MODEL,
                parameters=parameters,
            )
        }
        found[f"{path}/ready"] = {
            "get": _operation(
                f"is{suffix or 'Model'}Ready",
                f"Say whether {whose} can answer",
                _reference(ModelReady),
                _OF_MODEL,
                parameters=parameters,
            )
        }
        found[f"{path}/infer"] = {
            "post": _operation(
                f"infer{suffix}",
                f"Ask {whose} with tensors",
                _reference(InferResponse),
                _OF_MODEL,
                parameters=(*parameters, _LENGTH, *(() if suffix else ENTITY_PARAMETERS)),
                body=InferRequest,
            )
        }
    return found

"""Every route of the API and the function that answers it: the one list.

The apps, the OpenAPI document and ``template.yaml`` are each compared with it in tests.
"""

from typing import Final, Literal, NamedTuple

Function = Literal["predict", "api"]


class Route(NamedTuple):
    """One route as API Gateway knows it."""

    method: str
    path: str
    function: Function


ROUTES: Final[tuple[Route, ...]] = (
    Route("GET", "/v1/health", "api"),
    Route("GET", "/v1/openapi.json", "api"),
    Route("GET", "/v1/models", "api"),
    Route("GET", "/v1/models/{name}", "api"),
    Route("GET", "/v1/models/{name}/versions", "api"),
    Route("GET", "/v1/models/{name}/versions/{version}", "api"),
    Route("GET", "/v1/models/{name}/runs", "api"),
    Route("GET", "/v1/models/{name}/audit", "api"),
    Route("POST", "/v1/models/{name}/predict", "predict"),
    Route("POST", "/v1/models/{name}/aliases/champion", "api"),
    Route("POST", "/v1/models/{name}/retrain", "api"),
    Route("GET", "/v1/specs/{name}", "api"),
    Route("PUT", "/v1/specs/{name}", "api"),
    Route("GET", "/v1/runs/{run_id}", "api"),
)

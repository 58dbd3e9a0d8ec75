"""Every route of the API, the function that answers it and the permission it takes: the one list.

The apps, the OpenAPI document and ``template.yaml`` are each compared with it in tests.
"""

from enum import StrEnum
from typing import Final, Literal, NamedTuple

Function = Literal["predict", "api"]


class Permission(StrEnum):
    """What a caller must be allowed to do.

    ``link`` needs no credential: the signed link in the path is one. ``any`` is every caller who is let in at all; ``predict`` asks models and tells them ground
    truth; ``view`` looks at models, runs and records; ``operate`` applies specs, starts
    trainings and answers alarms; ``approve`` decides which version is champion.
    """

    LINK = "link"
    ANY = "any"
    PREDICT = "predict"
    VIEW = "view"
    OPERATE = "operate"
    APPROVE = "approve"


class Route(NamedTuple):
    """One route as API Gateway knows it."""

    method: str
    path: str
    function: Function
    permission: Permission


ROUTES: Final[tuple[Route, ...]] = (
    Route("GET", "/v1/health", "api", Permission.ANY),
    Route("GET", "/v1/openapi.json", "api", Permission.ANY),
    Route("GET", "/v1/models", "api", Permission.VIEW),
    Route("GET", "/v1/models/{name}", "api", Permission.VIEW),
    Route("GET", "/v1/models/{name}/versions", "api", Permission.VIEW),
    Route("GET", "/v1/models/{name}/versions/{version}", "api", Permission.VIEW),
    Route("GET", "/v1/models/{name}/runs", "api", Permission.VIEW),
    Route("GET", "/v1/models/{name}/audit", "api", Permission.VIEW),
    Route("GET", "/v1/models/{name}/audit/verify", "api", Permission.VIEW),
    Route("GET", "/v1/models/{name}/history", "api", Permission.VIEW),
    Route("GET", "/v1/models/{name}/compare", "api", Permission.VIEW),
    Route("GET", "/v1/models/{name}/lineage", "api", Permission.VIEW),
    Route("GET", "/v1/models/{name}/predictions/{prediction_id}", "api", Permission.VIEW),
    Route("POST", "/v1/models/{name}/predict", "predict", Permission.PREDICT),
    Route("POST", "/v1/models/{name}/feedback", "api", Permission.PREDICT),
    Route("POST", "/v1/models/{name}/batch", "api", Permission.PREDICT),
    Route("GET", "/v1/models/{name}/batches", "api", Permission.VIEW),
    Route("GET", "/v1/batches/{batch_id}", "api", Permission.PREDICT),
    Route("POST", "/v1/models/{name}/versions/{version}/predict", "predict", Permission.PREDICT),
    Route("GET", "/v1/models/{name}/rollouts", "api", Permission.VIEW),
    Route("POST", "/v1/models/{name}/rollouts", "api", Permission.APPROVE),
    Route("GET", "/v1/rollouts/{rollout_id}", "api", Permission.VIEW),
    Route("POST", "/v1/rollouts/{rollout_id}/pause", "api", Permission.APPROVE),
    Route("POST", "/v1/rollouts/{rollout_id}/resume", "api", Permission.APPROVE),
    Route("POST", "/v1/rollouts/{rollout_id}/abort", "api", Permission.APPROVE),
    Route("GET", "/v1/models/{name}/monitor", "api", Permission.VIEW),
    Route("GET", "/v1/models/{name}/monitor/windows", "api", Permission.VIEW),
    Route("GET", "/v1/models/{name}/costs", "api", Permission.VIEW),
    Route("GET", "/v1/models/{name}/alarms", "api", Permission.VIEW),
    Route("GET", "/v1/models/{name}/alarms/{alarm_id}", "api", Permission.VIEW),
    Route("POST", "/v1/models/{name}/alarms/{alarm_id}/acknowledge", "api", Permission.OPERATE),
    Route("POST", "/v1/models/{name}/alarms/{alarm_id}/silence", "api", Permission.OPERATE),
    Route("POST", "/v1/models/{name}/alarms/{alarm_id}/widen", "api", Permission.OPERATE),
    Route("POST", "/v1/models/{name}/aliases/champion", "api", Permission.APPROVE),
    Route("GET", "/v1/models/{name}/versions/{version}/approval", "api", Permission.VIEW),
    Route("POST", "/v1/models/{name}/versions/{version}/approve", "api", Permission.APPROVE),
    Route("POST", "/v1/models/{name}/versions/{version}/reject", "api", Permission.APPROVE),
    Route("GET", "/v1/approvals/{link}", "api", Permission.LINK),
    Route("POST", "/v1/approvals/{link}", "api", Permission.LINK),
    Route("POST", "/v1/models/{name}/retrain", "api", Permission.OPERATE),
    Route("GET", "/v1/specs/{name}", "api", Permission.VIEW),
    Route("PUT", "/v1/specs/{name}", "api", Permission.OPERATE),
    Route("GET", "/v1/runs/{run_id}", "api", Permission.VIEW),
    # The Open Inference Protocol, whose paths are its own.
    Route("GET", "/v2", "predict", Permission.ANY),
    Route("GET", "/v2/health/live", "predict", Permission.ANY),
    Route("GET", "/v2/health/ready", "predict", Permission.ANY),
    Route("POST", "/v2/repository/index", "predict", Permission.VIEW),
    Route("GET", "/v2/models/{name}", "predict", Permission.PREDICT),
    Route("GET", "/v2/models/{name}/ready", "predict", Permission.PREDICT),
    Route("POST", "/v2/models/{name}/infer", "predict", Permission.PREDICT),
    Route("GET", "/v2/models/{name}/versions/{version}", "predict", Permission.PREDICT),
    Route("GET", "/v2/models/{name}/versions/{version}/ready", "predict", Permission.PREDICT),
    Route("POST", "/v2/models/{name}/versions/{version}/infer", "predict", Permission.PREDICT),
)

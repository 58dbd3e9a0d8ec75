"""The OpenAPI document: both apps' routes in one, as API Gateway offers them.

FastAPI describes what it sees. Added here is what it does not: the bodies read by hand, problem
details, and the ways to authenticate that the deployment chooses from.
"""

import json
from typing import Any, Final, cast

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

import millrace
from millrace.http import api, inference_models, predict
from millrace.http.endpoints import feedback
from millrace.http.endpoints.collaborators import Collaborators
from millrace.http.problems import Problem, documented
from millrace.http.roles import holders_of
from millrace.http.routes import ROUTES, Permission, Route
from millrace.spec import ModelSpec

_REFERENCE: Final = "#/components/schemas/{model}"
_DESCRIPTION: Final = """\
Data flows in through S3, models come out behind this API.

Errors are problem details (RFC 9457): `code` is stable and for programs, `detail` is for people,
`errors` names every wrong field, with its row. Answers of 500 and above carry nothing but a
correlation id, which finds the log lines.
"""
_SECURITY: Final[dict[str, Any]] = {
    "sigv4": {
        "type": "apiKey",
        "name": "Authorization",
        "in": "header",
        "description": "AWS Signature Version 4 (parameter ApiAuthorizer=IAM, the default).",
        "x-amazon-apigateway-authtype": "awsSigv4",
    },
    "api_key": {
        "type": "apiKey",
        "name": "x-api-key",
        "in": "header",
        "description": "An API key of a usage plan (parameter ApiAuthorizer=API_KEY).",
    },
    "jwt": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A token of the stack's issuer (parameter ApiAuthorizer=JWT).",
    },
}
_TAGS: Final = [
    {"name": "predictions", "description": "Answers of the champion, and the truth about them."},
    {
        "name": "inference",
        "description": "The Open Inference Protocol (v2), for its public clients. Errors here are "
        "the protocol's: `error` is what `detail` is elsewhere.",
    },
    {"name": "batches", "description": "Files of rows, scored by a state machine."},
    {"name": "models", "description": "Registered models, versions, the champion, the audit."},
    {"name": "specs", "description": "What the user wants: one document per model."},
    {"name": "record", "description": "Who changed what, what was live when, and from what."},
    {"name": "monitoring", "description": "How models are, and the alarms about them."},
    {"name": "runs", "description": "Trainings."},
    {"name": "service", "description": "The API itself."},
]


def document() -> dict[str, Any]:
    """The document, from the apps as they are now."""
    apps: dict[str, FastAPI] = {
        # Only routes are read: nothing is asked of the collaborators.
        "api": api.create_app(cast("Collaborators", _Unasked())),
        "predict": predict.create_app(cast("Any", _Unasked())),
    }
    described = {name: app.openapi() for name, app in apps.items()}
    described["predict"]["paths"] |= inference_models.paths()
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        operation = described[route.function]["paths"][route.path][route.method.lower()]
        paths.setdefault(route.path, {})[route.method.lower()] = _guarded(route, operation)
    schemas: dict[str, Any] = {}
    for one in described.values():
        schemas |= one.get("components", {}).get("schemas", {})
    _, extra = models_json_schema(
        [
            (model, "validation")
            for model in (
                *predict.DOCUMENTED,
                *inference_models.DOCUMENTED,
                *feedback.DOCUMENTED,
                ModelSpec,
                Problem,
            )
        ],
        ref_template=_REFERENCE,
    )
    schemas |= extra["$defs"]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Millrace",
            "version": millrace.__version__,
            "description": _DESCRIPTION,
        },
        "servers": [
            {
                "url": "{api_url}",
                "description": "The stack's output ApiUrl.",
                "variables": {"api_url": {"default": "http://127.0.0.1"}},
            }
        ],
        "tags": _TAGS,
        "security": [{"sigv4": []}, {"api_key": []}, {"jwt": []}, {}],
        "paths": paths,
        "components": {
            "schemas": {name: schemas[name] for name in _used(paths, schemas)},
            "securitySchemes": _SECURITY,
        },
    }


def _guarded(route: Route, operation: dict[str, Any]) -> dict[str, Any]:
    """An operation with what the gateway and the guard before it may answer, and who may ask it."""
    form = inference_models.documented if route.path.startswith("/v2") else documented
    refusals = {str(status): answer for status, answer in form(401, 403, 429).items()}
    responses = {**refusals, **operation["responses"]}
    open_to_links: dict[str, Any] = (
        {"security": [{}]} if route.permission is Permission.LINK else {}
    )
    return operation | {
        **open_to_links,
        "responses": dict(sorted(responses.items())),
        "x-millrace-permission": route.permission.value,
        "x-millrace-roles": [role.value for role in holders_of(route.permission)],
    }


def render() -> str:
    """The document as committed."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


def _used(paths: dict[str, Any], schemas: dict[str, Any]) -> list[str]:
    """Names of the schemas that the routes reach."""
    found: set[str] = set()
    pending: list[Any] = [paths]
    while pending:
        node = pending.pop()
        if isinstance(node, list):
            pending.extend(node)
        elif isinstance(node, dict):
            pending.extend(node.values())
            reference = node.get("$ref")
            if isinstance(reference, str):
                name = reference.rpartition("/")[2]
                if name not in found:
                    found.add(name)
                    pending.append(schemas[name])
    return sorted(found)


class _Unasked:
    """Stands where a collaborator goes while only the routes are described."""

    def __getattr__(self, name: str) -> Any:
        return None

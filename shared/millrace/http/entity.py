"""The caller's key in a request, as the OpenAPI document has it."""

from typing import Any, Final

from millrace.serving.routing import ENTITY, ENTITY_HEADER

_MEANING: Final = (
    "The caller's own key of whom the request is about, such as a customer's number: during a "
    "rollout the same key is answered by the same version. It is hashed, and kept nowhere."
)
ENTITY_HEADER_PARAMETER: Final[dict[str, Any]] = {
    "name": ENTITY_HEADER,
    "in": "header",
    "description": _MEANING,
    "schema": {"type": "string"},
}
ENTITY_PARAMETERS: Final[tuple[dict[str, Any], ...]] = (
    ENTITY_HEADER_PARAMETER,
    {
        "name": ENTITY,
        "in": "query",
        "description": f"As the header `{ENTITY_HEADER}`, which goes before it.",
        "schema": {"type": "string"},
    },
)

"""Synchronous calls of one function by another."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from millrace import errors
from millrace.aws.translate import translated
from millrace.errors import MillraceError, ServiceUnavailableError, UploadRefusedError

if TYPE_CHECKING:
    from mypy_boto3_lambda.client import LambdaClient


class LambdaInvoker:
    """Calls functions and waits for the answer."""

    def __init__(self, client: "LambdaClient") -> None:
        self._client = client

    def invoke(self, function_name: str, payload: Mapping[str, Any]) -> Any:
        """The function's answer.

        Raises:
            MillraceError: What the function raised, by its class's name.
            ServiceUnavailableError: The function failed in a way that is not ours: it timed out,
                ran out of memory, or could not start.
        """
        with translated(f"invoke {function_name}"):
            answer = self._client.invoke(
                FunctionName=function_name,
                InvocationType="RequestResponse",
                Payload=json.dumps(payload).encode(),
            )
            body = answer["Payload"].read()
        try:
            content = json.loads(body) if body else None
        except ValueError as exc:
            raise ServiceUnavailableError(
                f"invoke {function_name}: the answer is no JSON ({len(body)} bytes)"
            ) from exc
        if answer.get("FunctionError"):
            raise _raised(function_name, content)
        return content


def _raised(function_name: str, content: Any) -> MillraceError:
    """The error a function's failure stands for."""
    report = content if isinstance(content, dict) else {}
    name = str(report.get("errorType", ""))
    message = str(report.get("errorMessage", "")) or "no message"
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, MillraceError):
        if issubclass(kind, UploadRefusedError):
            return kind(message, code="")
        return kind(message)
    return ServiceUnavailableError(
        f"invoke {function_name}: it failed with {name or 'an unnamed error'}: {message}"
    )

"""Token authorizers of a REST API, as API Gateway runs them: LocalStack's own are not in its free edition.

Answers are kept per token for as long as the authorizer says; what a kept answer permits is decided
anew for each request. After AWS's "Use API Gateway Lambda authorizers", and measured against MiniStack.
"""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

DEFAULT_SECONDS: Final = 300
REMEMBERED: Final = 1024

type Invoke = Callable[[str, dict[str, Any]], tuple[Any, bool]]
"""Asks a function, by its ARN; answers what it said and whether it failed."""


class UnauthorizedError(Exception):
    """401: nobody is known by this token."""


class ForbiddenError(Exception):
    """403: the policy does not permit the request."""


class FailedError(Exception):
    """500: the authorizer failed, or answered what is no policy."""


@dataclass(frozen=True, slots=True)
class Question:
    """A request that wants an authorizer's word.

    Attributes:
        authorizer: The authorizer, as API Gateway describes it.
        arn: The method's ARN.
        headers: The request's headers.
        place: Account, region, API and stage, which keep answers apart.
    """

    authorizer: Mapping[str, Any]
    arn: str
    headers: Mapping[str, str]
    place: str


class Authorizers:
    """Runs authorizers and remembers what they said.

    Args:
        invoke: Asks a function.
        clock: Seconds.
    """

    def __init__(self, invoke: Invoke, clock: Callable[[], float] = time.monotonic) -> None:
        self._invoke = invoke
        self._clock = clock
        self._kept: dict[tuple[str, str, str], tuple[float, dict[str, Any]]] = {}

    def context(self, question: Question) -> dict[str, str]:
        """What the authorizer says of the caller, for the function behind.

        Raises:
            UnauthorizedError: There is no token, or the authorizer does not take it.
            ForbiddenError: The policy does not permit the method.
            FailedError: The authorizer failed.
        """
        source = str(question.authorizer.get("identitySource", ""))
        token = question.headers.get(source.removeprefix("method.request.header."), "")
        pattern = question.authorizer.get("identityValidationExpression")
        if not token or (pattern and not re.fullmatch(pattern, token)):
            raise UnauthorizedError
        answer = self._answer(question, token)
        if not permits(answer["policyDocument"], question.arn):
            raise ForbiddenError
        said = {k: _text(v) for k, v in (answer.get("context") or {}).items() if v is not None}
        return {**said, "principalId": str(answer.get("principalId", ""))}

    def _answer(self, question: Question, token: str) -> dict[str, Any]:
        key = (question.place, str(question.authorizer.get("id")), token)
        until, kept = self._kept.get(key, (0.0, {}))
        if self._clock() < until:
            return kept
        found = re.search(r"/functions/(arn:[^/]+)/", str(question.authorizer.get("authorizerUri")))
        if found is None:
            raise FailedError
        event = {"type": "TOKEN", "authorizationToken": token, "methodArn": question.arn}
        answer, failed = self._invoke(found[1], event)
        if failed:
            message = answer.get("errorMessage") if isinstance(answer, dict) else None
            raise UnauthorizedError if message == "Unauthorized" else FailedError
        if not isinstance(answer, dict) or not isinstance(answer.get("policyDocument"), dict):
            raise FailedError
        seconds = question.authorizer.get("authorizerResultTtlInSeconds")
        seconds = DEFAULT_SECONDS if seconds is None else int(seconds)
        if seconds > 0:
            while len(self._kept) >= REMEMBERED:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = (self._clock() + seconds, answer)
        return answer


def permits(policy: Mapping[str, Any], arn: str) -> bool:
    """Whether a policy allows a method and does not deny it."""
    effects = {
        statement.get("Effect")
        for statement in _listed(policy.get("Statement"))
        if any(_covers(str(pattern), arn) for pattern in _listed(statement.get("Resource")))
    }
    return "Allow" in effects and "Deny" not in effects


def _covers(pattern: str, arn: str) -> bool:
    expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(expression, arn, re.DOTALL) is not None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

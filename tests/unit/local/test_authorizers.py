"""Token authorizers, as LocalStack's API is made to ask them."""

from typing import Any

import pytest

from infra.localstack.authorizers import (
    REMEMBERED,
    Authorizers,
    FailedError,
    ForbiddenError,
    Question,
    UnauthorizedError,
    permits,
)

STAGE = "arn:aws:execute-api:us-east-1:000000000000:api/live"
FUNCTION = "arn:aws:lambda:us-east-1:000000000000:function:authorizer"
AUTHORIZER = {
    "id": "a1",
    "identitySource": "method.request.header.Authorization",
    "identityValidationExpression": "^Bearer [a-z0-9]+$",
    "authorizerUri": f"arn:aws:apigateway:us-east-1:lambda:path/2015-03-31/functions/{FUNCTION}/invocations",
    "authorizerResultTtlInSeconds": 300,
}
GIVEN = "Bearer abc"


class Function:
    """An authorizer function, and what it was asked."""

    def __init__(self, resource: str = f"{STAGE}/GET/v1/*") -> None:
        self.asked: list[dict[str, Any]] = []
        self.failed = False
        self.answer: Any = {
            "principalId": "ada",
            "policyDocument": {
                "Statement": [
                    {"Effect": "Allow", "Action": "execute-api:Invoke", "Resource": resource}
                ]
            },
            "context": {"subject": "ada", "admin": True, "level": 3, "nothing": None},
        }

    def __call__(self, arn: str, event: dict[str, Any]) -> tuple[Any, bool]:
        assert arn == FUNCTION
        self.asked.append(event)
        return self.answer, self.failed


def question(path: str = "GET/v1/models", token: str | None = GIVEN, **authorizer: Any) -> Question:
    headers = {} if token is None else {"Authorization": token}
    return Question({**AUTHORIZER, **authorizer}, f"{STAGE}/{path}", headers, "place")


def test_the_caller_is_described_in_words() -> None:
    function = Function()

    said = Authorizers(function).context(question())

    assert said == {"subject": "ada", "admin": "true", "level": "3", "principalId": "ada"}
    assert function.asked == [
        {
            "type": "TOKEN",
            "authorizationToken": "Bearer abc",
            "methodArn": f"{STAGE}/GET/v1/models",
        }
    ]


def test_an_answer_is_kept_and_its_policy_asked_anew() -> None:
    function, now = Function(f"{STAGE}/GET/v1/models"), [0.0]
    authorizers = Authorizers(function, lambda: now[0])

    authorizers.context(question())
    with pytest.raises(ForbiddenError):
        authorizers.context(question("POST/v1/models"))
    assert len(function.asked) == 1
    now[0] = 301.0
    authorizers.context(question())
    assert len(function.asked) == 2


def test_nothing_is_kept_when_the_authorizer_says_so() -> None:
    function = Function()
    authorizers = Authorizers(function)

    for _ in range(2):
        authorizers.context(question(authorizerResultTtlInSeconds=0))

    assert len(function.asked) == 2


def test_only_so_many_answers_are_kept() -> None:
    authorizers = Authorizers(Function())

    for number in range(REMEMBERED + 10):
        authorizers.context(question(token=f"Bearer {number}"))

    assert len(authorizers._kept) == REMEMBERED


@pytest.mark.parametrize("token", [None, "", "Basic abc", "Bearer ABC"])
def test_what_does_not_look_like_a_token_reaches_no_function(token: str | None) -> None:
    function = Function()

    with pytest.raises(UnauthorizedError):
        Authorizers(function).context(question(token=token))
    assert function.asked == []


@pytest.mark.parametrize(
    ("answer", "failed", "refusal"),
    [
        ({"errorMessage": "Unauthorized", "errorType": "X"}, True, UnauthorizedError),
        ({"errorMessage": "unauthorized"}, True, FailedError),
        ({"errorMessage": "trouble"}, True, FailedError),
        ("Allow", False, FailedError),
        ({"principalId": "ada"}, False, FailedError),
    ],
)
def test_failures_are_told_apart(answer: object, failed: bool, refusal: type[Exception]) -> None:
    function = Function()
    function.answer, function.failed = answer, failed

    with pytest.raises(refusal):
        Authorizers(function).context(question())


@pytest.mark.parametrize(
    ("statements", "allowed"),
    [
        ([], False),
        ([{"Effect": "Allow", "Resource": "*"}], True),
        ([{"Effect": "Allow", "Resource": [f"{STAGE}/GET/v?/models"]}], True),
        ([{"Effect": "Allow", "Resource": f"{STAGE}/GET/v1/model"}], False),
        ([{"Effect": "Allow", "Resource": "*"}, {"Effect": "Deny", "Resource": "*"}], False),
        ({"Effect": "Allow", "Resource": f"{STAGE}/GET/*"}, True),
    ],
)
def test_a_policy_allows_and_does_not_deny(statements: Any, allowed: bool) -> None:
    assert permits({"Statement": statements}, f"{STAGE}/GET/v1/models") == allowed

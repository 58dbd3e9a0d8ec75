"""IAM's verdicts: matching, conditions, denials, and refusal to guess."""

import pytest

from tests.access.policies import (
    Context,
    Grant,
    Policies,
    Reader,
    Request,
    UnknownPolicyElementError,
    holds,
    matches,
)

OBJECT = "arn:aws:s3:::data/incoming/churn/a.csv"


def _policies(*documents: dict, owner: str = "TrainRole") -> Policies:
    reader = Reader()
    return Policies(reader.statement(owner, {"Effect": "Allow", **d}) for d in documents)


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        ("arn:aws:s3:::data/*", OBJECT, True),
        ("arn:aws:s3:::data/*/report-*", "arn:aws:s3:::data/a/b/report-1.html", True),
        ("arn:aws:s3:::data/incoming/?.csv", "arn:aws:s3:::data/incoming/a.csv", True),
        ("arn:aws:s3:::data/incoming/?.csv", "arn:aws:s3:::data/incoming/ab.csv", False),
        ("arn:aws:s3:::data", OBJECT, False),
        ("arn:aws:s3:::data/[a-z]*", "arn:aws:s3:::data/x", False),
        ("*", OBJECT, True),
    ],
)
def test_wildcards_reach_as_far_as_iams(pattern: str, text: str, fits: bool) -> None:
    assert matches(pattern, text) is fits


def test_a_grant_is_by_action_and_resource_and_for_its_role_alone() -> None:
    policies = _policies(
        {"Sid": "Read", "Action": ["s3:getobject"], "Resource": ["arn:aws:s3:::data/*"]}
    )

    verdict = policies.verdict(Request("TrainRole", "s3:GetObject", OBJECT))

    assert verdict.allowed
    assert verdict.by == (Grant("TrainRole", "Read", "s3:getobject", "arn:aws:s3:::data/*"),)
    for other in (
        Request("TrainRole", "s3:PutObject", OBJECT),
        Request("TrainRole", "s3:GetObjectVersion", OBJECT),
        Request("TrainRole", "s3:GetObject", "arn:aws:s3:::other/a"),
        Request("ApiRole", "s3:GetObject", OBJECT),
        Request("events.amazonaws.com", "s3:GetObject", OBJECT),
    ):
        assert not policies.verdict(other).allowed


def test_a_denial_wins_and_is_named() -> None:
    reader = Reader()
    grant = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    no_plain = {
        "Sid": "OnlyTls",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": "arn:aws:s3:::data/*",
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    policies = Policies(
        [reader.statement("TrainRole", grant), reader.statement("DataBucketPolicy", no_plain)]
    )

    plain = Request("TrainRole", "s3:GetObject", OBJECT, (("aws:securetransport", ("false",)),))
    tls = Request("TrainRole", "s3:GetObject", OBJECT, (("aws:securetransport", ("true",)),))

    assert policies.verdict(tls).allowed
    assert not policies.verdict(plain).allowed
    assert [g.sid for g in policies.verdict(plain).by] == ["OnlyTls"]


def test_a_service_is_let_in_by_the_resources_policy_from_its_source_alone() -> None:
    permission = {
        "Effect": "Allow",
        "Principal": {"Service": "events.amazonaws.com"},
        "Action": "lambda:InvokeFunction",
        "Resource": "arn:aws:lambda:us-east-1:1:function:trigger",
        "Condition": {"ArnLike": {"aws:SourceArn": "arn:aws:events:us-east-1:1:rule/upload"}},
    }
    policies = _policies(permission, owner="UploadRulePermission")

    def asked(principal: str, rule: str) -> bool:
        source = (("aws:sourcearn", (f"arn:aws:events:us-east-1:1:rule/{rule}",)),)
        resource = "arn:aws:lambda:us-east-1:1:function:trigger"
        request = Request(principal, "lambda:InvokeFunction", resource, source)
        return policies.verdict(request).allowed

    assert asked("events.amazonaws.com", "upload")
    assert not asked("events.amazonaws.com", "other")
    assert not asked("s3.amazonaws.com", "upload")


LEADING: Context = (("dynamodb:leadingkeys", ("MODEL#a", "MODEL#b")),)


@pytest.mark.parametrize(
    ("operator", "key", "expected", "context", "verdict"),
    [
        ("StringEquals", "aws:SourceAccount", ["1"], (("aws:sourceaccount", ("1",)),), True),
        ("StringEquals", "aws:SourceAccount", ["2", "1"], (("aws:sourceaccount", ("1",)),), True),
        ("StringEquals", "aws:SourceAccount", ["2"], (("aws:sourceaccount", ("1",)),), False),
        ("StringEquals", "aws:SourceAccount", ["1"], (), False),
        ("StringEqualsIfExists", "aws:SourceAccount", ["1"], (), True),
        ("StringNotEquals", "aws:SourceAccount", ["1"], (), True),
        ("StringNotEquals", "aws:SourceAccount", ["1", "2"], (("aws:sourceaccount", ("1",)),), False),
        ("ForAllValues:StringLike", "dynamodb:LeadingKeys", ["MODEL#*"], LEADING, True),
        ("ForAllValues:StringLike", "dynamodb:LeadingKeys", ["MODEL#a"], LEADING, False),
        ("ForAllValues:StringLike", "dynamodb:LeadingKeys", ["RUN#*"], (), True),
        ("ForAnyValue:StringLike", "dynamodb:LeadingKeys", ["MODEL#a"], LEADING, True),
        ("ForAnyValue:StringLike", "dynamodb:LeadingKeys", ["MODEL#a"], (), False),
        ("Bool", "aws:SecureTransport", ["false"], (("aws:securetransport", ("true",)),), False),
        ("NumericLessThan", "s3:TlsVersion", ["1.2"], (("s3:tlsversion", ("1.3",)),), False),
        ("NumericLessThan", "s3:TlsVersion", ["1.2"], (("s3:tlsversion", ("1.1",)),), True),
        ("ArnEquals", "aws:SourceArn", ["arn:aws:sns:*:1:*"], (("aws:sourcearn", ("arn:aws:sns:r:1:t",)),), True),
        ("ArnLike", "aws:SourceArn", ["arn:aws:*:1:t"], (("aws:sourcearn", ("arn:aws:sns:r:1:t",)),), False),
    ],
    ids=str,
)  # fmt: skip
def test_conditions_hold_as_iams(
    operator: str, key: str, expected: list[str], context: Context, verdict: bool
) -> None:
    assert holds(operator, key, expected, context) is verdict


@pytest.mark.parametrize(
    "operator", ["IpAddress", "DateLessThan", "Null", "ForMostValues:StringLike", "Stringequals"]
)
def test_an_unknown_operator_is_an_error_and_no_pass(operator: str) -> None:
    with pytest.raises(UnknownPolicyElementError, match=operator):
        holds(operator, "aws:SourceIp", ["10.0.0.0/8"], (("aws:sourceip", ("10.1.1.1",)),))


def test_several_values_without_a_set_qualifier_are_an_error() -> None:
    with pytest.raises(UnknownPolicyElementError, match="set qualifier"):
        holds("StringLike", "dynamodb:LeadingKeys", ["MODEL#*"], LEADING)


@pytest.mark.parametrize(
    "odd",
    [
        {"NotAction": "s3:*", "Resource": "*"},
        {"Action": "s3:*", "NotResource": "*"},
        {"Action": "s3:*", "Resource": "*", "NotPrincipal": "*"},
        {"Action": "s3:*", "Resource": "*", "Principal": {"AWS": "arn:aws:iam::1:root"}},
    ],
    ids=lambda odd: next(k for k in odd if k not in ("Action", "Resource")),
)
def test_an_unknown_element_is_an_error(odd: dict) -> None:
    with pytest.raises(UnknownPolicyElementError):
        _policies({"Action": [], "Resource": [], **odd} if "Action" not in odd else odd)


def test_a_policy_variable_is_an_error() -> None:
    policies = _policies({"Action": "s3:GetObject", "Resource": "arn:aws:s3:::x/${aws:userid}/*"})

    with pytest.raises(UnknownPolicyElementError, match="variables"):
        policies.verdict(Request("TrainRole", "s3:GetObject", OBJECT))


def test_a_part_is_taken_out_and_the_rest_of_its_statement_stays() -> None:
    policies = _policies(
        {"Sid": "Keep", "Action": ["a:One", "a:Two"], "Resource": ["arn:x", "arn:y"]}
    )
    gone = Grant("TrainRole", "Keep", "a:One", "arn:x")

    fewer = policies.without(gone)

    assert gone in policies.grants()
    assert sorted(map(str, fewer.grants())) == sorted(
        str(g) for g in policies.grants() if g != gone
    )
    assert not fewer.verdict(Request("TrainRole", "a:One", "arn:x")).allowed
    assert fewer.verdict(Request("TrainRole", "a:One", "arn:y")).allowed
    assert fewer.verdict(Request("TrainRole", "a:Two", "arn:x")).allowed

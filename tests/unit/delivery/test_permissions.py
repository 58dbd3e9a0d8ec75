"""What a new template allows that the old one did not."""

from typing import Any

from infra.delivery.permissions import widenings


def _role(*statements: dict[str, Any], **more: Any) -> dict[str, Any]:
    policy = {"PolicyName": "p", "PolicyDocument": {"Statement": list(statements)}}
    return {
        "Resources": {"R": {"Type": "AWS::IAM::Role", "Properties": {"Policies": [policy], **more}}}
    }


def _allow(action: Any, resource: Any = "*", **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": resource, **more}


def _said(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return [f"{w.holder} may {w.allows}" for w in widenings(old, new)]


def test_nothing_new_is_nothing() -> None:
    one = _role(_allow(["s3:GetObject", "s3:PutObject"], [{"Ref": "B"}]))
    other = _role(_allow("s3:PutObject", {"Ref": "B"}), _allow("s3:GetObject", {"Ref": "B"}))

    assert _said(one, other) == []
    assert _said(one, _role()) == []


def test_another_action_another_resource_and_a_lost_condition_widen() -> None:
    old = _role(
        _allow("s3:GetObject", {"Fn::GetAtt": ["B", "Arn"]}, Condition={"Bool": {"x": "y"}})
    )
    new = _role(
        _allow(["s3:GetObject", "s3:PutObject"], {"Fn::GetAtt": ["B", "Arn"]}),
        _allow("s3:GetObject", {"Fn::Sub": "${B.Arn}/*"}),
    )

    assert _said(old, new) == [
        "R may s3:GetObject on B",
        "R may s3:PutObject on B",
        "R may s3:GetObject on ${B.Arn}/*",
    ]


def test_a_refusal_that_is_taken_away_widens() -> None:
    deny = {"Effect": "Deny", "Action": "s3:*", "Resource": "*"}

    assert _said(_role(deny), _role()) == ["R may do what was refused: s3:* on *"]
    assert _said(_role(), _role(deny)) == []


def test_a_boundary_that_is_taken_away_widens() -> None:
    [said] = _said(_role(PermissionsBoundary="arn:b"), _role())

    assert said == "R may do what was refused: outside of arn:b"


def test_a_managed_policy_and_a_new_principal_widen() -> None:
    trusted = {"Effect": "Allow", "Principal": {"Service": "x"}, "Action": "sts:AssumeRole"}
    new = _role(ManagedPolicyArns=["arn:admin"], AssumeRolePolicyDocument={"Statement": [trusted]})

    assert sorted(_said(_role(), new)) == [
        "R may do everything in arn:admin",
        "R may sts:AssumeRole to x",
    ]


def test_a_resource_policy_and_a_permission_to_invoke_widen() -> None:
    new = {
        "Resources": {
            "BP": {
                "Type": "AWS::S3::BucketPolicy",
                "Properties": {
                    "PolicyDocument": {"Statement": _allow("s3:GetObject", "b/*", Principal="*")}
                },
            },
            "LP": {
                "Type": "AWS::Lambda::Permission",
                "Properties": {
                    "Action": "lambda:InvokeFunction",
                    "FunctionName": {"Ref": "F"},
                    "Principal": "s3",
                },
            },
        }
    }

    assert _said({}, new) == [
        "BP may s3:GetObject on b/* to *",
        "LP may lambda:InvokeFunction on F to s3",
    ]


def test_a_statement_under_a_condition_of_the_template_says_so() -> None:
    nothing = {"Ref": "AWS::NoValue"}
    new = _role({"Fn::If": ["Traced", _allow("xray:PutTraceSegments"), nothing]})

    assert _said(_role(), new) == ["R may xray:PutTraceSegments on * when Traced holds"]
    assert _said(new, _role(_allow("xray:PutTraceSegments"))) == [
        "R may xray:PutTraceSegments on *"
    ]

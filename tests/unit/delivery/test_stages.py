"""Stages and parameters: what is refused before anything is sent."""

from pathlib import Path

import pytest

from infra.delivery.stack import parse_template
from infra.delivery.stages import check_parameters, parse_parameters, stage_named, stages
from millrace.errors import InvalidRequestError

PROJECT = Path(__file__).resolve().parents[3]
CONFIG = PROJECT / "samconfig.toml"
DECLARED = parse_template((PROJECT / "template.yaml").read_text())["Parameters"]


def test_every_section_with_a_stack_is_a_stage() -> None:
    found = stages(CONFIG)

    assert {n: s.stack for n, s in found.items()} == {
        "dev": "millrace",
        "staging": "millrace-staging",
        "prod": "millrace-prod",
    }
    assert found["dev"].section == "default"
    assert found["prod"].production
    assert found["staging"].parameters["Stage"] == "staging"
    assert "CAPABILITY_NAMED_IAM" in found["staging"].capabilities


def test_an_unknown_stage_names_the_known_and_the_nearest() -> None:
    with pytest.raises(InvalidRequestError, match=r"dev, staging, prod.*did you mean staging\?"):
        stage_named(CONFIG, "stagin")


def test_a_config_that_is_no_toml_is_told(tmp_path: Path) -> None:
    (tmp_path / "samconfig.toml").write_text("[default")

    with pytest.raises(InvalidRequestError, match="samconfig.toml is not valid TOML"):
        stages(tmp_path / "samconfig.toml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("A=1 B=two", {"A": "1", "B": "two"}),
        ("A='one two' B=\"it's\"", {"A": "one two", "B": "it's"}),
        ("A=x=y", {"A": "x=y"}),
        ("A=", {"A": ""}),
        ("A=1 A=1", {"A": "1"}),
        ("A='$(reboot) `ls` ; | &'", {"A": "$(reboot) `ls` ; | &"}),
    ],
    ids=["none", "two", "quotes", "equals", "empty", "repeated", "shell"],
)
def test_parameters_are_read_as_a_shell_would(text: str, expected: dict[str, str]) -> None:
    assert parse_parameters(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A", "expected Name=value, got 'A'"),
        ("a-b=1", "expected Name=value"),
        ("A='one", "cannot be read"),
        ("A=1 A=2", "names A twice: '1' and '2'"),
    ],
    ids=["no-value", "no-name", "open-quote", "twice"],
)
def test_parameters_that_are_no_pairs_are_refused(text: str, said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        parse_parameters(text)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("TrainMemry", "3008", r"no such parameter; did you mean TrainMemory\?"),
        ("TrainMemory", "lots", "expected a number, got 'lots'"),
        ("TrainMemory", "99999", "expected 1024 to 10240, got 99999"),
        ("ApiAuthorizer", "iam", "expected one of IAM, API_KEY, JWT, NONE, got 'iam'"),
        ("LogRetentionDays", "31", "expected one of 1, 3, 5"),
        ("NotificationEmail", "someone", "expected an e-mail address, or nothing, got 'someone'"),
        ("Stage", "Prod", "expected 1 to 16 lower-case letters"),
    ],
    ids=["unknown", "no-number", "range", "case", "listed", "pattern", "stage"],
)
def test_a_value_outside_the_templates_constraints_is_named(
    name: str, value: str, said: str
) -> None:
    with pytest.raises(InvalidRequestError, match="nothing was sent") as caught:
        check_parameters(DECLARED, {name: value})

    [problem] = caught.value.problems
    assert problem.field == name
    assert said.replace("\\", "") in problem.message


def test_every_wrong_parameter_is_listed_at_once() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check_parameters(DECLARED, {"Nope": "1", "TrainMemory": "1", "RefreshSeconds": "5"})

    assert [p.field for p in caught.value.problems] == ["Nope", "TrainMemory"]


def test_lengths_are_checked() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check_parameters(
            {"Name": {"Type": "String", "MinLength": 2, "MaxLength": 3}}, {"Name": "x"}
        )

    assert caught.value.problems[0].message == "expected 2 to 3 characters, got 1"


def test_the_templates_own_defaults_are_within_its_constraints() -> None:
    check_parameters(
        DECLARED, {n: str(d["Default"]) for n, d in DECLARED.items() if "Default" in d}
    )

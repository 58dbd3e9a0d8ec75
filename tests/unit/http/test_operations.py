"""Specs sent by strangers, and the trigger's answers."""

import pytest

from millrace.errors import InvalidSpecError, MalformedRequestError, ServiceUnavailableError
from millrace.http import operations
from millrace.registry.registry import Registry
from tests.fakes import cases
from tests.fakes.clock import FakeClock, counting_ids
from tests.fakes.store import FakeStore
from tests.fakes.table import FakeTable


@pytest.fixture
def registry() -> Registry:
    return Registry(FakeTable(), clock=FakeClock(), ids=counting_ids())


def test_yaml_and_json_are_the_same_spec() -> None:
    text = cases.spec().to_json().encode()

    assert operations.parse_spec(text, as_json=True) == cases.spec()
    assert operations.parse_spec(text, as_json=False) == cases.spec()


@pytest.mark.parametrize(
    "text",
    [
        "a: &x [1]\nb: *x\n",
        "base: &b {k: 1}\nm:\n  <<: *b\n",
        "a: &a [*a]\n",
    ],
    ids=["alias", "merge", "itself"],
)
def test_yaml_aliases_are_refused_with_their_place(text: str) -> None:
    with pytest.raises(MalformedRequestError, match=r"alias at line \d+"):
        operations.parse_spec(text.encode(), as_json=False)


@pytest.mark.parametrize("text", ["!!python/object/apply:os.getcwd []", "!thing 3"])
def test_yaml_tags_run_nothing(text: str) -> None:
    with pytest.raises(MalformedRequestError):
        operations.parse_spec(text.encode(), as_json=False)


def test_a_spec_under_another_name_names_the_field() -> None:
    with pytest.raises(InvalidSpecError) as caught:
        operations.apply_spec(
            "other",
            cases.spec(),
            registry=Registry(FakeTable(), clock=FakeClock(), ids=counting_ids()),
            objects=FakeStore(),
            bucket="b",
            actor="ada",
            correlation_id="c",
        )

    assert [p.field for p in caught.value.problems] == ["name"]


def test_a_spec_is_stored_before_the_registry_names_it(registry: Registry) -> None:
    objects = FakeStore()

    applied, new = operations.apply_spec(
        "churn",
        cases.spec(),
        registry=registry,
        objects=objects,
        bucket="b",
        actor="ada",
        correlation_id="c",
    )

    assert new
    assert objects.read("b", applied.key).decode() == cases.spec().to_json()
    assert objects.content_types["b", applied.key] == "application/json"


class Silent:
    """An invoker whose function answers nonsense."""

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.payloads: list[object] = []

    def invoke(self, function_name: str, payload: object) -> object:
        self.payloads.append(payload)
        return self.answer


@pytest.mark.parametrize("answer", [None, {}, {"run_id": None}, []])
def test_a_trigger_that_names_no_run_is_unavailable(registry: Registry, answer: object) -> None:
    cases.apply(registry, cases.spec())

    with pytest.raises(ServiceUnavailableError, match="churn"):
        operations.retrain(
            "churn",
            reason="",
            token=None,
            registry=registry,
            trigger=operations.Trigger(Silent(answer), "t"),
            actor="ada",
            correlation_id="c",
            new_token=lambda: "tok",
        )


def test_retraining_without_a_key_makes_a_token(registry: Registry) -> None:
    cases.apply(registry, cases.spec())
    invoker = Silent({"run_id": "churn-1", "started": True})

    accepted = operations.retrain(
        "churn",
        reason="drift",
        token=None,
        registry=registry,
        trigger=operations.Trigger(invoker, "t"),
        actor="ada",
        correlation_id="c",
        new_token=lambda: "tok",
    )

    assert (accepted.run_id, accepted.started) == ("churn-1", True)
    assert invoker.payloads == [
        {
            "id": "c",
            "source": "millrace.api",
            "detail-type": "Retrain Requested",
            "detail": {
                "model": "churn",
                "token": "tok",
                "reason": "drift",
                "requested_by": "ada",
                "labelled": False,
            },
        }
    ]

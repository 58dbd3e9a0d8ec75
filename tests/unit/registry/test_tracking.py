"""What runs log, in MLflow's shape."""

import itertools
import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import ConflictError, InvalidEventError, NotFoundError
from millrace.registry import items
from millrace.registry.experiments import (
    MetricPoint,
    logged_models_index_pk,
    place_of,
    sortable_number,
    value_index_pk,
)
from millrace.registry.registry import Registry
from tests.fakes import cases
from tests.fakes.clock import FakeClock, counting_ids
from tests.fakes.table import FakeTable

M = cases.MODEL


@pytest.fixture
def table() -> FakeTable:
    return FakeTable()


@pytest.fixture
def registry(table: FakeTable) -> Registry:
    return Registry(table, clock=FakeClock(), ids=counting_ids())


@pytest.fixture
def run_id(registry: Registry) -> str:
    spec = cases.spec()
    cases.apply(registry, spec)
    run = cases.run(1, spec)
    registry.create_run(run)
    return run.run_id


def point(step: int, value: float, timestamp: int = 1_000, key: str = "auc") -> MetricPoint:
    return MetricPoint(key=key, value=value, timestamp=timestamp, step=step)


def test_a_model_has_an_experiment_of_its_name(registry: Registry, run_id: str) -> None:
    assert registry.get_experiment(M).name == M
    assert [e.experiment_id for e in registry.list_experiments().items] == [M]
    with pytest.raises(NotFoundError, match="no experiment 'other'"):
        registry.get_experiment("other")


def test_a_metric_keeps_its_history_and_its_latest(registry: Registry, run_id: str) -> None:
    points = [point(2, 0.8), point(-1, 0.1), point(2, 0.7), point(0, math.nan), point(2, 0.9, 999)]

    registry.log_batch(run_id, metrics=points[:3])
    registry.log_batch(run_id, metrics=points[3:])

    history = registry.metric_history(run_id, "auc").items
    assert [(p.step, p.timestamp) for p in history] == [
        (-1, 1_000),
        (0, 1_000),
        (2, 999),
        (2, 1_000),
        (2, 1_000),
    ]
    assert math.isnan(history[1].value)
    assert [p.value for p in history[2:]] == [0.9, 0.7, 0.8]
    assert registry.get_run(run_id).metrics == {"auc": 0.8}


def test_points_that_are_logged_again_stand_once(registry: Registry, run_id: str) -> None:
    for _ in range(3):
        registry.log_batch(run_id, metrics=[point(0, 0.5), point(1, 0.6)])
        registry.log(run_id, metrics={"loss": 0.25})

    assert len(registry.metric_history(run_id, "auc").items) == 2
    assert len(registry.metric_history(run_id, "loss").items) == 1


def test_history_is_paged(registry: Registry, run_id: str) -> None:
    registry.log_batch(run_id, metrics=[point(n, n / 10) for n in range(250)])

    steps: list[int] = []
    token: str | None = None
    while True:
        page = registry.metric_history(run_id, "auc", limit=100, token=token)
        steps += [p.step for p in page.items]
        token = page.token
        if token is None:
            break

    assert steps == list(range(250))
    other = registry.metric_history(run_id, "auc", limit=100).token
    with pytest.raises(InvalidEventError, match="token"):
        registry.metric_history(run_id, "auc2", token=other)


def test_histories_of_keys_with_a_common_start_stay_apart(registry: Registry, run_id: str) -> None:
    registry.log(run_id, metrics={"auc": 0.1, "auc/test": 0.2, "auc test": 0.3})

    assert [p.value for p in registry.metric_history(run_id, "auc").items] == [0.1]


def test_values_stand_in_the_index_in_their_order(
    table: FakeTable, registry: Registry, run_id: str
) -> None:
    spec = cases.spec()
    for number, value in ((2, 0.95), (3, -3.0), (4, 12.0)):
        run = cases.run(number, spec)
        registry.create_run(run)
        registry.log(run.run_id, metrics={"auc": value}, params={"depth": str(number)})
    registry.log(run_id, metrics={"auc": 0.5})

    above = table.query(
        value_index_pk(M, items.METRIC, "auc"), since=sortable_number(0.9), index=True
    )
    params = table.query(value_index_pk(M, items.PARAM, "depth"), prefix="3#", index=True)

    assert [i["value"] for i in above.items] == [0.95, 12]
    assert [i["value"] for i in params.items] == ["3"]


@given(st.lists(st.floats(), min_size=2, max_size=2, unique=True))
def test_text_of_numbers_is_in_the_order_of_the_numbers(pair: list[float]) -> None:
    one, other = pair
    if math.isnan(one) or math.isnan(other):
        assert sortable_number(math.nan) <= min(sortable_number(one), sortable_number(other))
        return
    assert (one < other) == (sortable_number(one) < sortable_number(other))


def test_extremes_stand_in_order() -> None:
    numbers = [math.nan, -math.inf, -sys.float_info.max, -1.0, -5e-324, 0.0, 5e-324, 1.0, math.inf]

    texts = [sortable_number(n) for n in numbers]

    assert texts == sorted(texts)
    assert len(set(texts)) == len(texts)
    assert sortable_number(-0.0) == sortable_number(0.0)


def test_points_stand_by_step_then_time_then_value() -> None:
    ordered = [
        place_of(point(step, value, timestamp))
        for step, timestamp, value in itertools.product((-5, 0, 7), (1, 20), (-1.0, 0.0, 3.0))
    ]

    assert sorted(set(ordered)) == ordered


def test_a_training_leaves_its_input_and_its_logged_model(
    table: FakeTable, registry: Registry
) -> None:
    cases.champion(registry, 1)
    version = registry.get_version(M, 1)
    run = registry.get_run(version.run_id)

    [given] = registry.list_inputs(run.run_id)
    [made] = registry.list_logged_models(M).items

    assert (given.name, given.digest, given.context) == (M, run.dataset_version, "training")
    assert (made.model_id, made.source_run_id) == (f"m-{run.run_id}", run.run_id)
    assert (made.artifact_key, made.sha256) == (version.model_key, version.sha256)
    assert registry.get_logged_model(made.model_id) == made
    assert [i["PK"] for i in table.query(logged_models_index_pk(M), index=True).items] == [
        f"LOGGED_MODEL#m-{run.run_id}"
    ]
    with pytest.raises(NotFoundError, match="no logged model"):
        registry.get_logged_model("m-0")


@pytest.mark.parametrize(
    "key", ["", "a#b", "🙂", "x" * 251, "a\nb"], ids=["empty", "hash", "emoji", "long", "newline"]
)
def test_a_key_that_mlflow_would_not_take_is_refused(
    registry: Registry, run_id: str, key: str
) -> None:
    for log in (
        lambda: registry.log(run_id, metrics={key: 1.0}),
        lambda: registry.log(run_id, params={key: "1"}),
        lambda: registry.log(run_id, tags={key: "1"}),
        lambda: registry.set_tag(M, key, "1"),
    ):
        with pytest.raises(InvalidEventError, match="expected a key"):
            log()


def test_values_beyond_mlflows_limits_are_refused(registry: Registry, run_id: str) -> None:
    registry.log(run_id, params={"p": "x" * 6_000}, tags={"t": "y" * 8_000})

    with pytest.raises(InvalidEventError, match="at most 6000 characters, got 6001"):
        registry.log(run_id, params={"q": "x" * 6_001})
    with pytest.raises(InvalidEventError, match="at most 8000 characters, got 8001"):
        registry.log(run_id, tags={"u": "y" * 8_001})
    with pytest.raises(InvalidEventError, match="timestamp in milliseconds"):
        registry.log_batch(run_id, metrics=[point(0, 1.0, -1)])


def test_logging_on_no_run_is_refused(registry: Registry) -> None:
    with pytest.raises(NotFoundError, match="there is no run 'nothing'"):
        registry.log("nothing", metrics={"auc": 1.0})
    with pytest.raises(NotFoundError, match="there is no run 'nothing'"):
        registry.metric_history("nothing", "auc")


# ── Aliases and tags ────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def crowned(registry: Registry) -> Registry:
    for number in (1, 2):
        cases.champion(registry, number)
    return registry


def test_an_alias_names_a_version_and_moves(crowned: Registry) -> None:
    crowned.set_alias(M, "shadowed", 1, actor="ann")
    crowned.set_alias(M, "shadowed", 1, actor="ann")
    crowned.set_alias(M, "shadowed", 2, actor="ann")

    assert crowned.get_version(M, "shadowed").version == 2
    assert crowned.list_aliases(M) == {"champion": 2, "shadowed": 2}
    told = [e for e in crowned.audit(M).items if e.action == "alias_set"]
    assert [(e.before, e.after) for e in told] == [
        (f"{M}@1", f"{M}@2"),
        ("", f"{M}@1"),
    ]


def test_a_deleted_alias_points_nowhere_until_it_is_set_again(crowned: Registry) -> None:
    crowned.set_alias(M, "old", 1, actor="ann")
    crowned.delete_alias(M, "old", actor="ann")
    crowned.delete_alias(M, "old", actor="ann")

    with pytest.raises(NotFoundError, match="no version or alias of that name"):
        crowned.get_version(M, "old")
    assert crowned.list_aliases(M) == {"champion": 2}
    crowned.set_alias(M, "old", 1, actor="ann")
    assert crowned.get_version(M, "old").version == 1
    assert crowned.verify(M).sound


@pytest.mark.parametrize("alias", ["champion", "challenger"])
def test_an_alias_of_the_registrys_own_is_not_set_by_hand(crowned: Registry, alias: str) -> None:
    with pytest.raises(ConflictError, match="moves by"):
        crowned.set_alias(M, alias, 1, actor="ann")
    with pytest.raises(ConflictError, match="moves by"):
        crowned.delete_alias(M, alias, actor="ann")


@pytest.mark.parametrize("alias", ["", "latest", "v3", "Prod", "a b", "a#b", "é", "x" * 65])
def test_what_is_no_alias_is_refused(crowned: Registry, alias: str) -> None:
    with pytest.raises(InvalidEventError, match="alias: expected"):
        crowned.set_alias(M, alias, 1, actor="ann")


def test_an_alias_of_nothing_is_refused(crowned: Registry) -> None:
    with pytest.raises(NotFoundError, match="no version 9"):
        crowned.set_alias(M, "old", 9, actor="ann")
    with pytest.raises(NotFoundError, match="no model 'nobody'"):
        crowned.set_alias("nobody", "old", 1, actor="ann")
    with pytest.raises(NotFoundError, match="no model 'nobody'"):
        crowned.list_aliases("nobody")


def test_tags_of_a_model_and_of_its_versions_stay_apart(crowned: Registry) -> None:
    crowned.set_tag(M, "team", "growth")
    crowned.set_tag(M, "team", "risk", version=1)
    crowned.set_tag(M, "gone", "soon", version=1)
    crowned.set_tag(M, "gone", None, version=1)

    assert crowned.tags(M) == {"team": "growth"}
    assert crowned.tags(M, 1) == {"team": "risk"}
    assert crowned.tags(M, 2) == {}
    assert [v.version for v in crowned.list_versions(M).items] == [2, 1]
    with pytest.raises(NotFoundError, match="no version 9"):
        crowned.set_tag(M, "team", "risk", version=9)
    with pytest.raises(InvalidEventError, match="at most 8000"):
        crowned.set_tag(M, "team", "x" * 8_001)

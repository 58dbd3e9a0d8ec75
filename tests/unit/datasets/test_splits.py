"""Splits: disjoint, exhaustive, deterministic, in proportion; each strategy keeps its promise."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from millrace.datasets import splits
from millrace.datasets.check import prepare
from millrace.datasets.engine import Limits
from millrace.datasets.table import SPLITS, Table
from tests.unit.datasets.uploads import checked, churn_csv, churn_rows, churn_spec, with_column

shares = st.floats(0.01, 0.49)
keys = hnp.arrays(np.uint64, st.integers(1, 300), elements=st.integers(0, 2**64 - 1))


@given(keys=keys, validation=shares, test=shares)
def test_key_alone_decides_a_row(keys: Any, validation: float, test: float) -> None:
    assigned = splits.by_key(keys, validation=validation, test=test)

    alone = [
        int(splits.by_key(keys[i : i + 1], validation=validation, test=test)[0])
        for i in range(len(keys))
    ]
    assert assigned.tolist() == alone
    assert sum(splits.counts(assigned).values()) == len(keys)


def test_keys_divide_in_proportion() -> None:
    keys = np.random.default_rng(1).integers(0, 2**64, 100_000, dtype=np.uint64)

    rows = splits.counts(splits.by_key(keys, validation=0.15, test=0.2))

    # Five standard deviations of a binomial count.
    assert rows["test"] == pytest.approx(20_000, abs=5 * (100_000 * 0.2 * 0.8) ** 0.5)
    assert rows["validation"] == pytest.approx(15_000, abs=5 * (100_000 * 0.15 * 0.85) ** 0.5)


@given(keys=keys, validation=shares, test=shares, seed=st.integers(0, 100))
def test_each_class_is_divided_exactly(
    keys: Any, validation: float, test: float, seed: int
) -> None:
    classes = np.random.default_rng(seed).integers(0, 4, len(keys)).astype(np.int32)

    assigned = splits.by_class(keys, classes, validation=validation, test=test)

    for label in np.unique(classes):
        mine = assigned[classes == label]
        n = len(mine)
        tested = int((mine == splits.TEST).sum())
        assert tested == min(max(1, int(n * test + 0.5)), n - 1)
        assert int((mine == splits.VALIDATION).sum()) == min(
            int(n * validation + 0.5), max(0, n - 1 - tested)
        )
        assert int((mine == splits.TRAIN).sum()) >= 1


@given(
    keys=hnp.arrays(
        np.uint64, st.integers(1, 300), elements=st.integers(0, 2**64 - 1), unique=True
    ),
    validation=shares,
    test=shares,
)
def test_order_of_classes_of_distinct_keys_does_not_matter(
    keys: Any, validation: float, test: float
) -> None:
    classes = (keys % np.uint64(3)).astype(np.int32)
    moved = np.random.default_rng(0).permutation(len(keys))

    assigned = splits.by_class(keys, classes, validation=validation, test=test)
    again = splits.by_class(keys[moved], classes[moved], validation=validation, test=test)

    assert again.tolist() == assigned[moved].tolist()


@given(
    times=hnp.arrays(np.int64, st.integers(3, 200), elements=st.integers(0, 40)),
    validation=shares,
    test=shares,
)
def test_time_runs_from_train_to_test_and_never_straddles(
    times: Any, validation: float, test: float
) -> None:
    assigned = splits.by_time(times, validation=validation, test=test)

    parts = [times[assigned == i] for i in range(3)]
    for older, newer in ((0, 1), (1, 2), (0, 2)):
        if len(parts[older]) and len(parts[newer]):
            assert parts[older].max() < parts[newer].min()
    assert sum(len(p) for p in parts) == len(times)
    if len(np.unique(times)) > 1:
        assert len(parts[2])


def test_distinct_times_are_cut_at_the_ideal_counts() -> None:
    times = np.random.default_rng(2).permutation(1000)

    rows = splits.counts(splits.by_time(times, validation=0.15, test=0.2))

    assert rows == {"train": 650, "validation": 150, "test": 200}


def test_three_moments_fill_three_splits() -> None:
    times = np.repeat([2016, 2017, 2018], [500, 100, 400])

    assigned = splits.by_time(times, validation=0.15, test=0.2)

    assert splits.counts(assigned) == {"train": 500, "validation": 100, "test": 400}


@pytest.mark.parametrize("strategy", ["hash", "stratified", "time", "group"])
def test_strategies_divide_a_file_whatever_its_order(tmp_path: Path, strategy: str) -> None:
    columns = {c["name"]: c for c in with_column("joined", role="time")}
    columns["city"] = {"name": "city", "type": "string", "role": "group"}
    spec = churn_spec(columns=list(columns.values()), split={"strategy": strategy})
    rows = [
        {**r, "city": f"town {i % 40}", "churned": str(i % 7 == 0)}
        for i, r in enumerate(churn_rows(400))
    ]

    there = checked(tmp_path, churn_csv(rows), spec=spec)
    back = checked(tmp_path, churn_csv(rows[::-1]), spec=spec)

    assert there.outcome == "accepted", there.reason
    assert there.split_rows == back.split_rows
    assert sum(there.split_rows.values()) == 400
    assert all(count > 20 for count in there.split_rows.values())


def split_of_ids(
    directory: Path, rows: list[dict[str, Any]], split: dict[str, Any]
) -> dict[int, str]:
    """The split of every id; scores are the ids, so that they can be found again."""
    directory.mkdir()
    path = directory / "a.csv"
    path.write_bytes(churn_csv([{**r, "score": r["id"]} for r in rows]))
    spec = churn_spec(split=split)
    made = prepare(path, path.name, spec, workspace=directory, limits=Limits())
    assert made.kept is not None, made.report.reason
    return {
        int(value): name
        for name in SPLITS
        for value in Table.from_bytes(made.kept.splits[name].read_bytes(), made.kept.schema).arrays[
            "score"
        ]
    }


def test_hash_keeps_a_row_where_it_is_when_rows_come_and_go(tmp_path: Path) -> None:
    rows = churn_rows(300)

    few = split_of_ids(tmp_path / "few", rows[:200], {"strategy": "hash"})
    many = split_of_ids(tmp_path / "many", rows, {"strategy": "hash"})

    assert few == {row: name for row, name in many.items() if row < 200}


def test_id_alone_decides_even_when_the_row_changes(tmp_path: Path) -> None:
    rows = churn_rows(200)
    older = [{**row, "age": str(int(row["age"]) + 1)} for row in rows]

    before = split_of_ids(tmp_path / "before", rows, {})
    after = split_of_ids(tmp_path / "after", older, {})

    assert before == after


def test_another_seed_divides_differently(tmp_path: Path) -> None:
    rows = churn_rows(200)

    one = split_of_ids(tmp_path / "one", rows, {"seed": 1})
    two = split_of_ids(tmp_path / "two", rows, {"seed": 2})

    assert one != two


def test_a_group_is_never_in_two_splits(tmp_path: Path) -> None:
    spec = churn_spec(
        columns=with_column("city", role="group", allowed=None), split={"strategy": "group"}
    )
    rows = [{**r, "city": f"town {i % 40}"} for i, r in enumerate(churn_rows(400))]
    path = tmp_path / "a.csv"
    path.write_bytes(churn_csv(rows))

    made = prepare(path, path.name, spec, workspace=tmp_path, limits=Limits())

    assert made.kept is not None
    towns = [
        set(Table.from_bytes(made.kept.splits[n].read_bytes(), made.kept.schema).strings("city"))
        for n in SPLITS
    ]
    assert sum(len(t) for t in towns) == len(set().union(*towns)) == 40

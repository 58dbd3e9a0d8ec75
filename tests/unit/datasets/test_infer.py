"""A first spec from a sample: sound guesses, each with its reason."""

from pathlib import Path
from typing import Any

import pytest

from millrace.datasets.check import check_file
from millrace.datasets.infer import Commentary, infer_spec, render_yaml
from millrace.errors import InvalidSpecError, UploadRefusedError
from millrace.spec import ColumnType, ModelSpec, Role, Task
from tests.unit.datasets.uploads import churn_csv, churn_jsonl, churn_rows


def people(count: int = 300) -> list[dict[str, Any]]:
    return [
        {
            "customer_id": f"c{i}",
            "age": str(18 + i % 50),
            "height": f"{150 + i % 40}.5",
            "zip": f"0{1000 + i % 50}",
            "plan": ["basic", "plus", ""][i % 3],
            "note": f"free text {i}",
            "country": "FR",
            "since": f"2020-01-{1 + i % 28:02d}",
            "vip": ["True", "False"][i % 2],
            "gender": ["f", "m"][i % 2],
            "household_id": str(i // 2),
            "churned": str(int(i % 5 == 0)),
            "spent": str(i * 1.25),
            "segment": f"s{i % 4}",
        }
        for i in range(count)
    ]


def inferred(
    directory: Path, target: str = "churned", task: Task | None = None
) -> tuple[ModelSpec, Commentary]:
    path = directory / "people.csv"
    path.write_bytes(churn_csv(people()))
    return infer_spec(path, name="churn", target=target, task=task)


@pytest.mark.parametrize(
    ("column", "type_", "role", "nullable", "words"),
    [
        ("customer_id", "string", "id", True, "unique in every row"),
        ("age", "integer", "feature", False, "seen 18 to 67, 50 different; never empty"),
        ("height", "number", "feature", False, "seen 150.5 to 189.5"),
        ("zip", "string", "feature", False, "leading zeros"),
        ("plan", "string", "feature", True, "'basic', 'plus'; 100 of 300 empty"),
        ("note", "string", "ignore", True, "300 different texts are too many"),
        ("country", "string", "ignore", True, "one value says nothing"),
        ("since", "timestamp", "ignore", True, "split.strategy time"),
        ("vip", "boolean", "feature", False, "'False', 'True'"),
        ("gender", "string", "feature", False, "may be personal"),
        ("household_id", "integer", "ignore", True, "role group"),
        ("churned", "integer", "target", True, "to be predicted"),
    ],
)
def test_column_is_read_as_a_person_would(
    tmp_path: Path, column: str, type_: str, role: str, nullable: bool, words: str
) -> None:
    spec, commentary = inferred(tmp_path)

    found = next(c for c in spec.data.columns if c.name == column)
    assert (found.type, found.role, found.nullable) == (type_, role, nullable)
    assert words in commentary[column]


@pytest.mark.parametrize(
    ("target", "task"),
    [
        ("churned", Task.BINARY),
        ("vip", Task.BINARY),
        ("segment", Task.MULTICLASS),
        ("spent", Task.REGRESSION),
        ("age", Task.REGRESSION),
    ],
)
def test_task_follows_from_the_target(tmp_path: Path, target: str, task: Task) -> None:
    spec, _ = inferred(tmp_path, target)

    assert spec.task is task
    assert spec.target.name == target


def test_a_stated_task_wins(tmp_path: Path) -> None:
    spec, _ = inferred(tmp_path, "age", Task.MULTICLASS)

    assert (spec.task, spec.target.type) == (Task.MULTICLASS, ColumnType.INTEGER)


def test_rendered_spec_parses_back_to_itself(tmp_path: Path) -> None:
    spec, commentary = inferred(tmp_path)

    text = render_yaml(spec, commentary)

    assert ModelSpec.from_yaml(text) == spec
    assert "# Share of the test split" in text
    for column in spec.data.columns:
        assert f"# {commentary[column.name]}" in text


def test_hostile_names_survive_rendering(tmp_path: Path) -> None:
    names = ["a: b", "#x", "null", "yes", "1", "- q", "it's", 'say "x"', "{y}", "é\u2028z"]
    rows = [
        {**{name: str((i * 7 + k) % 5) for k, name in enumerate(names)}, "y": str(i % 2)}
        for i in range(100)
    ]
    path = tmp_path / "odd.csv"
    path.write_bytes(churn_csv(rows))

    spec, commentary = infer_spec(path, name="odd", target="y")

    assert [c.name for c in spec.data.columns] == [*names, "y"]
    assert ModelSpec.from_yaml(render_yaml(spec, commentary)) == spec


def test_inferred_spec_accepts_its_own_file(tmp_path: Path) -> None:
    for name, body in (
        ("a.csv", churn_csv(churn_rows(200))),
        ("b.csv", churn_csv(churn_rows(200), delimiter=";")),
        ("c.jsonl", churn_jsonl(churn_rows(200))),
    ):
        path = tmp_path / name
        path.write_bytes(body)

        spec, _ = infer_spec(path, name="churn", target="churned")

        report = check_file(path, spec)
        assert (report.outcome, report.rows.quarantined) == ("accepted", 0), report.reason


def test_nan_written_for_no_value_becomes_a_null_value(tmp_path: Path) -> None:
    rows = churn_rows(200)
    for row in rows[::3]:
        row["score"] = "NaN"
    path = tmp_path / "a.csv"
    path.write_bytes(churn_csv(rows))

    spec, _ = infer_spec(path, name="churn", target="churned")

    score = next(c for c in spec.data.columns if c.name == "score")
    assert (score.type, score.role, score.nullable) == (ColumnType.NUMBER, Role.FEATURE, True)
    assert "NaN" in spec.data.null_values
    assert check_file(path, spec).rows.quarantined == 0


def test_unknown_target_is_an_error_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpecError, match=r"no column 'churn'.*did you mean 'churned'"):
        inferred(tmp_path, "churn")


def test_target_with_too_many_texts_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpecError, match="300 different values of type string"):
        inferred(tmp_path, "note")


def test_constant_target_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpecError, match="nothing to predict"):
        inferred(tmp_path, "country")


def test_unreadable_file_is_refused_as_in_the_cloud(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"")

    with pytest.raises(UploadRefusedError, match="empty"):
        infer_spec(path, name="churn", target="churned")

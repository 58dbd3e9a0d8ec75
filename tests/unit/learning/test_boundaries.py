"""scikit-learn and skl2onnx stay in their room."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LEARNING = ROOT / "shared" / "millrace" / "learning"
TRAIN = ROOT / "functions" / "train"
HEAVY = {"sklearn", "skl2onnx", "scipy", "onnx", "pandas"}


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def sources() -> list[Path]:
    return sorted((*(ROOT / "shared").rglob("*.py"), *(ROOT / "functions").rglob("*.py")))


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_only_learning_imports_scikit_learn(path: Path) -> None:
    names = imported(path)

    if not path.is_relative_to(LEARNING):
        assert not {name.split(".")[0] for name in names} & HEAVY
        if not path.is_relative_to(TRAIN):
            assert not any(name.startswith("millrace.learning") for name in names)


def test_package_itself_imports_nothing() -> None:
    assert imported(LEARNING / "__init__.py") == set()


def test_nothing_in_learning_can_unpickle() -> None:
    for path in LEARNING.rglob("*.py"):
        assert not imported(path) & {"pickle", "joblib", "dill", "cloudpickle", "shelve"}

"""The tree of errors is drawn as it is, and nothing in it is there for nothing."""

import re
from pathlib import Path

from millrace import errors

ROOT = Path(__file__).parents[3]
CLASSES = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.MillraceError)
}


def test_the_tree_is_drawn_as_it_is() -> None:
    drawn: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^([ │├└─]*)(\w+Error)\b", line)
        if found is None:
            continue
        depth, name = len(found[1]), found[2]
        above = [(d, n) for d, n in above if d < depth]
        drawn[name] = above[-1][1] if above else "Exception"
        above.append((depth, name))

    assert drawn == {
        name: kind.__base__.__name__ for name, kind in CLASSES.items() if kind.__base__
    }


def test_every_error_is_made_somewhere_and_met_by_a_test() -> None:
    code = "\n".join(
        path.read_text()
        for folder in ("shared", "functions")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "errors.py"
    )
    tests = "\n".join(
        path.read_text() for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)
    )
    branches = {kind.__base__ for kind in CLASSES.values()}
    leaves = [name for name, kind in CLASSES.items() if kind not in branches]

    assert [n for n in leaves if not re.search(rf"\b{n}\b[(),]", code)] == []
    assert [n for n in leaves if not re.search(rf"\b{n}\b", tests)] == []

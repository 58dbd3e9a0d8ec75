"""docs/testing.md says what was exercised where, and cannot go stale."""

from pathlib import Path

import pytest

from millrace_cli.engines import ENGINES, Capability, Engine
from tests import evidence


def test_the_page_holds_the_table_as_it_is_now() -> None:
    page = evidence.PAGE.read_text(encoding="utf-8")

    assert page == evidence.page_with_table(page), "write it anew: python -m tests.evidence"


def test_every_capability_has_its_row() -> None:
    assert list(evidence.ELSEWHERE) == list(Capability)


@pytest.mark.parametrize("capability", Capability)
def test_named_files_hold_tests_of_their_kind(capability: Capability) -> None:
    row = evidence.ELSEWHERE[capability]

    for kind, files in (("unit", row.unit), ("integration", row.moto), ("infra", row.static)):
        for file in files:
            assert Path(file).parts[0] == kind
            assert "def test_" in (evidence.TESTS / file).read_text(encoding="utf-8"), file


@pytest.mark.parametrize("path", evidence.suite(), ids=lambda path: path.stem)
def test_every_test_of_the_suite_says_what_it_needs(path: Path) -> None:
    for name, needs in evidence.needs_of(path).items():
        assert needs, f"{path.name}::{name}: @pytest.mark.needs(...) is missing"
        assert needs <= set(Capability), f"{path.name}::{name}"


@pytest.mark.parametrize("engine", ENGINES.values(), ids=lambda engine: engine.name)
def test_what_an_engine_is_declared_to_do_is_exercised_on_it(engine: Engine) -> None:
    for capability in engine.capabilities:
        assert evidence.needing(capability, evidence.suite()), capability


def test_the_suite_asks_for_capabilities_and_never_for_an_engine() -> None:
    for path in evidence.suite():
        text = path.read_text(encoding="utf-8").lower()
        for name in (*ENGINES, "option.engine", "engine ==", "capabilities_of"):
            assert name not in text, f"{path.name} speaks of {name}"

"""Environments that are made ahead of their first request: what they load, and what they renew."""

import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from functions.predict import handler as predict
from millrace.aws.wire import Wire
from tests.integration.predict.conftest import ROW, Serving

BODY = {"rows": [ROW]}


@pytest.fixture
def assembly(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> predict.Assembly:
    made = predict.assemble(predict.PredictSettings.from_environment(), lambda: serving.now)
    monkeypatch.setattr(predict, "assembly", lambda: made)
    monkeypatch.setattr(predict, "gateway", lambda: made.gateway)
    return made


def loads(capsys: pytest.CaptureFixture[str]) -> int:
    return capsys.readouterr().out.count('"message":"model loaded"')


def test_provisioned_environments_load_the_champions_ahead(
    serving: Serving, assembly: predict.Assembly, capsys: pytest.CaptureFixture[str]
) -> None:
    serving.crown(1)

    predict.prepare(predict.PROVISIONED)

    assert loads(capsys) == 1
    assert serving.predict(BODY).status == 200
    assert loads(capsys) == 0


def test_an_environment_made_on_demand_loads_nothing_ahead(
    serving: Serving, assembly: predict.Assembly, capsys: pytest.CaptureFixture[str]
) -> None:
    serving.crown(1)

    predict.prepare("on-demand")

    assert loads(capsys) == 0


def test_a_registry_that_fails_ahead_costs_only_the_head_start(
    serving: Serving, assembly: predict.Assembly, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("down")

    serving.crown(1)
    with monkeypatch.context() as patch:
        patch.setattr(Wire, "_exchange", unreachable)
        predict.prepare(predict.PROVISIONED)

    assert serving.predict(BODY).status == 200


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is registered with Lambda's runtime, whose module only the runtime has."""
    held: dict[str, Any] = {}
    module = ModuleType("snapshot_restore_py")
    module.register_before_snapshot = lambda f: held.update(before=f)  # type: ignore[attr-defined]
    module.register_after_restore = lambda f: held.update(after=f)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "snapshot_restore_py", module)
    predict.prepare(predict.SNAP_START)
    return held


def test_a_snapshot_holds_the_models_and_a_restored_one_asks_who_is_champion(
    serving: Serving,
    assembly: predict.Assembly,
    hooks: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    serving.crown(1)
    hooks["before"]()
    assert loads(capsys) == 1

    hooks["after"]()
    assert serving.predict(BODY).headers["x-millrace-model-version"] == "1"
    assert loads(capsys) == 0

    serving.crown(2)
    hooks["after"]()
    assert serving.predict(BODY).headers["x-millrace-model-version"] == "2"


def test_nothing_that_is_one_environments_own_survives_the_snapshot(
    serving: Serving,
    assembly: predict.Assembly,
    hooks: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    serving.crown(1)
    hooks["before"]()
    assert not any(wire._idle for wire in assembly.wires)
    state = random.getstate()
    forgotten: list[str] = []
    monkeypatch.setattr(assembly.credentials, "forget", lambda: forgotten.append("credentials"))

    hooks["after"]()

    assert forgotten == ["credentials"]
    assert random.getstate() != state


def test_the_runtime_has_the_hooks() -> None:
    """The module that Lambda's Python runtime ships, as far as it is installed for the tests."""
    runtime = Path(__file__).parents[3] / ".tools/runtime/lib/python3.13/site-packages"

    text = (runtime / "snapshot_restore_py.py").read_text(encoding="utf-8")

    assert "def register_before_snapshot(" in text
    assert "def register_after_restore(" in text

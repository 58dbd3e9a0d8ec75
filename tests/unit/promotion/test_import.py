"""A version goes from one environment to another by its digest, on its evidence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from millrace import layout
from millrace.bundle import Bundle, Content, write_bundle
from millrace.documents import read_spec
from millrace.errors import (
    ArtifactError,
    ChampionChangedError,
    ConflictError,
    DigestMismatchError,
    InvalidRequestError,
    NotApproverError,
    NotFoundError,
)
from millrace.http.deciding import Desk
from millrace.http.operations import RolloutDoor
from millrace.monitoring.baseline import Baseline, read_baseline
from millrace.registry.records import VersionStatus
from millrace.registry.verification import verify
from tests.fakes import cases
from tests.fakes.bundles import bundled
from tests.fakes.crashes import Killed
from tests.fakes.environments import BUCKET, Environment, spec


@pytest.fixture
def staging() -> Environment:
    made = Environment("staging")
    made.train(1)
    return made


@pytest.fixture
def production() -> Environment:
    made = Environment("production")
    made.apply(spec())
    return made


def rewritten(path: Path, change: Callable[[dict[str, Any]], object], name: str) -> Path:
    """The bundle with one JSON file changed and every digest right: the work of somebody else."""
    bundle = Bundle.open(path)
    contents = []
    for file in bundle.manifest.files:
        body = bundle.read(file.path)
        if file.path == name:
            document = json.loads(body)
            change(document)
            body = json.dumps(document).encode()
        contents.append(Content(file.path, file.role, body, file.key))
    m = bundle.manifest
    write_bundle(
        path,
        contents,
        kind=m.kind,
        serving=m.serving,
        task=m.task,
        algorithm=m.algorithm,
        trained_at=m.trained_at,
    )
    return path


def test_an_imported_version_is_the_same_bytes_and_knows_where_it_comes_from(
    staging: Environment, production: Environment, tmp_path: Path
) -> None:
    there = staging.registry.get_version("churn", 1)

    imported = production.bring_in(staging.export(tmp_path / "b"))

    here = production.registry.get_version("churn", imported.version)
    assert (here.sha256, here.signature_sha256) == (there.sha256, there.signature_sha256)
    assert production.store.read(BUCKET, here.model_key) == staging.store.read(
        BUCKET, there.model_key
    )
    assert here.status is VersionStatus.VALIDATED
    assert here.provenance is not None
    assert (here.provenance.environment, here.provenance.version) == ("staging", 1)
    assert here.provenance.imported_by == "ben"
    assert here.metrics == there.metrics


def test_an_imported_version_can_be_promoted_and_answers(
    staging: Environment, production: Environment, tmp_path: Path
) -> None:
    imported = production.bring_in(staging.export(tmp_path / "b"))

    production.registry.promote("churn", imported.version, actor="ann", reason="from staging")

    serving = production.registry.get_serving("churn")
    assert serving.sha256 == staging.registry.get_version("churn", 1).sha256


def test_importing_twice_finds_what_is_there(
    staging: Environment, production: Environment, tmp_path: Path
) -> None:
    path = staging.export(tmp_path / "b")
    first = production.bring_in(path)
    entries = len(production.registry.audit("churn", limit=200).items)

    second = production.bring_in(path)

    assert (first.created, second.created) == (True, False)
    assert second.version == first.version
    assert len(production.registry.audit("churn", limit=200).items) == entries


def baseline_of(environment: Environment, version: int) -> Baseline:
    record = environment.registry.get_version("churn", version)
    return read_baseline(environment.store, BUCKET, "churn", record.run_id)


def test_an_imported_version_is_monitored_by_the_baseline_that_came_with_it(
    staging: Environment, production: Environment, tmp_path: Path
) -> None:
    production.train(1, promoted=False)
    production.train(2, promoted=False)
    path = staging.export(tmp_path / "b")

    imported = production.bring_in(path)

    here, there = baseline_of(production, imported.version), baseline_of(staging, 1)
    assert (imported.has_baseline, imported.version) == (True, 3)
    assert (here.version, here.run_id) == (
        3,
        production.registry.get_version("churn", 3).run_id,
    )
    assert here.model_copy(update={"version": 1, "run_id": there.run_id}) == there
    assert imported.provenance is not None
    digest = next(f.sha256 for f in Bundle.open(path).manifest.files if f.role == "baseline")
    assert imported.provenance.baseline_sha256 == digest
    onwards = Environment("elsewhere")
    onwards.apply(spec())
    again = onwards.bring_in(production.export(tmp_path / "c", 3))
    assert baseline_of(onwards, again.version).features == there.features


def test_a_bundle_without_a_baseline_is_imported_and_says_so_until_one_comes(
    production: Environment, tmp_path: Path
) -> None:
    staging = Environment("staging")
    trained = staging.train(1, baseline=False)
    before = production.bring_in(staging.export(tmp_path / "old"))
    made = cases.baseline(trained.run_id, 1)
    key = layout.baseline_key("churn", trained.run_id)
    staging.store.write(BUCKET, key, made.to_bytes(), content_type="")

    after = production.bring_in(staging.export(tmp_path / "new"))

    assert (before.has_baseline, after.has_baseline) == (False, True)
    assert (after.version, after.created) == (before.version, False)
    assert baseline_of(production, after.version).features == made.features


@pytest.mark.parametrize("name", ["model", "version", "run_id", "dataset_version"])
def test_a_baseline_of_another_version_is_refused(
    staging: Environment, production: Environment, tmp_path: Path, name: str
) -> None:
    path = rewritten(
        staging.export(tmp_path / "b"),
        lambda document: document.update({name: 9 if name == "version" else "other"}),
        "baseline.json",
    )

    with pytest.raises(ArtifactError, match=r"baseline\.json"):
        production.bring_in(path)


def manual(**rules: Any) -> Environment:
    """Production, where a person approves."""
    made = Environment("production")
    made.apply(spec(approve={"mode": "manual", **rules}))
    return made


def test_an_import_asks_a_person_where_the_spec_here_wants_one(
    staging: Environment, tmp_path: Path
) -> None:
    production = manual(four_eyes=True)
    path = staging.export(tmp_path / "b")

    imported = production.bring_in(path)
    again = production.bring_in(path)

    assert (imported.awaits_approval, again.awaits_approval) == (True, True)
    asked = production.approvals.get("churn", imported.version)
    assert asked.requested_by == "ben"
    told = [e.action for e in production.registry.audit("churn", limit=200).items]
    assert told.count("approval_requested") == 1
    with pytest.raises(NotApproverError, match="ben imported it"):
        production.registry.promote("churn", imported.version, actor="ben", reason="mine")
    assert production.registry.champion("churn") is None


def test_an_approved_import_is_promoted_though_no_machine_waits(
    staging: Environment, tmp_path: Path
) -> None:
    production = manual()
    imported = production.bring_in(staging.export(tmp_path / "b"))
    desk = Desk(
        registry=production.registry,
        approvals=production.approvals,
        wake=lambda _: pytest.fail("there is no machine to wake"),
        read_spec=lambda record: read_spec(production.store, BUCKET, record.key, record.digest),
        report_link=lambda _: None,
        rollout_door=RolloutDoor(pytest.fail, "rollout"),  # type: ignore[arg-type]
    )

    shown = desk.evidence("churn", imported.version, actor="user:ada")
    desk.decide(
        "churn",
        imported.version,
        "approve",
        actor="user:ada",
        reason="two weeks in staging",
        via="api",
        request_id=shown.request.request_id,
        correlation_id="c",
    )

    assert shown.training.dataset_rows is None
    assert production.registry.get_serving("churn").version == imported.version
    assert verify(production.table, "churn").faults == ()


def test_an_import_that_died_before_it_asked_cannot_take_traffic(
    staging: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    production = manual()
    path = staging.export(tmp_path / "b")
    with monkeypatch.context() as dying:
        dying.setattr(production.approvals, "find", _die)
        with pytest.raises(Killed):
            production.bring_in(path)

    with pytest.raises(ConflictError, match="nobody was asked to approve it yet"):
        production.registry.promote("churn", 1, actor="ann", reason="now", force=True)

    assert production.bring_in(path).awaits_approval
    production.registry.promote("churn", 1, actor="ann", reason="now")
    assert production.approvals.get("churn", 1).via == "promotion"


def _die(*_: object) -> None:
    raise Killed


def test_the_ledger_tells_who_imported_what_from_where(
    staging: Environment, production: Environment, tmp_path: Path
) -> None:
    production.bring_in(staging.export(tmp_path / "b"))

    [entry] = [
        e
        for e in production.registry.audit("churn", limit=200).items
        if e.action == "version_registered"
    ]
    assert entry.actor == "ben"
    assert (entry.facts["imported_from"], entry.facts["imported_version"]) == ("staging", 1)
    assert verify(production.table, "churn").faults == ()


def test_the_gates_of_the_spec_here_decide(staging: Environment, tmp_path: Path) -> None:
    strict = Environment("strict")
    strict.apply(spec(evaluate={"metrics": [{"metric": "roc_auc", "min": 0.95}]}))

    imported = strict.bring_in(staging.export(tmp_path / "b"))

    assert imported.status is VersionStatus.REJECTED
    assert "metrics[0]: expected roc_auc ≥ 0.95, got 0.9" in imported.reason


def test_a_gate_that_was_not_measured_there_fails(staging: Environment, tmp_path: Path) -> None:
    careful = Environment("careful")
    gate = {"column": "plan", "metric": "roc_auc", "min": 0.5}
    careful.apply(spec(evaluate={"slices": [gate]}))

    imported = careful.bring_in(staging.export(tmp_path / "b"))

    assert imported.status is VersionStatus.REJECTED
    assert "slices[0]: expected roc_auc measured where the version comes from" in imported.reason


def test_a_comparison_counts_only_with_the_champion_that_is_here(
    staging: Environment, production: Environment, tmp_path: Path
) -> None:
    first = production.bring_in(staging.export(tmp_path / "1"))
    production.registry.promote("churn", first.version, actor="ann", reason="first")
    staging.train(2)
    compared = production.bring_in(staging.export(tmp_path / "2"))
    staging.train(3)
    # Compared with staging's second version; the champion of production is the first.
    uncompared = production.bring_in(staging.export(tmp_path / "3"))

    assert compared.status is VersionStatus.VALIDATED
    assert uncompared.status is VersionStatus.REJECTED
    assert "against_champion: expected compared with churn@1, the champion here" in (
        uncompared.reason
    )


def test_an_import_is_held_to_the_champion_it_was_judged_against(
    staging: Environment, production: Environment, tmp_path: Path
) -> None:
    imported = production.bring_in(staging.export(tmp_path / "1"))
    trained = production.train(9)
    assert trained.status is VersionStatus.CHAMPION

    with pytest.raises(ChampionChangedError):
        production.registry.promote("churn", imported.version, actor="ann")


def test_a_model_that_is_not_here_is_told(staging: Environment, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no model 'churn'; apply its spec first"):
        Environment("empty").bring_in(staging.export(tmp_path / "b"))


def test_a_spec_for_something_else_is_told(staging: Environment, tmp_path: Path) -> None:
    other = Environment("other")
    columns = [
        {"name": "age", "type": "number"},
        {"name": "left", "type": "boolean", "role": "target"},
    ]
    other.apply(spec(data={"columns": columns}))

    with pytest.raises(ConflictError, match="lacks, or has as another type, .*: active, age, city"):
        other.bring_in(staging.export(tmp_path / "b"))


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        (
            "evaluation.json",
            lambda d: d["provenance"].update(model_sha256="0" * 64),
            "evaluation.json: model: expected [0-9a-f]{64}, got 0{64}",
        ),
        (
            "version.json",
            lambda d: d["version"].update(sha256="0" * 64),
            "version.json: sha256: expected",
        ),
        ("version.json", lambda d: d["version"].update(version=8), "version: expected 1, got 8"),
        ("version.json", lambda d: d.pop("environment"), "environment"),
        ("environment.json", lambda d: d.clear(), "environment.json: model: expected"),
        ("evaluation.json", lambda d: d.clear(), "b: .*model"),
    ],
    ids=["evaluation", "record", "version", "no origin", "environment", "no evaluation"],
)
def test_parts_of_several_versions_are_refused_by_name(
    staging: Environment,
    production: Environment,
    tmp_path: Path,
    name: str,
    change: Callable[[dict[str, Any]], object],
    told: str,
) -> None:
    path = rewritten(staging.export(tmp_path / "b"), change, name)

    with pytest.raises(ArtifactError, match=told):
        production.bring_in(path)
    assert production.registry.list_versions("churn").items == ()


def test_another_spec_than_the_registered_one_is_refused(
    staging: Environment, production: Environment, tmp_path: Path
) -> None:
    path = rewritten(staging.export(tmp_path / "b"), lambda d: d.update(owner="eve"), "spec.json")

    with pytest.raises(DigestMismatchError, match=r"spec\.json"):
        production.bring_in(path)


def test_a_bundle_of_an_older_format_is_told_to_be_exported_anew(
    production: Environment, tmp_path: Path
) -> None:
    with pytest.raises(InvalidRequestError, match="the bundle has no environment: .* export it"):
        production.bring_in(bundled(tmp_path / "old.bundle"))


def test_an_artifact_here_that_is_not_its_content_is_not_registered(
    staging: Environment, production: Environment, tmp_path: Path
) -> None:
    path = staging.export(tmp_path / "b")
    key = Bundle.open(path).manifest.serving.model_key
    production.store.write(BUCKET, key, b"something else", content_type="")

    with pytest.raises(DigestMismatchError, match="model.onnx"):
        production.bring_in(path)
    assert production.registry.list_versions("churn").items == ()

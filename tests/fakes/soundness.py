"""What always holds of the registry, read from its raw items."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from millrace.aws.dynamodb import Item
from millrace.registry.ledger import digest_of
from millrace.registry.records import VersionStatus
from millrace.registry.rollout_states import ACTIVE, OPEN

_AHEAD: Final[Mapping[str, tuple[str | None, ...]]] = defaultdict(
    tuple,
    awaiting_approval=(None, "failed"),
    rejected=(None, "failed"),
    expired=(None, "failed"),
    rolling_out=("promoted", "rolled_back", "not_promoted"),
)
"""What became of a run since its training's end was noted: a decision closes it a moment later, and
one that died while it waited is decided on all the same."""


def check_model(items: Iterable[Item], model: str) -> None:
    """Asserts the invariants of one model.

    Args:
        items: Every item of the table.
        model: The model.
    """
    everything = list(items)
    mine = {i["SK"]: i for i in everything if i["PK"] == f"MODEL#{model}"}
    if not mine:
        return
    meta = mine["META"]
    versions = {i["version"]: i for sk, i in mine.items() if sk.startswith("VERSION#")}
    audit = [i for sk, i in sorted(mine.items()) if sk.startswith("AUDIT#")]
    runs = {
        i["run_id"]: i
        for i in everything
        if i["PK"].startswith("RUN#") and i["SK"] == "META" and i["model"] == model
    }
    _check_chain(mine, audit)
    _check_champion(meta, mine, versions)
    _check_traffic(mine, audit)
    _check_versions(meta, versions, runs)
    _check_audit(meta, versions, audit)
    _check_runs(runs, mine)
    _check_nothing_lost(meta, runs, mine, audit)
    _check_approvals(mine, versions, audit)
    _check_rollouts(meta, mine, runs, audit, [i for i in everything if _is_of_rollout(i, model)])


def _check_chain(mine: dict[str, Item], audit: list[Item]) -> None:
    """Each entry follows the one before, without a gap, up to the head."""
    previous, at = "", ""
    for number, entry in enumerate(audit, 1):
        assert entry["SK"] == f"AUDIT#{number:012d}"
        assert entry["sequence"] == number
        assert entry["previous_hash"] == previous
        assert entry["hash"] == digest_of(entry)
        assert entry["at"] >= at
        previous, at = entry["hash"], entry["at"]
    head = mine["LEDGER"]
    assert (head["sequence"], head["hash"], head["at"]) == (len(audit), previous, at)


def _check_traffic(mine: dict[str, Item], audit: list[Item]) -> None:
    """Each change of the champion stands in the record of what was live, in the same order."""
    crowned = [
        (e["sequence"], int(e["after"].rsplit("@", 1)[1]))
        for e in audit
        if e["action"] in ("promoted", "forced_promotion", "rolled_back")
    ]
    live = [i for sk, i in sorted(mine.items()) if sk.startswith("LIVE#")]
    shared = {(i["sequence"], i["version"]) for i in live}
    assert shared.issuperset(crowned), "a champion changed and nothing says since when"
    if crowned:
        assert mine["SERVING"]["sequence"] >= crowned[-1][0]


def _check_champion(meta: Item, mine: dict[str, Item], versions: dict[int, Item]) -> None:
    champion = meta.get("champion_version")
    champions = [n for n, v in versions.items() if v["status"] == VersionStatus.CHAMPION]
    assert champions == ([] if champion is None else [champion])
    for name in ("ALIAS#champion", "SERVING"):
        assert mine.get(name, {}).get("version") == champion, name
    if champion is not None:
        for fact in ("run_id", "sha256", "model_key", "signature_key", "signature_sha256"):
            assert mine["SERVING"][fact] == versions[champion][fact]
    previous = meta.get("previous_champion_version")
    if previous is not None:
        assert versions[previous]["status"] in (VersionStatus.ARCHIVED, VersionStatus.CHAMPION)


def _check_versions(meta: Item, versions: dict[int, Item], runs: dict[str, Item]) -> None:
    assert sorted(versions) == list(range(1, meta["latest_version"] + 1))
    made_by = [v["run_id"] for v in versions.values()]
    assert len(made_by) == len(set(made_by))
    for number, version in versions.items():
        assert runs[version["run_id"]].get("model_version") == number
    for run in runs.values():
        if "model_version" in run:
            assert versions[run["model_version"]]["run_id"] == run["run_id"]


def _check_audit(meta: Item, versions: dict[int, Item], audit: list[Item]) -> None:
    crownings = [e for e in audit if e["action"] in ("promoted", "forced_promotion", "rolled_back")]
    balance = Counter[str]()
    for entry in crownings:
        balance[entry["after"]] += 1
        balance[entry["before"]] -= 1
    champion = meta.get("champion_version")
    expected = {} if champion is None else {f"{meta['name']}@{champion}": 1, "no champion": -1}
    assert {k: n for k, n in balance.items() if n} == expected
    registered = [e["subject"] for e in audit if e["action"] == "version_registered"]
    assert sorted(registered) == sorted(f"{meta['name']}@{n}" for n in versions)
    for entry in crownings:
        number = int(entry["after"].rsplit("@", 1)[1])
        if entry["action"] == "forced_promotion":
            assert entry["actor"] == "ann"
            assert entry["reason"]
        elif entry["action"] == "promoted":
            assert versions[number]["verdict"] == "passed"
    assert _replayed(audit) == {f"{meta['name']}@{n}": v["status"] for n, v in versions.items()}


def _replayed(audit: list[Item]) -> dict[str, str]:
    """The states the audit tells of."""
    states: dict[str, str] = {}
    for entry in audit:
        match entry["action"]:
            case "version_registered" | "version_validated" | "version_rejected":
                states[entry["subject"]] = entry["after"]
            case "approval_rejected" | "approval_expired":
                assert states[entry["subject"]] == VersionStatus.VALIDATED
                states[entry["subject"]] = VersionStatus.REJECTED.value
            case "promoted" | "forced_promotion" | "rolled_back":
                if entry["before"] != "no champion":
                    assert states[entry["before"]] == VersionStatus.CHAMPION
                    states[entry["before"]] = VersionStatus.ARCHIVED.value
                states[entry["after"]] = VersionStatus.CHAMPION.value
    return states


def _check_runs(runs: dict[str, Item], mine: dict[str, Item]) -> None:
    trained = {i["run_id"]: i for sk, i in mine.items() if sk.startswith("TRAINED#")}
    for run_id, item in trained.items():
        outcome = runs[run_id].get("outcome")
        assert outcome == item["outcome"] or outcome in _AHEAD[item["outcome"]]
    for run in runs.values():
        closed = run["status"] in ("FINISHED", "FAILED")
        assert closed == ("outcome" in run) == ("ended_at" in run)
        if run.get("outcome") == "promoted":
            assert mine[f"VERSION#{run['model_version']:06d}"]["verdict"] == "passed"


def _check_nothing_lost(
    meta: Item, runs: dict[str, Item], mine: dict[str, Item], audit: list[Item]
) -> None:
    """Every state that is stored was told once."""

    def subjects(action: str) -> list[str]:
        return sorted(e["subject"] for e in audit if e["action"] == action)

    assert subjects("run_created") == sorted(runs)
    told = {e["subject"]: e["after"] for e in audit if e["action"] == "run_created"}
    ended = [r for r, run in runs.items() if "outcome" in run and told[r] != run["outcome"]]
    assert subjects("run_finished") == sorted(ended)
    assert len(subjects("spec_applied")) == meta["spec_version"]
    datasets = [i["dataset_version"] for sk, i in mine.items() if sk.startswith("DATASET#")]
    assert subjects("dataset_recorded") == sorted(datasets)


def _check_approvals(mine: dict[str, Item], versions: dict[int, Item], audit: list[Item]) -> None:
    """Each request was asked once and answered once at most, and stands as the ledger tells."""
    told: dict[str, list[str]] = defaultdict(list)
    for entry in audit:
        if entry["action"].startswith("approval_"):
            told[entry["facts"]["request_id"]].append(entry["after"])
    for states in told.values():
        assert states[0] == "pending"
        assert states.count("pending") == 1
        assert len(states) <= 2
    for asked in (i for sk, i in mine.items() if sk.startswith("APPROVAL#")):
        assert told[asked["request_id"]][-1] == asked["status"]
        version = versions[asked["version"]]
        anew = version["evaluation_key"] != asked["evaluation_key"]
        if asked["status"] == "pending" and not anew:
            assert version["status"] == VersionStatus.VALIDATED
        if asked["status"] == "approved" and asked["four_eyes"]:
            assert asked["decided_by"] not in asked["barred"]
        if asked["status"] == "approved" and not anew:
            assert version["status"] != VersionStatus.REJECTED
            assert version["approval"]["request_id"] == asked["request_id"]


def _is_of_rollout(item: Item, model: str) -> bool:
    return item["PK"].startswith("ROLLOUT#") and item.get("model", model) == model


def _check_rollouts(
    meta: Item,
    mine: dict[str, Item],
    runs: dict[str, Item],
    audit: list[Item],
    everything: list[Item],
) -> None:
    """One has traffic at most, the model names it, and all stand as the ledger tells."""
    rollouts = [i for i in everything if i["SK"] == "META"]
    active = [r for r in rollouts if r["status"] in ACTIVE]
    waiting = [r for r in rollouts if r["status"] == "waiting"]
    assert [r["rollout_id"] for r in active] == _named(meta, "rollout_id")
    assert [r["rollout_id"] for r in waiting] == _named(meta, "waiting_rollout_id")
    assert [r["version"] for r in active] == _named(meta, "challenger_version")
    with_traffic = [(r["rollout_id"], r["step"]) for r in active if r.get("step") is not None]
    route = mine.get("SERVING", {}).get("rollout")
    assert with_traffic == ([] if route is None else [(route["rollout_id"], route["step"])])
    for rollout in rollouts:
        ours = [e for e in audit if e["facts"].get("rollout_id") == rollout["rollout_id"]]
        states = [
            e["after"]
            for e in ours
            if e["action"].startswith("rollout_") and e["action"] != "rollout_step"
        ]
        assert states[-1] == rollout["status"]
        assert sum(s not in OPEN for s in states) <= 1
        steps = sum(e["action"] == "rollout_step" for e in ours)
        assert steps == len(rollout["steps"])
        looks = [i for i in everything if i["PK"] == rollout["PK"] and i["SK"] != "META"]
        assert len(looks) == rollout["checks"]
        if rollout["run_id"]:
            open_ = rollout["status"] in OPEN
            assert (runs[rollout["run_id"]]["outcome"] == "rolling_out") == open_


def _named(meta: Item, attribute: str) -> list[object]:
    return [] if meta.get(attribute) is None else [meta[attribute]]

"""Health: what each condition finds, by which figures, and what a look leaves for the next."""

import json
from collections import Counter
from typing import Any

import pytest

from millrace.monitoring.counting import latency_bin
from millrace.monitoring.tallies import Tally
from millrace.registry.rollout_records import Finding
from millrace.rollout.health import Document, Seen, look, statistical, threshold
from millrace.rollout.sequential import Counts
from millrace.spec import RolloutSection


def plan(**fields: Any) -> RolloutSection:
    return RolloutSection.model_validate({"strategy": "canary", "steps": [20], **fields})


def tally(
    requests: int, *, errors: int = 0, ms: dict[float, int] | None = None, **more: Any
) -> Tally:
    latency = Counter({latency_bin(at): n for at, n in (ms or {2.0: requests - errors}).items()})
    return Tally(version=2, requests=requests, errors=errors, latency=latency, **more)


def finding(found: tuple[Finding, ...], condition: str) -> Finding:
    (one,) = [f for f in found if f.condition == condition]
    return one


def looks(of: RolloutSection, steps: list[Seen]) -> tuple[Finding, ...]:
    """What the last of several looks finds; what is left between them passes through JSON."""
    document: Document = {}
    findings: tuple[Finding, ...] = ()
    for seen in steps:
        findings, document = look(of, seen, json.loads(json.dumps(document)))
    return findings


def growing(champion: dict[str, Any], challenger: dict[str, Any], number: int = 6) -> list[Seen]:
    """The same again and again: totals that grow evenly."""

    def times(of: dict[str, Any], n: int) -> Tally:
        grown: dict[str, Any] = {
            name: Counter({k: c * n for k, c in value.items()})
            if isinstance(value, Counter)
            else {k: c * n for k, c in value.items()}
            if isinstance(value, dict)
            else value * n
            for name, value in of.items()
        }
        return tally(**grown)

    return [Seen(times(champion, n), times(challenger, n)) for n in range(1, number + 1)]


ONLY: dict[str, Any] = dict.fromkeys(("errors", "latency", "scores", "disagreement"))


def test_more_errors_are_a_breach_with_figures_test_and_threshold() -> None:
    found = looks(plan(), growing({"requests": 400, "errors": 4}, {"requests": 100, "errors": 12}))

    errors = finding(found, "errors")
    assert errors.found == "breach"
    assert errors.text == (
        "12.00% of its requests failed, and 1.00% of the champion's; 1.00% more is tolerated"
    )
    assert errors.figures["challenger_hits"] == 72
    assert "Turner" in errors.test
    assert errors.evidence is not None
    assert errors.threshold == threshold(plan())
    assert errors.evidence >= errors.threshold


def test_equal_versions_are_healthy_in_every_condition() -> None:
    scores = Counter({3: 50, 10: 30, 17: 20})
    same = {"requests": 200, "errors": 2, "ms": {2.0: 188, 9.0: 10}, "scores": scores}

    found = looks(plan(), growing(same, same, 12))

    assert {f.found for f in found} == {"healthy"}
    assert {f.condition for f in found} == {"errors", "latency", "scores", "traffic"}


def test_slow_is_what_few_of_the_champions_requests_are() -> None:
    fast, slow = {2.0: 190, 8.0: 10}, {2.0: 60, 8.0: 40}
    found = looks(
        plan(health={**ONLY, "latency": {}}),
        growing({"requests": 200, "ms": fast}, {"requests": 100, "ms": slow}),
    )

    assert finding(found, "latency").found == "breach"
    assert "slower than" in finding(found, "latency").text


@pytest.mark.parametrize("slow", [8, 10, 12], ids=["fewer", "as many", "more"])
def test_slow_is_told_from_fast_where_about_one_in_twenty_is_slow(slow: int) -> None:
    found = looks(
        plan(health={**ONLY, "latency": {}}),
        growing(
            {"requests": 200, "ms": {2.0: 200 - slow, 300.0: slow}},
            {"requests": 100, "ms": {2.0: 60, 300.0: 40}},
        ),
    )

    assert finding(found, "latency").found == "breach"


def test_slow_may_be_said_in_milliseconds() -> None:
    both = {2.0: 50, 300.0: 50}
    of = plan(health={**ONLY, "latency": {"max_ms": 250, "max_increase": 0.05}})

    equal = looks(of, growing({"requests": 100, "ms": both}, {"requests": 100, "ms": both}))
    worse = looks(of, growing({"requests": 100, "ms": {2.0: 100}}, {"requests": 100, "ms": both}))

    assert finding(equal, "latency").found == "healthy"
    assert finding(worse, "latency").found == "breach"


@pytest.mark.parametrize(
    ("challenger", "found"),
    [
        (Counter({3: 50, 10: 30, 17: 20}), "healthy"),
        (Counter({3: 47, 10: 32, 17: 21}), "healthy"),
        (Counter({3: 15, 10: 30, 17: 55}), "breach"),
        (Counter({18: 100}), "breach"),
        (Counter({0: 100}), "breach"),
    ],
    ids=["equal", "within the margin", "shifted", "all high", "all low"],
)
def test_scores_that_moved_are_a_breach(challenger: Counter[int], found: str) -> None:
    champion = Counter({3: 50, 10: 30, 17: 20})
    findings = looks(
        plan(health={**ONLY, "scores": {}}),
        growing(
            {"requests": 400, "scores": Counter({k: 4 * n for k, n in champion.items()})},
            {"requests": 100, "scores": challenger},
            8,
        ),
    )

    assert finding(findings, "scores").found == found


def test_a_constant_champion_can_be_compared_with() -> None:
    findings = looks(
        plan(health={**ONLY, "scores": {}}),
        growing(
            {"requests": 400, "scores": Counter({4: 400})},
            {"requests": 100, "scores": Counter({4: 50, 5: 50})},
        ),
    )

    assert finding(findings, "scores").found == "breach"


def test_a_shadow_is_judged_by_disagreement_and_not_by_latency() -> None:
    of = plan(strategy="shadow", steps=[100])
    assert statistical(of) == ("errors", "scores", "disagreement")

    found = looks(
        of,
        growing({"requests": 100}, {"requests": 100, "compared": 100, "disagreements": 60}),
    )

    assert finding(found, "disagreement").found == "breach"
    assert "60.00% of predictions differ" in finding(found, "disagreement").text


def test_labels_are_judged_where_they_exist() -> None:
    of = plan(health={**ONLY, "feedback": {"max_increase": 0.05}})
    silent = growing({"requests": 100}, {"requests": 100})
    told = [
        seen._replace(feedback=(Counts(100 * n, 10 * n), Counts(50 * n, 25 * n)))
        for n, seen in enumerate(silent, 1)
    ]

    assert finding(looks(of, silent), "feedback").found == "ignored"
    assert finding(looks(of, told), "feedback").found == "breach"


@pytest.mark.parametrize(
    ("state", "found"),
    [("ALARM", "breach"), ("OK", "healthy"), ("INSUFFICIENT_DATA", "ignored"), (None, "short")],
)
def test_an_alarm_says_what_its_state_says(state: str | None, found: str) -> None:
    of = plan(health={"alarms": ["checkout"]})
    seen = Seen(tally(300), tally(300), alarms={"checkout": state})

    assert finding(look(of, seen, {}).findings, "alarm checkout").found == found


def test_what_was_not_compared_yet_is_short_and_never_healthy() -> None:
    scores = Counter({3: 30, 10: 30})
    first = growing({"requests": 60, "scores": scores}, {"requests": 60, "scores": scores}, 1)

    found = {f.condition: f.found for f in looks(plan(), first)}

    assert found == {"errors": "short", "latency": "short", "scores": "short", "traffic": "short"}


def test_failures_of_the_first_look_alone_are_never_healthy() -> None:
    """All traffic came before the first look, which learns, and none after it."""
    burst = Seen(
        champion=Tally(version=1, requests=500, rows=500, latency=Counter({10: 500})),
        challenger=Tally(version=2, requests=500, rows=500, errors=250, latency=Counter({10: 250})),
        alarms={},
        feedback=None,
    )

    found = looks(plan(), [burst, burst, burst])

    assert finding(found, "errors").found == "short"


def test_scores_that_nothing_was_compared_with_are_never_healthy() -> None:
    """All that is captured came before the first look, which learns; later there is more."""
    moved = Counter({18: 300})
    burst = Seen(
        champion=Tally(version=1, requests=300, rows=300, scores=Counter({3: 150, 10: 150})),
        challenger=Tally(version=2, requests=300, rows=300, scores=moved),
        alarms={},
        feedback=None,
    )
    later = Seen(
        champion=Tally(version=1, requests=600, rows=600, scores=Counter({3: 300, 10: 300})),
        challenger=Tally(version=2, requests=600, rows=600, scores=moved + moved),
        alarms={},
        feedback=None,
    )

    assert finding(looks(plan(), [burst, burst, burst]), "scores").found == "short"
    assert finding(looks(plan(), [burst, burst, later]), "scores").found == "breach"


def test_a_handful_of_comparisons_says_nothing_about_a_version() -> None:
    """What is learned from is spent: a few requests after it would otherwise pass for all of them."""
    turned = Counter({18: 110})
    champion, challenger = Counter({3: 110}), turned
    seen = [
        Seen(tally(110, scores=champion), tally(110, scores=challenger)),
        Seen(
            tally(115, scores=champion + Counter({3: 5})),
            tally(115, scores=challenger + Counter({3: 5})),
        ),
        Seen(
            tally(140, scores=champion + Counter({3: 30})),
            tally(139, scores=challenger + Counter({3: 29})),
        ),
        Seen(
            tally(141, scores=champion + Counter({3: 31})),
            tally(140, scores=challenger + Counter({3: 30})),
        ),
    ]
    of = plan(min_requests=30)

    few, nearly, enough = (looks(of, seen[:number]) for number in (2, 3, 4))

    assert {f.condition: f.found for f in few} == {
        "traffic": "healthy",
        "errors": "short",
        "latency": "short",
        "scores": "short",
    }
    assert finding(few, "scores").text == (
        "the shares of scores below 0.2 differ by 95.7%, 10.0% is tolerated; "
        "5 of each version are compared, 30 are needed"
    )
    assert finding(nearly, "errors").found == "short"
    assert {f.found for f in enough} == {"healthy"}


def test_no_condition_waits_for_more_than_it_learned_from() -> None:
    same: dict[str, Any] = {"requests": 100, "scores": Counter({3: 50, 10: 50})}
    seen = growing(same, same, 3)

    found = looks(plan(min_requests=100_000), seen)

    assert {f.condition: f.found for f in found} == {
        "traffic": "short",
        "errors": "healthy",
        "latency": "healthy",
        "scores": "healthy",
    }


def test_a_shadow_that_compared_little_is_short_of_it() -> None:
    of = plan(strategy="shadow", steps=[100])
    seen = Seen(tally(300), tally(300, compared=99, disagreements=0))

    assert finding(look(of, seen, {}).findings, "disagreement").found == "short"
    seen.challenger.compared = 100
    assert finding(look(of, seen, {}).findings, "disagreement").found == "healthy"


def test_labels_that_do_not_come_again_are_not_waited_for() -> None:
    labelled = (Counts(50, 5), Counts(50, 5))
    seen = [
        Seen(s.champion, s.challenger, {}, labelled)
        for s in growing({"requests": 500}, {"requests": 500})
    ]
    judged = plan(health={"feedback": {"max_increase": 0.05}})

    assert finding(looks(judged, seen[:1]), "feedback").found == "short"
    assert finding(looks(judged, seen), "feedback").found == "ignored"


def test_scores_of_which_none_is_captured_are_not_waited_for() -> None:
    found = looks(plan(), growing({"requests": 400}, {"requests": 400}, 3))

    assert finding(found, "scores").found == "ignored"


def test_too_little_traffic_is_short_of_it_on_either_side() -> None:
    assert finding(look(plan(), Seen(tally(300), tally(199)), {}).findings, "traffic").found == (
        "short"
    )
    assert finding(look(plan(), Seen(tally(9), tally(300)), {}).findings, "traffic").found == (
        "short"
    )
    assert finding(look(plan(), Seen(tally(200), tally(200)), {}).findings, "traffic").found == (
        "healthy"
    )


def test_alpha_is_split_over_conditions_and_steps() -> None:
    assert threshold(plan(steps=[5, 25, 50], alpha=0.01)) == pytest.approx(900)
    assert threshold(plan(health={**ONLY, "errors": {}}, alpha=0.05)) == pytest.approx(20)


def test_what_a_look_leaves_is_small_whatever_was_counted() -> None:
    scores = Counter(dict.fromkeys(range(20), 1_000_000))
    big = {"requests": 20_000_000, "errors": 1_000_000, "scores": scores}
    document: Document = {}
    for seen in growing(big, big, 3):
        _, document = look(plan(), seen, document)

    assert len(json.dumps(document)) < 20_000

"""Approving over the API, by callers who are known and by the link of a notice."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlencode

import pytest

from functions.api import handler as api
from millrace.aws.clients import client
from millrace.http.deciding import spec_changes
from millrace.registry import links
from millrace.registry.approvals import Approvals, open_approvals
from millrace.registry.records import Approval, RunOutcome, VersionStatus
from tests.fakes import cases, cloud
from tests.fakes.gateway import Caller

M = cases.MODEL
PAGE = {"Accept": "text/html,application/xhtml+xml"}
FORM = {**PAGE, "Content-Type": "application/x-www-form-urlencoded"}
YES = {"decision": "approve", "name": "Ada Lovelace", "reason": "reviewed with sales"}


@pytest.fixture(autouse=True)
def _no_machine_waits(stack: cloud.Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every machine has died: what follows a decision is done by the API itself."""
    monkeypatch.setattr("functions.api.handler.WaitingTasks.wake", lambda _self, _token: False)


def approvals() -> Approvals:
    return open_approvals(client("dynamodb"), cloud.TABLE)


def waiting(stack: cloud.Cloud, number: int = 1, **rules: Any) -> Approval:
    """A version that waits for a person."""
    spec = cases.spec(approve={"mode": "manual"})
    stack.apply(spec)
    task = cases.candidate(stack.registry, number, spec)
    champion = stack.registry.get_model(M).champion_version
    judged = cases.evaluated(task.run_id, champion=champion)
    stack.registry.record_evaluation(task, number, judged, automatic=False)
    given = {"task_token": "token", "timeout": timedelta(days=1), **rules}
    return approvals().request(M, number, **given)


def shown(asked: Approval) -> str:
    return f"{links.PATH}{links.sign(asked)}"


def form(**fields: str) -> str:
    return urlencode({**YES, **fields})


class Page(HTMLParser):
    """What a browser makes of a page: its texts, its tags, its form's fields."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fields: dict[str, str] = {}
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        if name := given.get("name"):
            self.fields.setdefault(name, given.get("value") or "")

    def handle_data(self, data: str) -> None:
        self.words += data


# ── Evidence ────────────────────────────────────────────────────────────────────────────────────


def test_evidence_is_one_document(stack: cloud.Cloud, call: Caller) -> None:
    cases.champion(stack.registry, 1)
    asked = waiting(stack, 2, barred={"ann": "applied the spec churn/2"}, four_eyes=True)

    answer = call("GET", f"/v1/models/{M}/versions/2/approval")

    document = answer.json
    assert answer.status == 200, answer.body
    assert document["request"]["request_id"] == asked.request_id
    assert document["champion"] == document["champion_now"] == 1
    assert document["gates"][0]["expected"] == "at least 0.7"
    assert document["metrics"][0]["version"]["value"] == 0.81
    assert document["training"]["upload"]["key"] == "incoming/churn/file-2.csv"
    assert document["training"]["code_version"] == "abc123"
    assert document["training"]["spec_applied_by"] == "ann"
    assert document["spec_changes"] == []
    assert document["you_may_approve"] is False
    assert "lets anyone in" in document["why_not"]
    assert asked.link_secret not in answer.body
    assert "task_token" not in answer.body


def test_what_a_spec_says_otherwise_is_told_by_key_and_columns_by_name() -> None:
    before = cases.spec()
    after = cases.spec(
        approve={"mode": "manual"},
        data={
            "columns": [
                {"name": "age", "type": "number", "min": 0},
                {"name": "left", "type": "boolean", "role": "target"},
            ]
        },
    )

    told = [(c.field, c.before, c.after) for c in spec_changes(before, after)]

    assert told == [
        ("approve.mode", "automatic", "manual"),
        ("data.columns.age.min", "none", "0.0"),
    ]
    assert spec_changes(before, before) == []


# ── Callers who are known ───────────────────────────────────────────────────────────────────────


def test_approving_a_version_whose_machine_died_promotes_it(
    stack: cloud.Cloud, call: Caller
) -> None:
    asked = waiting(stack)

    answers = [
        call("POST", f"/v1/models/{M}/versions/1/approve", {"reason": "good"}) for _ in range(2)
    ]

    assert [a.status for a in answers] == [200, 200], answers
    assert answers[0].body == answers[1].body
    assert stack.registry.get_serving(M).version == 1
    assert stack.registry.get_run(asked.run_id).outcome is RunOutcome.PROMOTED


def test_rejecting_needs_a_reason_and_closes_the_run(stack: cloud.Cloud, call: Caller) -> None:
    asked = waiting(stack)

    bare = call("POST", f"/v1/models/{M}/versions/1/reject", {})
    told = call("POST", f"/v1/models/{M}/versions/1/reject", {"reason": "an old extract"})

    assert bare.status == 422
    assert bare.json["errors"][0]["field"] == "reason"
    assert told.status == 200, told.body
    assert stack.registry.get_run(asked.run_id).reason == "an old extract"


@pytest.mark.parametrize(
    ("before", "status", "code"),
    [
        (lambda a: a.decide(M, 1, "approve", actor="bob"), 409, "already_decided"),
        (lambda a: a.expire(M, 1), 410, "gone"),
    ],
    ids=["somebody was faster", "expired"],
)
def test_an_answer_that_comes_too_late_is_told_so(
    stack: cloud.Cloud,
    call: Caller,
    before: Callable[[Approvals], object],
    status: int,
    code: str,
) -> None:
    waiting(stack)
    before(approvals())

    answer = call("POST", f"/v1/models/{M}/versions/1/approve", {})

    assert answer.status == status
    assert answer.json["code"] == code


def test_a_stale_page_and_a_changed_champion_are_told_so(stack: cloud.Cloud, call: Caller) -> None:
    waiting(stack)
    stale = {"request_id": "0" * 32}
    cases.champion(stack.registry, 2)

    old = call("POST", f"/v1/models/{M}/versions/1/approve", stale)
    changed = call("POST", f"/v1/models/{M}/versions/1/approve", {})

    assert (old.status, changed.status) == (410, 409)
    assert changed.json["code"] == "champion_changed"
    assert "the champion is churn@2 now" in changed.json["detail"]


def test_four_eyes_are_forbidden_not_a_conflict(stack: cloud.Cloud, call: Caller) -> None:
    waiting(stack, four_eyes=True)

    answer = call("POST", f"/v1/models/{M}/versions/1/approve", {})

    assert (answer.status, answer.json["code"]) == (403, "not_approver")


# ── Links ───────────────────────────────────────────────────────────────────────────────────────


def test_opening_a_link_shows_the_evidence_and_changes_nothing(
    stack: cloud.Cloud, call: Caller
) -> None:
    asked = waiting(stack)
    entries = len(stack.registry.audit(M).items)

    for _ in range(3):
        answer = call("GET", shown(asked), headers=PAGE)

    page = Page(answer.body)
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert {"name", "reason", "decision"} <= page.fields.keys()
    assert "Approve churn@1?" in page.words
    assert "script" not in page.tags
    assert len(stack.registry.audit(M).items) == entries


def test_a_link_decides_once(stack: cloud.Cloud, call: Caller) -> None:
    asked = waiting(stack)

    first = call("POST", shown(asked), form(), headers=FORM)
    second = call("POST", shown(asked), form(decision="reject"), headers=FORM)
    opened = call("GET", shown(asked), headers=PAGE)

    assert first.status == 200, first.body
    assert "churn@1 is approved" in Page(first.body).words
    assert (second.status, opened.status) == (410, 410)
    assert "was approved by link:Ada Lovelace" in Page(second.body).words
    assert stack.registry.get_serving(M).version == 1
    entry = next(e for e in stack.registry.audit(M).items if e.action == "approval_approved")
    assert (entry.actor, entry.facts["via"]) == ("link:Ada Lovelace", "link")


def test_a_link_turns_down_too(stack: cloud.Cloud, call: Caller) -> None:
    asked = waiting(stack)

    answer = call("POST", shown(asked), {**YES, "decision": "reject"})

    assert answer.status == 200, answer.body
    assert answer.json["status"] == "rejected"
    assert stack.registry.get_version(M, 1).status is VersionStatus.REJECTED


@pytest.mark.parametrize("rules", [{"four_eyes": True}, {"approvers": ("user:ada",)}])
def test_where_a_name_matters_the_link_only_shows(
    stack: cloud.Cloud, call: Caller, rules: dict[str, Any]
) -> None:
    asked = waiting(stack, **rules)

    opened = call("GET", shown(asked), headers=PAGE)
    answer = call("POST", shown(asked), form(), headers=FORM)

    page = Page(opened.body)
    assert opened.status == 200
    assert "form" not in page.tags
    assert "millrace approve churn@1" in page.words
    assert answer.status == 403
    assert stack.registry.champion(M) is None


def _forged(link: str) -> str:
    return link[:-2] + ("AA" if not link.endswith("AA") else "BB")


@pytest.mark.parametrize(
    "bend",
    [
        _forged,
        lambda link: link.replace(".", "A."),
        lambda link: link.split(".")[0] + ".",
        lambda link: "e30." + link.split(".")[1],
        lambda link: "W10." + link.split(".")[1],
        lambda _: "%F0%9F%98%80.abc",
        lambda _: "a" * 300 + "." + "b" * 64,
    ],
    ids=["signature", "payload", "unsigned", "object", "empty", "emoji", "long"],
)
def test_a_link_that_is_not_ours_is_nothing(
    stack: cloud.Cloud, call: Caller, bend: Callable[[str], str]
) -> None:
    asked = waiting(stack)
    bent = links.PATH + bend(links.sign(asked))

    statuses = {
        call("GET", bent).status,
        call("POST", bent, YES).status,
    }

    assert statuses <= {404, 422}
    assert stack.registry.champion(M) is None


def test_a_link_of_another_version_decides_nothing_here(stack: cloud.Cloud, call: Caller) -> None:
    one, two = waiting(stack, 1), waiting(stack, 2)
    payload = links.sign(two).partition(".")[0]
    signature = links.sign(one).partition(".")[2]

    answer = call("POST", f"{links.PATH}{payload}.{signature}", YES)

    assert answer.status == 404


def test_a_link_ends_with_its_request(stack: cloud.Cloud, call: Caller) -> None:
    asked = waiting(stack, timeout=timedelta(seconds=-1))

    opened = call("GET", shown(asked), headers=PAGE)
    answer = call("POST", shown(asked), form(), headers=FORM)

    assert (opened.status, answer.status) == (410, 410)
    assert "nobody answered in time" in Page(answer.body).words


def test_an_older_link_says_that_there_is_a_newer_one(stack: cloud.Cloud, call: Caller) -> None:
    old = waiting(stack)
    cases.champion(stack.registry, 2)
    approvals().decide(M, 1, "approve", actor="ada")
    task = cases.training_input(stack.registry.get_run(old.run_id))
    anew = cases.evaluated(old.run_id, champion=2)
    stack.registry.record_evaluation(task, 1, anew, automatic=False)
    new = approvals().request(M, 1, task_token="t", timeout=timedelta(days=1))

    answer = call("GET", shown(old), headers=PAGE)

    assert answer.status == 410
    assert "a newer notice has the newer link" in Page(answer.body).words
    assert call("GET", shown(new), headers=PAGE).status == 200


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"name": ""}, "name"),
        ({"name": " x "}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "n" * 101}, "name"),
        ({"reason": "  "}, "reason"),
        ({"decision": "maybe"}, "decision"),
    ],
)
def test_a_form_that_is_not_filled_in_names_the_field(
    stack: cloud.Cloud, call: Caller, fields: dict[str, str], wrong: str
) -> None:
    asked = waiting(stack)

    answer = call("POST", shown(asked), {**YES, **fields})

    assert answer.status == 422
    assert answer.json["errors"][0]["field"] == wrong
    assert approvals().get(M, 1).status == "pending"


def test_a_body_that_is_nothing_is_told_so(stack: cloud.Cloud, call: Caller) -> None:
    asked = waiting(stack)

    statuses = [
        call("POST", shown(asked), body, headers=FORM).status
        for body in ("", "{", "decision=approve", "x" * 20_000)
    ]

    assert statuses == [422, 400, 422, 413]


def test_links_can_be_turned_off(
    stack: cloud.Cloud, call: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_APPROVAL_LINKS", "off")
    api.gateway.cache_clear()
    asked = waiting(stack)

    answers = [call("GET", shown(asked)), call("POST", shown(asked), YES)]

    assert {a.status for a in answers} == {404}
    assert approvals().get(M, 1).status == "pending"


HOSTILE = "<script>alert(1)</script>\"'&"


def test_whatever_a_page_shows_is_escaped(stack: cloud.Cloud, call: Caller) -> None:
    asked = waiting(stack)

    done = call("POST", shown(asked), form(name=HOSTILE, reason=HOSTILE), headers=FORM)

    assert done.status == 200, done.body
    assert "<script" not in done.body
    assert HOSTILE in Page(done.body).words


def test_a_page_of_hostile_evidence_has_no_tag_of_its_own(stack: cloud.Cloud, call: Caller) -> None:
    spec = cases.spec(approve={"mode": "manual"})
    stack.apply(spec)
    task = cases.candidate(stack.registry, 1, spec)
    judged = cases.evaluated(task.run_id).model_copy(
        update={
            "reason": HOSTILE,
            "gates": tuple(
                g.model_copy(update={"gate": HOSTILE, "actual": HOSTILE})
                for g in cases.evaluated(task.run_id).gates
            ),
        }
    )
    stack.registry.record_evaluation(task, 1, judged, automatic=False)
    asked = approvals().request(M, 1, task_token="t", timeout=timedelta(days=1))

    answer = call("GET", shown(asked), headers=PAGE)

    page = Page(answer.body)
    assert page.words.count(HOSTILE) == 3
    assert "script" not in page.tags
    assert not re.search(r"\son\w+=", answer.body)


def test_a_link_says_when_it_ends(stack: cloud.Cloud) -> None:
    asked = waiting(stack)

    claim = links.read(links.sign(asked))

    assert claim[:3] == (M, 1, asked.request_id)
    assert datetime.fromtimestamp(claim.expires, UTC) <= asked.deadline
    assert links.is_signed(links.sign(asked), asked)
    assert not links.is_signed(links.sign(asked), asked.model_copy(update={"link_secret": "x"}))

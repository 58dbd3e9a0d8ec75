"""A deployed stack, looked at over HTTPS as its callers do: each check with its time."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from uuid import uuid4

import httpx

from infra.delivery.place import Place, asked
from infra.delivery.stack import Stack
from infra.delivery.stages import Stage
from millrace.errors import (
    ConflictError,
    FinalError,
    MillraceError,
    NotFoundError,
    ServiceUnavailableError,
)
from millrace.spec import ModelSpec
from millrace_cli.client import TOKEN_VARIABLE, ApiClient
from millrace_cli.follow import follow_run
from millrace_cli.target import Target
from millrace_cli.training import upload_file

SPEC = Path(__file__).with_name("smoke.yaml")
TABLE = Path(__file__).with_name("smoke.csv")
MODEL: Final = "smoke"

READY_SECONDS = 60.0
"""How long a new deployment may take to answer as itself."""
TRAINING_SECONDS = 900.0
POLL_SECONDS = 1.0
_REASON = 300
_REFUSALS: Final = (401, 403)

_EASY: Final = (
    ({"hours": 38.0, "tickets": 0, "plan": "plus"}, 1),
    ({"hours": 2.0, "tickets": 9, "plan": "basic"}, 0),
)
"""Rows so far from the border that only a broken model gets them wrong."""

_STRANGERS: Final[dict[str, tuple[tuple[str, dict[str, str]], ...]]] = {
    "API_KEY": (("an unknown key", {"x-api-key": "0" * 40}),),
    "JWT": (("a token that nobody signed", {"authorization": "Bearer e30.e30.e30"}),),
}
"""Who else must stay outside, by what the stack asks for."""

Verdict = Literal["ok", "failed", "not checked"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What.
        verdict: How it went.
        found: What came, or why it could not be looked at.
        seconds: How long it took.
    """

    name: str
    verdict: Verdict
    found: str
    seconds: float


class _NotChecked(Exception):  # noqa: N818 - no error: it is a verdict
    """Something that cannot be looked at here; the message says why."""


def smoke(
    place: Place,
    stage: Stage,
    stack: Stack,
    *,
    training: bool,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[Check]:
    """Runs the checks, one after the other; the training only when everything before it is well.

    Args:
        place: Account and region.
        stage: The stage it should be.
        stack: The deployed stack.
        training: Whether to train and predict.
        clock: Monotonic seconds.
        pause: Waits.
    """
    target = place.target(stage.stack)
    with closing(ApiClient(target, api_key=_key(place, stack))) as api:
        checks: list[tuple[str, Callable[[], str]]] = [
            ("health", lambda: _health(_entitled(api), stage, stack, clock, pause)),
            ("refuses strangers", lambda: _refuses(place, target)),
            ("OpenAPI", lambda: _openapi(_entitled(api))),
        ]
        if training:
            run: dict[str, Any] = {}
            refresh = float(stack.parameters.get("RefreshSeconds", "30"))
            checks += [
                ("spec", lambda: _apply(_entitled(api))),
                ("training", lambda: _train(_entitled(api), target, run, clock, pause)),
                ("prediction", lambda: _predict(_entitled(api), run, refresh, clock, pause)),
            ]
        well = True
        for name, look in checks:
            if not well and name not in ("refuses strangers", "OpenAPI"):
                yield Check(name, "not checked", "something before it failed", 0.0)
                continue
            check = _timed(name, look, clock)
            well = well and check.verdict != "failed"
            yield check
        if training:
            yield _timed("clean-up", lambda: _clean_up(place, target), clock)


def _timed(name: str, look: Callable[[], str], clock: Callable[[], float]) -> Check:
    begun = clock()
    verdict: Verdict = "ok"
    try:
        found = look()
    except _NotChecked as exc:
        verdict, found = "not checked", str(exc)
    except MillraceError as exc:
        verdict, found = "failed", str(exc)
    return Check(name, verdict, found, clock() - begun)


def _entitled(api: ApiClient) -> ApiClient:
    """The API, where there is a token for a stack that wants one: nobody here can ask its issuer."""
    issuer = api.target.outputs.raw.get("JwtIssuer")
    if issuer and not os.environ.get(TOKEN_VARIABLE):
        raise _NotChecked(
            f"the stack takes tokens of {issuer}: set {TOKEN_VARIABLE} to an admin's to look further"
        )
    return api


def _key(place: Place, stack: Stack) -> str | None:
    """The API key of a stack that wants one."""
    identifier = stack.outputs.get("ApiKeyId")
    if not identifier:
        return None
    with asked(f"read API key {identifier}", place):
        return place.apigateway.get_api_key(apiKey=identifier, includeValue=True)["value"]


def _health(
    api: ApiClient,
    stage: Stage,
    stack: Stack,
    clock: Callable[[], float],
    pause: Callable[[float], None],
) -> str:
    """Asked until the new code answers: warm functions of the old may finish a request."""
    expected_stage = stack.parameters.get("Stage", stage.name)
    expected = stack.parameters.get("CodeVersion", "")
    deadline = clock() + READY_SECONDS
    while True:
        try:
            health = api.get("/v1/health", deep="true")
            said = f"version {health.get('code_version')}, stage {health.get('stage')}"
            if health.get("status") == "ok" and (
                health.get("code_version") == expected and health.get("stage") == expected_stage
            ):
                return f"{said}, table answers"
            problem: MillraceError = FinalError(
                f"expected version {expected}, stage {expected_stage}, status ok; got {said}, status "
                f"{health.get('status')}"
            )
        except ServiceUnavailableError as exc:
            problem = exc
        if clock() > deadline:
            raise problem
        pause(POLL_SECONDS)


def _refuses(place: Place, target: Target) -> str:
    authorizer = target.outputs.authorizer
    if authorizer == "NONE":
        raise _NotChecked("the stack is open to everyone, as its parameter ApiAuthorizer says")
    url = f"{target.outputs.api_url}/v1/models"
    told: list[str] = []
    for stranger, headers in (("an unsigned request", {}), *_STRANGERS.get(authorizer, ())):
        try:
            answer = httpx.get(url, headers=headers, timeout=30.0)
        except httpx.HTTPError as exc:
            raise ServiceUnavailableError(f"GET {url}: {exc}") from exc
        if answer.status_code not in _REFUSALS:
            if place.emulated:
                raise _NotChecked(
                    f"{stranger} got {answer.status_code}: the engine at {place.endpoint} does not "
                    f"check {authorizer}; only AWS can show it"
                )
            raise FinalError(
                f"{stranger} got {answer.status_code} and not 401 or 403, though ApiAuthorizer is "
                f"{authorizer}: anybody may call {url}"
            )
        told.append(f"{stranger} gets {answer.status_code}")
    emulated = place.emulated and authorizer == "IAM"
    limit = "; whether signatures hold, only AWS can show" if emulated else ""
    return f"{', '.join(told)} ({authorizer}{limit})"


def _openapi(api: ApiClient) -> str:
    document = api.get("/v1/openapi.json")
    paths = document.get("paths", {})
    if "/v1/models/{name}/predict" not in paths:
        raise FinalError(
            f"expected the prediction route in the OpenAPI document, got {len(paths)} other paths"
        )
    return f"{len(paths)} paths, {document.get('openapi')}"


def _apply(api: ApiClient) -> str:
    spec = ModelSpec.from_yaml(SPEC.read_text(encoding="utf-8"))
    answer = api.put(f"/v1/specs/{MODEL}", spec.model_dump(mode="json", exclude_none=True))
    return f"{MODEL}, spec version {answer['version']}"


def _train(
    api: ApiClient,
    target: Target,
    run: dict[str, Any],
    clock: Callable[[], float],
    pause: Callable[[float], None],
) -> str:
    """Uploads the table with one row that is new: known rows would train nothing."""
    with tempfile.TemporaryDirectory(prefix="millrace-smoke-") as folder:
        table = Path(folder) / TABLE.name
        new = 30 + uuid4().int % 10**9 / 10**9
        table.write_text(f"{TABLE.read_text(encoding='utf-8')}{new:.9f},0,plus,1\n", "utf-8")
        _, run_id, _ = upload_file(target, MODEL, table, table.name)
    ended = _followed(api, run_id, clock, pause)
    if ended.get("outcome") != "promoted":
        why = str(ended.get("reason") or ended.get("error") or ended.get("status"))
        raise FinalError(
            f"expected run {run_id} to make a champion, got {ended.get('outcome') or 'no outcome'}: "
            f"{why[:_REASON]}"
        )
    run.update(ended)
    return f"uploaded, trained, evaluated; {MODEL}@{ended['model_version']} is champion"


def _followed(
    api: ApiClient,
    run_id: str,
    clock: Callable[[], float],
    pause: Callable[[float], None],
) -> dict[str, Any]:
    for event in follow_run(api, run_id, deadline=TRAINING_SECONDS, clock=clock, pause=pause):
        if isinstance(event, dict):
            return event
    raise NotFoundError(f"run {run_id} told nothing of its end")


def _predict(
    api: ApiClient,
    run: dict[str, Any],
    refresh: float,
    clock: Callable[[], float],
    pause: Callable[[float], None],
) -> str:
    """Asked until the new champion answers: a warm function asks for it once per refresh interval."""
    rows = [row for row, _ in _EASY]
    wanted = [label for _, label in _EASY]
    made = int(run["model_version"])
    deadline = clock() + refresh + READY_SECONDS
    while True:
        answer = api.post(f"/v1/models/{MODEL}/predict", {"rows": rows})
        version = int(answer["version"])
        labels = [int(p["label"]) for p in answer["predictions"]]
        if labels != wanted:
            raise FinalError(f"{MODEL}@{version}: expected labels {wanted}, got {labels}")
        if version == made:
            return f"{MODEL}@{version} labels {len(rows)} rows as it should"
        if version > made:
            raise ConflictError(
                f"{MODEL}@{version} answered, made after this check's own training: is somebody else "
                "smoke-testing the same stack?"
            )
        if clock() > deadline:
            raise FinalError(
                f"{MODEL}@{version} still answers {refresh + READY_SECONDS:.0f} s after {MODEL}@{made} "
                f"became champion; the refresh interval is {refresh:.0f} s"
            )
        pause(POLL_SECONDS)


def _clean_up(place: Place, target: Target) -> str:
    bucket, prefix = target.outputs.data_bucket, f"incoming/{MODEL}/"
    deleted = 0
    with asked(f"delete s3://{bucket}/{prefix}", place):
        for page in place.s3.get_paginator("list_object_versions").paginate(
            Bucket=bucket, Prefix=prefix
        ):
            for each in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                place.s3.delete_object(Bucket=bucket, Key=each["Key"], VersionId=each["VersionId"])
                deleted += 1
    return (
        f"{deleted} upload{'' if deleted == 1 else 's'} deleted; model {MODEL} stays, as versions are "
        "never deleted"
    )

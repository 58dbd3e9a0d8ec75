"""What the API does beyond reading: specs, champions, retraining, batch jobs. Plain functions on ports."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import orjson
import yaml

from millrace.aws.objects import ObjectFacts, ObjectStore
from millrace.aws.sns import Notice, Notifier
from millrace.errors import (
    ConfigurationError,
    FieldProblem,
    InvalidRequestError,
    InvalidSpecError,
    MalformedRequestError,
    NotFoundError,
    ServiceUnavailableError,
)
from millrace.http.models import (
    BatchAccepted,
    BatchObjectRequest,
    BatchUpload,
    ChampionRequest,
    PromoteRequest,
    RetrainAccepted,
)
from millrace.layout import SUPPORTED_SUFFIXES, batch_key, reserved_batch_key, spec_key
from millrace.messages import Promotion, SourceObject
from millrace.observability import METRICS, count, logger
from millrace.registry.champions import ANY_CHAMPION
from millrace.registry.records import SpecVersion
from millrace.registry.registry import Registry
from millrace.spec import ModelSpec

MAX_SPEC_BYTES: Final = 1_000_000
MAX_SPEC_DEPTH: Final = 40
API_SOURCE: Final = "millrace.api"
RETRAIN_DETAIL_TYPE: Final = "Retrain Requested"
BATCH_DETAIL_TYPE: Final = "Batch Requested"
UPLOAD_SECONDS: Final = 3_600
"""How long an upload may begin after its address was given."""

# libyaml's loader where PyYAML has it: a megabyte takes the other one ten seconds.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Invoker(Protocol):
    """Runs a function and waits for its answer."""

    def invoke(self, function_name: str, payload: Mapping[str, Any]) -> Any:
        """The function's answer.

        Raises:
            MillraceError: What the function raised.
        """
        ...


@dataclass(frozen=True, slots=True)
class RolloutDoor:
    """The rollout function, as the API knocks at it: it starts executions, and the API does not."""

    invoker: Invoker
    function_name: str

    def ask(self, action: str, task: Mapping[str, Any]) -> dict[str, Any]:
        """Asks for a rollout, or to resume one.

        Raises:
            MillraceError: What the function raised.
            ServiceUnavailableError: It gave no rollout.
        """
        answer = self.invoker.invoke(self.function_name, {"action": action, "input": dict(task)})
        if not isinstance(answer, dict) or not isinstance(answer.get("rollout_id"), str):
            raise ServiceUnavailableError("the rollout function gave no rollout")
        return answer


@dataclass(frozen=True, slots=True)
class Trigger:
    """The one door to trainings and batch jobs, as the API knocks at it."""

    invoker: Invoker
    function_name: str

    def ask(
        self, detail_type: str, detail: Mapping[str, Any], *, correlation_id: str, what: str
    ) -> tuple[str, bool]:
        """Asks for a training or a job.

        Args:
            detail_type: What is asked for.
            detail: Its particulars.
            correlation_id: The request's id, which the run carries on.
            what: What is asked for in words, for the error.

        Returns:
            The id of the run or job, and whether this request started it.

        Raises:
            ServiceUnavailableError: The trigger named none.
        """
        answer = self.invoker.invoke(
            self.function_name,
            {
                "id": correlation_id,
                "source": API_SOURCE,
                "detail-type": detail_type,
                "detail": detail,
            },
        )
        run_id = answer.get("run_id") if isinstance(answer, dict) else None
        if not isinstance(run_id, str) or not run_id:
            raise ServiceUnavailableError(f"the trigger gave no {what}")
        return run_id, bool(answer.get("started"))


# ── Specs ───────────────────────────────────────────────────────────────────────────────────────


def parse_spec(body: bytes, *, as_json: bool) -> ModelSpec:
    """Reads a spec document sent by a stranger.

    Aliases are refused: a few lines of them unfold into gigabytes. So is absurd nesting.

    Raises:
        MalformedRequestError: The body is no JSON, or no YAML, or uses aliases.
        InvalidSpecError: Names every wrong field.
    """
    return ModelSpec.from_document(_parse_json(body) if as_json else _parse_yaml(body))


def _parse_json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise MalformedRequestError(f"the body is not JSON: {exc}") from exc


def _parse_yaml(body: bytes) -> Any:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise MalformedRequestError(
            f"expected a spec in UTF-8, got another encoding at byte {exc.start}"
        ) from exc
    try:
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent):
                raise MalformedRequestError(
                    f"the spec uses a YAML alias{_where(event.start_mark)}; write the value out"
                )
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > MAX_SPEC_DEPTH:
                raise MalformedRequestError(f"the spec is nested deeper than {MAX_SPEC_DEPTH}")
        # nosemgrep: yaml-that-builds-objects -- _Loader is SafeLoader with fewer types, see above
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader, see above
    except yaml.YAMLError as exc:
        where = _where(getattr(exc, "problem_mark", None))
        reason = getattr(exc, "problem", None) or "it cannot be parsed"
        raise MalformedRequestError(f"the spec is not valid YAML{where}: {reason}") from exc
    except ValueError as exc:
        # Such as the timestamp 2026-13-45, which the loader takes for a date.
        raise MalformedRequestError(f"the spec is not valid YAML: {exc}") from exc


def _where(mark: Any) -> str:
    return f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""


def apply_spec(
    name: str,
    spec: ModelSpec,
    *,
    registry: Registry,
    objects: ObjectStore,
    bucket: str,
    actor: str,
    correlation_id: str,
) -> tuple[SpecVersion, bool]:
    """Makes a spec the model's current one.

    The document is written first, under the digest of its content, so that the registry never
    names one that is not there.

    Returns:
        The version, and whether it is new: the same spec again changes nothing.

    Raises:
        InvalidSpecError: The spec is another model's.
        ConflictError: The model's task cannot change.
    """
    if spec.name != name:
        message = f"expected {name!r} as in the path, got {spec.name!r}"
        raise InvalidSpecError(f"invalid spec: name: {message}", [FieldProblem("name", message)])
    try:
        before = registry.get_spec(name).version
    except NotFoundError:
        before = 0
    key = spec_key(name, spec.digest)
    try:
        objects.write_once(bucket, key, spec.to_json().encode(), content_type="application/json")
    except NotFoundError as exc:
        raise ConfigurationError(f"the artifact bucket cannot be written: {exc}") from exc
    applied = registry.apply_spec(spec, key=key, actor=actor, correlation_id=correlation_id)
    return applied, applied.version > before


# ── Champions ───────────────────────────────────────────────────────────────────────────────────


def change_champion(
    name: str,
    request: ChampionRequest,
    *,
    registry: Registry,
    notifier: Notifier,
    promoted: Callable[[str, int], None],
    actor: str,
    correlation_id: str,
) -> Promotion:
    """Promotes a version or rolls back to one, and tells people.

    ``promoted`` is told of a promotion: a machine may have waited for it.

    Raises:
        NotFoundError: No such model or version.
        ConflictError: The registry's state forbids it.
        InvalidEventError: A forced promotion without a reason or without a name.
    """
    expected = (
        request.expected_champion
        if "expected_champion" in request.model_fields_set
        else ANY_CHAMPION
    )
    if isinstance(request, PromoteRequest):
        promotion = registry.promote(
            name,
            request.version,
            actor=actor,
            reason=request.reason,
            expected_champion=expected,
            force=request.force,
            correlation_id=correlation_id,
        )
        promoted(name, request.version)
        metric, action = METRICS.PROMOTIONS, "promoted"
    else:
        promotion = registry.rollback(
            name,
            to=request.version,
            actor=actor,
            reason=request.reason,
            expected_champion=expected,
            force=request.force,
            correlation_id=correlation_id,
        )
        metric, action = METRICS.ROLLBACKS, "rolled_back"
    count(metric, model=name)
    logger.info(
        "champion changed",
        extra={
            "model": name,
            "version": promotion.version,
            "previous": promotion.previous,
            "action": action,
        },
    )
    notifier.notify(
        Notice(
            model=name,
            event=action,
            subject=f"{name}@{promotion.version} is champion",
            details={
                "version": promotion.version,
                "previous": promotion.previous,
                "actor": actor,
                "reason": request.reason,
            },
        )
    )
    return promotion


# ── Batch ─────────────────────────────────────────────────────────────────────────────────────────


class Objects(ObjectStore, Protocol):
    """What the API needs of S3."""

    def count(self, bucket: str, prefix: str) -> int:
        """How many objects lie below a prefix."""
        ...

    def describe(self, bucket: str, key: str, *, version_id: str | None = None) -> ObjectFacts:
        """Looks at an object.

        Raises:
            NotFoundError: There is no such object.
        """
        ...

    def presigned_put_once(
        self, bucket: str, key: str, *, seconds: int = 3600
    ) -> tuple[str, Mapping[str, str]]:
        """An address to upload one new object to, and the headers that it wants."""
        ...


def offer_batch_upload(
    name: str,
    filename: str,
    *,
    registry: Registry,
    objects: Objects,
    bucket: str,
    token: str,
) -> BatchAccepted:
    """Gives an address whose upload starts a batch job, and the job's id.

    Args:
        name: The model.
        filename: Tells the format.
        registry: Knows the models.
        objects: Signs the address.
        bucket: The data bucket.
        token: The caller's idempotency key, or a new one: the same one gives the same job.

    Raises:
        NotFoundError: No such model.
        NoChampionError: It has nothing to score with.
        InvalidRequestError: The name's ending tells no format.
    """
    if not filename.lower().endswith(SUPPORTED_SUFFIXES):
        message = f"expected a name ending in {', '.join(SUPPORTED_SUFFIXES)}"
        raise InvalidRequestError(f"filename: {message}", [FieldProblem("filename", message)])
    registry.get_serving(name)
    batch_id, key = reserved_batch_key(name, token, filename)
    url, headers = objects.presigned_put_once(bucket, key, seconds=UPLOAD_SECONDS)
    upload = BatchUpload(url=url, headers=dict(headers), key=key, expires_in=UPLOAD_SECONDS)
    return BatchAccepted(batch_id=batch_id, started=False, upload=upload)


def start_batch(
    name: str,
    request: BatchObjectRequest,
    *,
    registry: Registry,
    objects: Objects,
    bucket: str,
    trigger: Trigger,
    actor: str,
    correlation_id: str,
) -> BatchAccepted:
    """Asks the trigger for the job of an object: started, there already, or resumed.

    Raises:
        NotFoundError: No such model, or no such object.
        NoChampionError: It has nothing to score with.
        InvalidRequestError: The key is not one of the model's.
    """
    if not request.key.startswith(batch_key(name, "")) or request.key.endswith("/"):
        message = f"expected {batch_key(name, '<file>')}"
        raise InvalidRequestError(f"key: {message}", [FieldProblem("key", message)])
    if not request.key.lower().endswith(SUPPORTED_SUFFIXES):
        message = f"expected a name ending in {', '.join(SUPPORTED_SUFFIXES)}"
        raise InvalidRequestError(f"key: {message}", [FieldProblem("key", message)])
    registry.get_serving(name)
    facts = objects.describe(bucket, request.key, version_id=request.version_id)
    source = SourceObject(
        bucket=bucket,
        key=request.key,
        version_id=facts.version_id,
        size=facts.size,
        etag=facts.etag,
    )
    batch_id, started = trigger.ask(
        BATCH_DETAIL_TYPE,
        {"model": name, "source": source.model_dump(mode="json"), "requested_by": actor},
        correlation_id=correlation_id,
        what=f"batch job for model {name}",
    )
    return BatchAccepted(batch_id=batch_id, started=started)


# ── Retraining ──────────────────────────────────────────────────────────────────────────────────


def retrain(
    name: str,
    *,
    reason: str,
    token: str | None,
    registry: Registry,
    trigger: Trigger,
    actor: str,
    correlation_id: str,
    new_token: Callable[[], str],
    labelled: bool = False,
) -> RetrainAccepted:
    """Asks the trigger, the one door to training, for a run on the newest dataset version.

    Args:
        name: The model.
        reason: Why, for the audit.
        token: The caller's idempotency key; the same one again gives the same run.
        registry: Knows the models.
        trigger: The door to training.
        actor: Who asks.
        correlation_id: The request's id, which the run carries on.
        new_token: Makes a token for a caller without one.
        labelled: Take predictions in whose labels came since.

    Raises:
        NotFoundError: No such model, or it has no dataset yet.
    """
    registry.get_model(name)
    run_id, started = trigger.ask(
        RETRAIN_DETAIL_TYPE,
        {
            "model": name,
            "token": token or new_token(),
            "reason": reason,
            "requested_by": actor,
            "labelled": labelled,
        },
        correlation_id=correlation_id,
        what=f"run for model {name}",
    )
    return RetrainAccepted(run_id=run_id, started=started)

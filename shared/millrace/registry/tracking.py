"""What runs log, in MLflow's shape: params, tags, metrics with their history, inputs, outputs."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import batched
from typing import Final, NamedTuple

from millrace.aws.dynamodb import (
    INDEX_PK,
    INDEX_SK,
    MAX_WRITES,
    Check,
    Item,
    Key,
    OneOf,
    Put,
    Write,
)
from millrace.errors import ConditionFailedError, ConflictError, InvalidEventError, NotFoundError
from millrace.registry import items
from millrace.registry.experiments import (
    EXPERIMENTS,
    INPUT,
    OFFSET,
    DatasetInput,
    Experiment,
    LoggedModel,
    MetricPoint,
    experiment_key,
    history_prefix,
    logged_model_key,
    logged_models_index_pk,
    place_of,
    sortable_number,
    value_index_pk,
)
from millrace.registry.models import Models
from millrace.registry.pages import Page

MAX_KEY: Final = 250
MAX_PARAM: Final = 6_000
MAX_TAG: Final = 8_000
"""Characters, as MLflow's tracking server has them."""

_KEY: Final = re.compile(r"[\w.\-/: ]+")
"""What MLflow allows in the key of a param, tag or metric; ours besides: no ``#``."""

_INDEXED: Final = 200
"""Characters of a value in the index: sort keys have 1,024 bytes."""


class Tracking(Models):
    """What runs log and read, and the experiments they belong to."""

    def get_experiment(self, experiment_id: str) -> Experiment:
        """An experiment; a model's has the model's name.

        Raises:
            NotFoundError: There is no such experiment.
        """
        item = self._table.get(experiment_key(experiment_id))
        if item is None:
            raise NotFoundError(f"there is no experiment {experiment_id!r}")
        return Experiment.model_validate(item)

    def list_experiments(self, *, limit: int = 50, token: str | None = None) -> Page[Experiment]:
        """Experiments by name."""
        return self._list(
            EXPERIMENTS, Experiment.model_validate, limit, token, index=True, descending=False
        )

    def log(
        self,
        run_id: str,
        *,
        params: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Logs params (written once), metrics (now, at step 0) and tags on a run.

        Repeating it changes nothing: a metric that already has this value is not logged again.

        Raises:
            NotFoundError: There is no such run.
            ConflictError: A param was logged before with another value.
            InvalidEventError: A key or value is none that MLflow takes.
        """
        now = round(self._clock().timestamp() * 1_000)

        def points(known: Mapping[str, Item]) -> Sequence[MetricPoint]:
            return [
                MetricPoint(key=k, value=v, timestamp=now)
                for k, v in (metrics or {}).items()
                if k not in known or not _same(float(known[k]["value"]), v)
            ]

        self._log(run_id, params or {}, points, tags or {})

    def log_batch(
        self,
        run_id: str,
        *,
        params: Mapping[str, str] | None = None,
        metrics: Sequence[MetricPoint] = (),
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Logs params (written once), points of metrics (all are kept) and tags (the latest wins).

        A point that was logged before is logged once; what a metric's latest point is, is decided
        by step, then time, then value, whoever logs first.

        Raises:
            NotFoundError: There is no such run.
            ConflictError: A param was logged before with another value.
            InvalidEventError: A key or value is none that MLflow takes.
        """
        self._log(run_id, params or {}, lambda _: metrics, tags or {})

    def metric_history(
        self, run_id: str, key: str, *, limit: int = 50, token: str | None = None
    ) -> Page[MetricPoint]:
        """Points of a run's metric, by step, time and value.

        Raises:
            NotFoundError: There is no such run.
        """
        page = self._list(
            items.run_pk(run_id),
            MetricPoint.model_validate,
            limit,
            token,
            prefix=history_prefix(key),
            descending=False,
        )
        if not page.items and not token and self._table.get(items.run_key(run_id)) is None:
            raise NotFoundError(f"there is no run {run_id!r}")
        return page

    def list_inputs(self, run_id: str) -> tuple[DatasetInput, ...]:
        """The datasets that a run read."""
        found = self._table.query(items.run_pk(run_id), prefix=INPUT, limit=100)
        return tuple(DatasetInput.model_validate(i) for i in found.items)

    def get_logged_model(self, model_id: str) -> LoggedModel:
        """A logged model.

        Raises:
            NotFoundError: There is no such logged model.
        """
        item = self._table.get(logged_model_key(model_id))
        if item is None:
            raise NotFoundError(f"there is no logged model {model_id!r}")
        return LoggedModel.model_validate(item)

    def list_logged_models(
        self, experiment_id: str, *, limit: int = 50, token: str | None = None
    ) -> Page[LoggedModel]:
        """Logged models of an experiment, the newest first."""
        return self._list(
            logged_models_index_pk(experiment_id),
            LoggedModel.model_validate,
            limit,
            token,
            index=True,
        )

    def _log(
        self,
        run_id: str,
        params: Mapping[str, str],
        points: Callable[[Mapping[str, Item]], Sequence[MetricPoint]],
        tags: Mapping[str, str],
    ) -> None:
        def change() -> None:
            known = self._latest(run_id)
            given = points(known)
            _check(params, given, tags)
            run = self._table.get(items.run_key(run_id))
            if run is None:
                raise NotFoundError(f"there is no run {run_id!r}")
            place = _Place(run_id, str(run.get("experiment_id", run["model"])))
            writes = [
                *(_param_write(place, k, v) for k, v in params.items()),
                *_metric_writes(place, given, known),
                *(_tag_write(place, k, v) for k, v in tags.items()),
            ]
            # A part is whole or not there; whoever repeats the rest finds what was written.
            for part in batched(writes, MAX_WRITES - 1, strict=False):
                self._log_part(run_id, part)

        self._with_fresh_reads(f"log on run {run_id}", change)

    def _log_part(self, run_id: str, writes: Sequence[Write]) -> None:
        run_exists = Check("run", items.run_key(run_id))
        try:
            self._table.transact([run_exists, *writes], f"log on run {run_id}")
        except ConditionFailedError as exc:
            if run_exists.name in exc.failed:
                raise NotFoundError(f"there is no run {run_id!r}") from exc
            if params := [name for name in exc.failed if name.startswith("param ")]:
                raise ConflictError(
                    f"run {run_id}: {', '.join(params)} was logged with another value before"
                ) from exc
            raise

    def _latest(self, run_id: str) -> dict[str, Item]:
        found = self._table.query(items.run_pk(run_id), prefix=items.METRIC)
        return {i["key"]: i for i in found.items}


class _Place(NamedTuple):
    """Whose logged values they are."""

    run_id: str
    experiment_id: str

    def key(self, sk: str) -> Key:
        return Key(items.run_pk(self.run_id), sk)

    def in_index(self, kind: str, key: str, value: str) -> Item:
        """The place among the values that the experiment's runs have for the key."""
        return {
            INDEX_PK: value_index_pk(self.experiment_id, kind, key),
            INDEX_SK: f"{value[:_INDEXED]}#{self.run_id}",
        }


def _param_write(place: _Place, key: str, value: str) -> Put:
    return Put(
        f"param {key}",
        place.key(items.PARAM + key),
        {"key": key, "value": value, **place.in_index(items.PARAM, key, value)},
        {"value": OneOf((None, value))},
    )


def _tag_write(place: _Place, key: str, value: str) -> Put:
    # nosemgrep: registry-write-without-assumption -- the latest wins; the run must exist
    return Put(
        f"tag {key}",
        place.key(items.TAG + key),
        {"key": key, "value": value, **place.in_index(items.TAG, key, value)},
    )


def _metric_writes(
    place: _Place, points: Iterable[MetricPoint], known: Mapping[str, Item]
) -> list[Write]:
    """Every point, each followed by the metric's latest where that is later than the known one."""
    of_key: dict[str, dict[str, MetricPoint]] = {}
    for point in points:
        of_key.setdefault(point.key, {})[place_of(point)] = point
    writes: list[Write] = []
    for key, given in of_key.items():
        writes += [
            # nosemgrep: registry-write-without-assumption -- the key says all there is to a point
            Put(
                f"point {key} {where}",
                place.key(history_prefix(key) + where),
                point.model_dump(mode="json"),
            )
            for where, point in given.items()
        ]
        before = known.get(key, {}).get("point")
        last = max(given)
        if before is None or str(before) < last:
            value = sortable_number(given[last].value)
            writes.append(
                Put(
                    f"metric {key}",
                    place.key(items.METRIC + key),
                    {
                        **given[last].model_dump(mode="json"),
                        "point": last,
                        **place.in_index(items.METRIC, key, value),
                    },
                    {"point": before},
                )
            )
    return writes


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def _check(
    params: Mapping[str, str], metrics: Iterable[MetricPoint], tags: Mapping[str, str]
) -> None:
    for what, values, longest in (("param", params, MAX_PARAM), ("tag", tags, MAX_TAG)):
        for key, value in values.items():
            check_key(what, key)
            if len(value) > longest:
                raise InvalidEventError(
                    f"{what} {key}: expected at most {longest} characters, got {len(value)}"
                )
    for point in metrics:
        check_key("metric", point.key)
        if not 0 <= point.timestamp < 10**15 or not -OFFSET <= point.step < OFFSET:
            raise InvalidEventError(
                f"metric {point.key}: expected a timestamp in milliseconds and a 64-bit step, got "
                f"{point.timestamp} and {point.step}"
            )


def check_key(what: str, key: str) -> None:
    """Refuses a key that MLflow would not take.

    Raises:
        InvalidEventError: It is none.
    """
    if not _KEY.fullmatch(key) or len(key) > MAX_KEY:
        raise InvalidEventError(
            f"{what}: expected a key of 1 to {MAX_KEY} letters, digits, underscores, dashes, "
            f"periods, colons, slashes and spaces, got {len(key)} characters: {key[:40]!r}"
        )

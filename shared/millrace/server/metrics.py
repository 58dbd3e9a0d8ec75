"""What the server counts, in Prometheus' format, of one worker or of all of them together.

With several workers prometheus_client keeps every value in a file that the workers share
(``PROMETHEUS_MULTIPROC_DIR``, which `server.__main__` sets before it starts them), and whichever
worker is asked adds up what all of them counted, the others' last second apart: what requests count is
written once a second. Labels are models and versions that are served, routes of the API and classes of
errors: never what a caller invents.
"""

import asyncio
import os
from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

import millrace
from millrace.bundle import Bundle
from millrace.server.distributions import Distributions
from millrace.server.tallies import Count, Observations, Tallied
from millrace.serving import telemetry
from millrace.serving.prediction import Prediction

FOLDER_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
LATENCY_BUCKETS: Final = (
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
)  # fmt: skip
WRITTEN_EVERY: Final = 1.0
"""Seconds after which other workers tell what this one counted."""
NO_MODEL: Final = ""
"""Label of what concerns no model that is served."""


class Meters:
    """The metrics of one server."""

    def __init__(self) -> None:
        self._shared = FOLDER_VARIABLE in os.environ
        registry = CollectorRegistry()
        kept = None if self._shared else registry
        self._requests = Counter(
            "millrace_http_requests",
            "HTTP requests that were answered.",
            ("route", "status"),
            registry=kept,
        )
        self._latency = Tallied(
            "millrace_http_request_duration_seconds",
            "Time from a request's headers to the end of its answer.",
            ("route",),
            buckets=LATENCY_BUCKETS,
            registry=kept,
        )
        self._predictions = Counter(
            "millrace_predictions",
            "Requests that a model answered.",
            ("model", "version"),
            registry=kept,
        )
        self._rows = Counter(
            "millrace_prediction_rows",
            "Rows that a model answered.",
            ("model", "version"),
            registry=kept,
        )
        self._prediction_latency = Tallied(
            "millrace_prediction_duration_seconds",
            "Time from a prediction request to its answer, decoding and encoding included.",
            ("model",),
            buckets=LATENCY_BUCKETS,
            registry=kept,
        )
        self._outside = Counter(
            "millrace_rows_outside_contract",
            "Values outside what the model was trained on; they were answered.",
            ("model", "feature"),
            registry=kept,
        )
        self._unknown = Counter(
            "millrace_unknown_categories",
            "Values of text features that the model never saw; they were answered.",
            ("model",),
            registry=kept,
        )
        self._errors = Counter(
            "millrace_prediction_errors",
            "Prediction requests that were refused or failed, by class of the error.",
            ("model", "error"),
            registry=kept,
        )
        self._loads = Counter(
            "millrace_model_loads", "Versions loaded into memory.", ("model",), registry=kept
        )
        self._load_failures = Counter(
            "millrace_model_load_failures",
            "Versions that could not be loaded, and bundles that were found damaged.",
            ("model",),
            registry=kept,
        )
        self._distributions = Distributions(kept)
        if self._shared:
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        else:
            ProcessCollector(registry=registry)
        self._registry = registry
        self._of_version: dict[tuple[str, int], tuple[Count, Count, Observations]] = {}
        self._of_route: dict[tuple[str, int], tuple[Count, Observations]] = {}
        self._due = False
        """Whether the event loop is going to write."""

    def describe(self, bundles: Callable[[], Iterable[Bundle]]) -> None:
        """Adds what is served to the metrics.

        Args:
            bundles: Tells it, at each scrape.
        """
        self._registry.register(_Facts(bundles))
        self._registry.register(self._distributions.describe(bundles))

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Everything that was counted, and its content type.

        Args:
            accept: The scraper's Accept header, which may ask for the OpenMetrics format.
        """
        self.write()
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def write(self) -> None:
        """Writes what was counted, for whoever collects it."""
        self._due = False
        for tallies in (*self._of_route.values(), *self._of_version.values()):
            for tally in tallies:
                tally.write()
        self._distributions.write()

    def _write_soon(self) -> None:
        """Has other workers see what this one counts."""
        if self._shared and not self._due:
            self._due = True
            asyncio.get_running_loop().call_later(WRITTEN_EVERY, self.write)

    def responded(self, route: str, status: int, seconds: float) -> None:
        """Counts an HTTP answer."""
        known = self._of_route.get((route, status))
        if known is None:
            known = self._of_route[(route, status)] = (
                Count(self._requests.labels(route, str(status))),
                Observations(self._latency.labels(route)),
            )
        known[0].n += 1
        known[1].observe(seconds)
        self._write_soon()

    def answered(self, prediction: Prediction, seconds: float) -> None:
        """Counts a prediction."""
        key = (prediction.model, prediction.version)
        known = self._of_version.get(key)
        if known is None:
            model, version = key[0], str(key[1])
            known = self._of_version[key] = (
                Count(self._predictions.labels(model, version)),
                Count(self._rows.labels(model, version)),
                Observations(self._prediction_latency.labels(model)),
            )
        known[0].n += 1
        known[1].n += prediction.batch.rows
        known[2].observe(seconds)
        if prediction.batch.unknown_categories:
            self._unknown.labels(prediction.model).inc(prediction.batch.unknown_categories)
        for warning in prediction.batch.warnings:
            self._outside.labels(prediction.model, warning.field).inc(warning.count)
        with telemetry.harmless():  # a baseline that cannot be read costs no line of the log
            self._distributions.answered(prediction)
        self._write_soon()

    def refused(self, model: str | None, error: str) -> None:
        """Counts a prediction request that was not answered."""
        self._errors.labels(model or NO_MODEL, error).inc()

    def loaded(self, model: str) -> None:
        """Counts a version that was loaded."""
        self._loads.labels(model).inc()

    def load_failed(self, model: str | None) -> None:
        """Counts a version or a bundle that cannot be used."""
        self._load_failures.labels(model or NO_MODEL).inc()


class _Facts(Collector):
    """What is served now; asked at each scrape, so that a version that went is gone."""

    def __init__(self, bundles: Callable[[], Iterable[Bundle]]) -> None:
        self._bundles = bundles

    def collect(self) -> Iterable[Metric]:
        """See `prometheus_client.registry.Collector`."""
        info = GaugeMetricFamily(
            "millrace_model_info",
            "Always 1: which versions are served; champion answers where no version is named.",
            labels=("model", "version", "champion", "algorithm", "sha256"),
        )
        trained = GaugeMetricFamily(
            "millrace_model_trained_timestamp_seconds",
            "When a version was registered.",
            labels=("model", "version"),
        )
        manifests = [b.manifest for b in self._bundles()]
        for m in manifests:
            champion = max(o.version for o in manifests if o.model == m.model) == m.version
            facts = [m.model, str(m.version), str(champion).lower(), m.algorithm, m.serving.sha256]
            info.add_metric(facts, 1)
            trained.add_metric([m.model, str(m.version)], m.trained_at.timestamp())
        build = GaugeMetricFamily(
            "millrace_build_info", "Always 1: the server's version.", labels=("version",)
        )
        build.add_metric([millrace.__version__], 1)
        return (info, trained, build)

"""The report: complete, self-contained, well-formed, and safe whatever names users choose."""

import re
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from millrace import plots
from millrace.evaluation import charts, curves
from millrace.evaluation.document import (
    Comparison,
    Coverage,
    CoverageLevel,
    Drawings,
    Evaluation,
    FeatureImportance,
    Histogram,
    Importance,
    Measured,
    Provenance,
    Slice,
    SliceTable,
)
from millrace.evaluation.metrics import Outcome
from millrace.evaluation.report import render
from millrace.messages import GateResult, TrialResult
from millrace.spec import Algorithm, Role, Task, metrics_for
from tests.fakes.pages import HOSTILE, Page
from tests.unit.evaluation import cases


def outcome(task: Task, rows: int = 200) -> Outcome:
    rng = np.random.default_rng(1)
    if task is Task.BINARY:
        return cases.random_binary(rows, 1)
    if task is Task.MULTICLASS:
        return Outcome(task, rng.integers(0, 3, rows), rng.dirichlet(np.ones(3), rows))
    truth = rng.normal(size=rows)
    return Outcome(task, truth, truth + 0.3 * rng.normal(size=rows))


def evaluation(task: Task = Task.BINARY, name: str = "plain", **changes: Any) -> Evaluation:
    """A document with ``name`` in every place a user chooses a name for."""
    classes = {
        Task.BINARY: (name, f"{name} 2"),
        Task.MULTICLASS: (name, f"{name} 2", f"{name} 3"),
        Task.REGRESSION: (),
    }[task]
    answers = outcome(task)
    binary, regression = task is Task.BINARY, task is Task.REGRESSION
    headline = metrics_for(task)[0]
    value = Measured(value=0.9, low=0.8, high=0.95, resamples=50, skipped=3)
    metrics = dict.fromkeys(metrics_for(task), value)
    document = Evaluation(
        model="churn",
        version=3,
        run_id="churn-1",
        correlation_id=name,
        attempt="2",
        evaluated_at=datetime(2026, 11, 1, 12, 0, tzinfo=UTC),
        description=name,
        owner=name,
        task=task,
        target=name,
        classes=classes,
        dataset_version="d" * 64,
        split_rows={"train": 600, "validation": 150, "test": 200},
        rows=200,
        algorithm=Algorithm.LINEAR,
        params={name: name},
        features=(name,),
        cv_metric=headline,
        cv_score=0.88,
        metric=headline,
        metrics=metrics,
        guess=dict.fromkeys(metrics, 0.5),
        comparison=Comparison(version=2, comparable=True, metrics=metrics, differences=metrics),
        gates=(
            GateResult(gate="parity", passed=True, metric="m", expected=name, actual=name),
            GateResult(gate="metrics[0]", passed=False, metric="m", expected=name, actual=name),
        ),
        verdict="failed",
        reason=name,
        drawings=Drawings(
            curves=curves.curves(answers) if binary else None,
            champion_curves=curves.curves(answers) if binary else None,
            calibration=curves.calibration(answers),
            scores=curves.score_histogram(answers, classes),
            residuals=curves.residual_histogram(answers, answers) if regression else None,
            density=curves.density(answers) if regression else None,
            confusion=None if regression else curves.confusion(answers, classes),
            class_scores=() if regression else curves.class_scores(answers, classes),
            operating_points=curves.operating_points(answers) if binary else (),
        ),
        slices=(
            SliceTable(
                column=name,
                role=Role.SENSITIVE,
                metric=headline,
                min_rows=50,
                slices=(
                    Slice(value=name, rows=90, judged=True, metric=value, facts={name: 0.5}),
                    Slice(value="b", rows=20, judged=False, metric=None, facts={name: None}),
                ),
                hidden_groups=2,
                hidden_rows=90,
                worst=0.9,
                best=0.9,
                gap=0.0,
                judged=1,
            ),
        ),
        coverage=Coverage(
            method="absolute_residual" if regression else "lac",
            calibration_rows=150,
            exchangeable=True,
            levels=(CoverageLevel(promised=0.9, covered=0.91, low=0.86, high=0.94, size=1.2),),
        ),
        importance=Importance(
            metric=headline,
            rows=200,
            repeats=3,
            features=(FeatureImportance(feature=name, mean=0.1, deviation=0.01),),
        ),
        trials=(
            TrialResult(
                trial_id=0,
                algorithm=Algorithm.LINEAR,
                params={name: name},
                metric=headline,
                score=0.88,
                score_std=0.01,
            ),
            TrialResult(
                trial_id=1,
                algorithm=Algorithm.RANDOM_FOREST,
                params={},
                metric=headline,
                status="failed",
                error=name,
            ),
        ),
        parity=cases.PARITY,
        provenance=Provenance(
            model_key="models/churn/model.onnx",
            model_sha256="a" * 64,
            signature_key=name,
            signature_sha256="b" * 64,
            environment_key="environment.json",
            data_key="data.parquet",
            split_key="test.npz",
            spec_key="spec.json",
            spec_digest="c" * 64,
            spec_version=4,
            code_version="abc1234",
            fit_seed=11,
            split_seed=12,
            split_strategy="stratified",
            bootstrap_seed=13,
            bootstrap_resamples=50,
            confidence=0.95,
            packages={"numpy": "2.0"},
        ),
    )
    return document.model_copy(update=changes)


@pytest.mark.parametrize("task", list(Task))
def test_report_is_well_formed_and_has_every_section(task: Task) -> None:
    page = Page(render(evaluation(task)))

    sections = ("gates", "metrics", "behaviour", "groups", "importance", "trials", "card")
    assert {*sections, "provenance"} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


@pytest.mark.parametrize("task", list(Task))
def test_hostile_names_stay_text(task: Task) -> None:
    html = render(evaluation(task, HOSTILE))

    page = Page(html)
    assert not page.tags & {"script", "img", "iframe", "object", "embed", "form", "link"}
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "alert(1)" in "".join(page.text)
    assert "49" not in re.findall(r"onerror=alert\(2\)&gt;&#34;&#39;(\d\d)", html)


@pytest.mark.parametrize("task", list(Task))
def test_report_needs_nothing_else(task: Task) -> None:
    page = Page(render(evaluation(task)))

    for name, value in page.attributes:
        assert name not in {"src", "srcset", "data", "action"}
        if name in {"href", "xlink:href"}:
            assert (value or "").startswith("#")
    styles = "".join(page.text)
    assert "url(" not in styles
    assert "@import" not in styles
    policy = [v for k, v in page.attributes if k == "content" and v and "default-src" in v]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_every_chart_has_a_name_for_screen_readers() -> None:
    html = render(evaluation(Task.BINARY))

    images = re.findall(r"<svg [^>]*>", html)
    assert images
    assert all('aria-label="' in i or 'aria-hidden="true"' in i for i in images)


def test_report_says_what_a_reader_needs() -> None:
    text = " ".join(" ".join(Page(render(evaluation(Task.BINARY))).text).split())

    for words in (
        "Failed its gates",
        "[0.800, 0.950]",
        "1 of 2",
        "metrics[0] failed",
        "ROC AUC 3 of 50",
        "2 further groups with 90 rows are not listed",
        "random forest",
        "a" * 64,
        "fit 11, split 12 (stratified), bootstrap and shuffles 13",
        "against champion version 2",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("task", "title"), [(Task.BINARY, "Label sets"), (Task.REGRESSION, "Width of the interval")]
)
def test_report_tells_promised_and_measured_coverage(task: Task, title: str) -> None:
    text = " ".join(Page(render(evaluation(task))).text)

    assert title in text
    assert "held on the test split" in text.lower()
    assert "91.0 %" in text
    assert "the 150 validation rows aside" in text


def test_report_says_when_coverage_is_promised_only_for_rows_that_are_alike() -> None:
    plain = evaluation()
    assert plain.coverage is not None
    told = plain.coverage.model_copy(update={"exchangeable": False})

    assert "rows in no order and of no groups" in render(evaluation(coverage=told))
    assert "rows in no order and of no groups" not in render(plain)
    assert 'id="coverage"' not in render(evaluation(coverage=None))


def test_report_without_champion_says_so() -> None:
    html = render(evaluation(comparison=None, attempt="0"))

    assert "no champion yet" in html
    assert "without a champion" in html


def test_report_of_a_champion_that_cannot_be_compared_says_why() -> None:
    comparison = Comparison(version=2, comparable=False, reason="its task is regression")

    html = render(evaluation(comparison=comparison))

    assert "cannot be scored on this dataset version: its task is regression" in html


def test_report_without_trials_importance_or_groups_is_whole() -> None:
    nothing = Importance(metric="roc_auc", rows=200, repeats=3, features=())

    page = Page(render(evaluation(importance=nothing, trials=(), slices=())))

    text = "".join(page.text)
    assert "importance was not measured" in text
    assert "The trials were not handed" in text
    assert "groups" not in page.ids


def test_limits_name_what_the_figures_do_not_say() -> None:
    few = render(evaluation())

    assert "200 test rows are few" in few
    assert "The champion may have been trained on some of these test rows" in few
    assert "may stand in for them" in few.replace("\n", " ")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-3, 11, [-2.5, 0, 2.5, 5, 7.5, 10]),
        (5, 5, [5]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert plots.ticks(low, high) == pytest.approx(expected)


def test_a_histogram_of_one_empty_series_can_be_drawn() -> None:
    data = Histogram(edges=(0, 1, 2), series={"right": (3, 1), "wrong": (0, 0)})

    assert "wrong (0)" in charts.histogram(data, "Title", "x", ("first", "second"))


def test_stored_document_reads_back_as_it_was() -> None:
    document = evaluation(Task.MULTICLASS)

    assert Evaluation.model_validate_json(document.model_dump_json()) == document

"""The report: one HTML file that needs nothing else, made from the evaluation document alone.

Column names, categories, descriptions and parameters are user input: the template escapes
everything, and the page's own policy forbids scripts and external resources.
"""

import math
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from millrace.evaluation import charts, wording
from millrace.evaluation.document import Coverage, Evaluation, Histogram, Measured, SliceTable
from millrace.graphs import Arrow, Box, draw
from millrace.spec import HIGHER_IS_BETTER, Role, Task

METRIC_NAMES = {
    "roc_auc": "ROC AUC",
    "average_precision": "Average precision",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "f1": "F1",
    "f1_macro": "Macro F1",
    "log_loss": "Log loss",
    "brier": "Brier score",
    "rmse": "RMSE",
    "mae": "MAE",
    "r2": "R²",
}
ALGORITHM_NAMES = {
    "linear": "linear model",
    "random_forest": "random forest",
    "hist_gradient_boosting": "histogram gradient boosting",
}

SPLIT_NAMES = {
    "hash": "at random by row",
    "stratified": "at random within each class",
    "time": "by time, the test rows being the latest",
    "group": "by group, no group being in two",
}


def render(evaluation: Evaluation) -> str:
    """The report of an evaluation as HTML."""
    comparison = evaluation.comparison
    comparable = comparison is not None and comparison.comparable
    return (
        environment(Path(__file__).parent)
        .get_template("report.html.j2")
        .render(
            e=evaluation,
            figures=_figures(evaluation),
            importance=charts.importance_bars(evaluation.importance)
            if evaluation.importance.features
            else None,
            unlisted_features=max(0, len(evaluation.importance.features) - charts.MAX_BARS),
            comparable=comparable,
            difference_marks=_difference_marks(comparison.differences)
            if comparison is not None
            else {},
            slice_tables=[(table, _slice_marks(table)) for table in evaluation.slices],
            trials=_ranked_trials(evaluation),
            limits=_limits(evaluation),
            calibration_spread=_calibration_spread(evaluation.coverage),
            origins=_origins(evaluation),
            has_skipped=any(m.skipped for m in evaluation.metrics.values()),
        )
    )


def _calibration_spread(coverage: Coverage | None) -> float:
    """Deviation of the coverage of one calibration at 90 %: Beta(k, n + 1 - k) (Vovk, 2012)."""
    if coverage is None:
        return 0.0
    rows = coverage.calibration_rows
    return math.sqrt(0.9 * 0.1 / (rows + 2))


def _origins(evaluation: Evaluation) -> Markup:
    """Where the candidate came from, as a graph; where it goes is not known yet."""
    p, name = evaluation.provenance, f"{evaluation.model}@{evaluation.version}"
    rows = sum(evaluation.split_rows.values())
    boxes = [
        Box(
            "data",
            1,
            "dataset version",
            evaluation.dataset_version[:16],
            (f"{rows:,} rows",),
            "data",
            whole=evaluation.dataset_version,
        ),
        Box("spec", 1, "spec", f"{evaluation.model}/{p.spec_version}", (), "work"),
        Box("run", 2, "run", evaluation.run_id, (f"{len(evaluation.trials)} trials",), "work"),
        Box(
            "version",
            3,
            "model version",
            name,
            (str(evaluation.algorithm), f"sha256 {p.model_sha256[:12]}…"),
            "model",
        ),
    ]
    arrows = [Arrow("data", "run"), Arrow("spec", "run"), Arrow("run", "version")]
    if p.upload:
        boxes.append(Box("upload", 0, "upload", p.upload.rpartition("/")[2], (), "data"))
        arrows.append(Arrow("upload", "data"))
    if evaluation.comparison is not None:
        other = f"{evaluation.model}@{evaluation.comparison.version}"
        boxes.append(Box("champion", 2, "champion then", other))
        arrows.append(Arrow("champion", "version", dashed=True))
    drawn = draw(
        boxes,
        arrows,
        title=f"Where {name} came from",
        description="From upload and spec over the dataset version and the run to the version.",
    )
    return Markup(drawn)  # noqa: S704  (every text in it was escaped where it was put in)


@cache
def environment(folder: Path) -> jinja2.Environment:
    """What templates of reports are rendered with: this room's words, numbers and style sheet.

    Args:
        folder: Where the templates lie.
    """
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "number": wording.number,
        "signed": wording.signed,
        "interval": wording.interval,
        "metric_name": lambda name: METRIC_NAMES.get(name, name),
        "algorithm_name": lambda name: ALGORITHM_NAMES.get(str(name), str(name)),
        "better": lambda name: "higher" if HIGHER_IS_BETTER[name] else "lower",
        "split_name": lambda name: SPLIT_NAMES.get(name, name),
        "parameter": _parameter,
        "percent": lambda value: f"{value * 100:.1f} %",
    }
    made.globals["style"] = (Path(__file__).parent / "report.css").read_text()
    return made


def _parameter(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _figures(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The drawings of the evaluation's task: title, picture and how to read it."""
    drawings = evaluation.drawings
    if evaluation.task is Task.REGRESSION:
        return _regression_figures(evaluation)
    figures: list[dict[str, Any]] = []
    if drawings.curves is not None:
        figures += [
            {
                "title": "ROC curve",
                "picture": charts.roc(drawings.curves, drawings.champion_curves),
                "note": "The further to the upper left, the better the ranking.",
            },
            {
                "title": "Precision and recall",
                "picture": charts.precision_recall(drawings.curves, drawings.champion_curves),
                "note": f"“{evaluation.classes[1]}” is the positive class; "
                f"{drawings.curves.prevalence:.1%} of the test rows are.",
            },
        ]
    binary = evaluation.task is Task.BINARY
    error = wording.number(drawings.calibration.error)
    figures += [
        {
            "title": "Calibration",
            "picture": charts.reliability(drawings.calibration, top_label=not binary),
            "note": f"Expected calibration error {error}. On the diagonal, a predicted 70 % "
            "comes true in 70 of 100 cases. Whiskers: 95 % intervals.",
        },
        {
            "title": "Predicted probability" if binary else "Confidence",
            "picture": charts.histogram(
                _named(drawings.scores, "true class " if binary else ""),
                "Spread of the scores",
                "probability of the positive class" if binary else "probability of the top class",
                ("second", "first") if binary else ("first", "second"),
            ),
            "note": "Each series adds up to 100 %. The less they overlap, the better the model "
            "tells them apart.",
        },
    ]
    return figures


def _named(data: Histogram, prefix: str) -> Histogram:
    return Histogram(edges=data.edges, series={prefix + k: v for k, v in data.series.items()})


def _regression_figures(evaluation: Evaluation) -> list[dict[str, Any]]:
    drawings = evaluation.drawings
    assert drawings.density is not None  # noqa: S101  (the service draws both for regression)
    assert drawings.residuals is not None  # noqa: S101
    outside = drawings.density.outside
    return [
        {
            "title": "Predicted and actual",
            "picture": charts.density(drawings.density, evaluation.target),
            "note": "Rows counted in a grid, the stronger the more; the line is a perfect prediction."
            + (f" {outside:,} rows lie outside the grid." if outside else ""),
        },
        {
            "title": "Residuals",
            "picture": charts.histogram(
                drawings.residuals, "Residuals", "predicted − actual", ("candidate", "champion")
            ),
            "note": "Narrow and centred on 0 is good; the outermost bars hold all beyond.",
        },
        {
            "title": "Calibration",
            "picture": charts.value_calibration(drawings.calibration),
            "note": "Mean actual value in each tenth of the predictions; whiskers hold the middle "
            "80 % of the actual values.",
        },
        {
            "title": "Spread of the values",
            "picture": charts.histogram(
                drawings.scores, "Spread of the values", evaluation.target, ("first", "second")
            ),
            "note": "A model that predicts a narrower range than the truth regresses to the mean.",
        },
    ]


def _difference_marks(differences: dict[str, Measured]) -> dict[str, Any]:
    marks = {}
    for name, metric in differences.items():
        ends = (metric.value, metric.low, metric.high)
        reach = max(abs(end) for end in ends if end is not None) * 1.15 or 1.0
        marks[name] = charts.interval_mark(metric, -reach, reach, 0.0)
    return marks


def _slice_marks(table: SliceTable) -> list[Any]:
    ends = [
        end
        for s in table.slices
        if s.metric is not None
        for end in (s.metric.value, s.metric.low, s.metric.high)
        if end is not None
    ]
    if not ends:
        return ["" for _ in table.slices]
    low, high = min(ends), max(ends)
    margin = (high - low) * 0.05 or 0.01
    return [charts.interval_mark(s.metric, low - margin, high + margin, None) for s in table.slices]


def _ranked_trials(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Trials from best to worst, failed ones last, with a bar from the worst to the best score."""
    higher = HIGHER_IS_BETTER[evaluation.cv_metric]
    scored = [t for t in evaluation.trials if t.score is not None]
    scored.sort(key=lambda t: ((t.score or 0.0) * (-1 if higher else 1), t.trial_id))
    failed = [t for t in evaluation.trials if t.score is None]
    scores = [t.score or 0.0 for t in scored]
    span = (max(scores) - min(scores)) if scores else 0.0
    rows = []
    for trial in scored:
        distance = abs((trial.score or 0.0) - scores[-1])
        rows.append({"trial": trial, "bar": 0.08 + 0.92 * (distance / span if span else 1.0)})
    return rows + [{"trial": trial, "bar": 0.0} for trial in failed]


def _limits(evaluation: Evaluation) -> list[str]:
    """What the figures do not say, as far as Millrace can know."""
    limits = []
    if evaluation.provenance.split_strategy == "time":
        limits.append(
            "The test rows are the latest of the dataset version; figures describe the near future "
            "of this data and no other population."
        )
    else:
        limits.append(
            "Test rows were held out of the same uploads that the model was trained on: the "
            "figures say nothing about other populations, nor about later times."
        )
    if evaluation.rows < 500:
        limits.append(
            f"{evaluation.rows:,} test rows are few: read the intervals, not the figures."
        )
    if evaluation.comparison is not None and evaluation.comparison.comparable:
        limits.append(
            "The champion may have been trained on some of these test rows, if it was trained on "
            "another dataset version that held them; that would favour the champion."
        )
    sensitive = [t.column for t in evaluation.slices if t.role is Role.SENSITIVE]
    if sensitive:
        limits.append(
            f"Sensitive columns ({', '.join(sensitive)}) are no features, but other features may "
            "stand in for them: the group figures show the effect, not the cause."
        )
    limits.append(
        "Permutation importance is about this model on this data; it is no statement about causes, "
        "and correlated features share it."
    )
    return limits

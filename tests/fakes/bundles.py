"""Bundles of the small real models of `onnx_models`, as `millrace export` writes them."""

from datetime import UTC, datetime
from pathlib import Path

from millrace.bundle import Content, Kind, write_bundle
from millrace.monitoring.baseline import (
    Baseline,
    CategoricalBaseline,
    FeatureBaseline,
    NumericBaseline,
    ScoreBaseline,
)
from millrace.registry.records import ServingRecord
from millrace.spec import ColumnType, Task
from tests.fakes.onnx_models import StoredModel, stored

TRAINED_AT = datetime(2026, 11, 1, 12, tzinfo=UTC)


def bundled(
    path: Path,
    *,
    model: str = "churn",
    version: int = 1,
    bias: float = 0.0,
    of: StoredModel | None = None,
    kind: Kind = "bundle",
    baseline: bytes | None = None,
) -> Path:
    """Writes the bundle of a small linear model.

    Args:
        path: Where to.
        model: Its name.
        version: Its version.
        bias: Shifts its answers, so that two versions can be told apart.
        of: Another model.
        kind: What the bundle is for.
        baseline: What its test rows were like, if that is known.
    """
    run = f"{model}-{version}"
    what = of or stored(run, name=model, bias=bias)
    spec = b'{"task": "binary"}'
    write_bundle(
        path,
        [
            Content("model.onnx", "model", what.onnx, what.model_key),
            Content("signature.json", "signature", what.signature_body, what.signature_key),
            Content("spec.json", "spec", spec, f"specs/{model}/1.json"),
            *([] if baseline is None else [Content("baseline.json", "baseline", baseline)]),
        ],
        kind=kind,
        serving=ServingRecord(
            model=model,
            version=version,
            run_id=run,
            model_key=what.model_key,
            sha256=what.sha256,
            signature_key=what.signature_key,
            signature_sha256=what.signature_sha256,
            updated_at=TRAINED_AT,
        ),
        task=what.signature.task if of else Task.BINARY,
        algorithm=what.signature.algorithm,
        trained_at=TRAINED_AT,
    )
    return path


def churn_baseline(version: int = 1) -> Baseline:
    """The baseline of such a model: of five features, one of them private."""
    return Baseline(
        schema=1,
        model="churn",
        version=version,
        run_id=f"churn-{version}",
        dataset_version="d1",
        task=Task.BINARY,
        rows=100,
        metric="roc_auc",
        confidence=0.95,
        classes=("0", "1"),
        features=(
            FeatureBaseline(
                name="age",
                type=ColumnType.INTEGER,
                private=False,
                missing=0,
                numeric=NumericBaseline(
                    edges=tuple(float(n) for n in range(18, 79, 3)),
                    counts=(5,) * 20,
                    mean=48,
                    std=17,
                ),
            ),
            FeatureBaseline(
                name="plan",
                type=ColumnType.STRING,
                private=False,
                missing=10,
                categorical=CategoricalBaseline(
                    categories=("basic", "premium"), counts=(60, 25), other=5, rest=("trial",)
                ),
            ),
            FeatureBaseline(
                name="tenure",
                type=ColumnType.NUMBER,
                private=False,
                missing=20,
                numeric=NumericBaseline(edges=(0, 0.7, 3.5, 9), counts=(30, 30, 20), mean=3, std=2),
            ),
            FeatureBaseline(name="city", type=ColumnType.STRING, private=True, missing=3),
        ),
        scores=ScoreBaseline(
            edges=(0, 0.25, 0.5, 0.75, 1), counts=(40, 30, 20, 10), mean=0.4, std=0.2
        ),
        predicted=(70, 30),
        performance={},
    )

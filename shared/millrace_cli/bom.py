"""The bill of materials of a model version: CycloneDX 1.6, with its part for machine learning.

https://cyclonedx.org/docs/1.6/json/. It is made of what the registry and the artifacts say: the
environment of the fit names the packages, the signature what goes in and comes out, the evaluation
how good the model is. It is a pure function of them: the same version gives the same document, so
that a bundle stays the same file.
"""

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from millrace import __version__
from millrace.registry.records import ModelVersion
from millrace.registry.writer import text_of
from millrace.signature import Signature
from millrace.vocabulary import Task

SPEC_VERSION: Final = "1.6"
FILENAME: Final = "sbom.cdx.json"
"""CycloneDX's own suffix: tools know the format by it."""

_NAMESPACE: Final = uuid.UUID("6f6f5c53-8a3d-4b0e-9d5e-6d696c6c7261")
"""Of the serial numbers; any fixed one does."""
_MODEL: Final = "model"
_DATASET: Final = "dataset"

_TASKS: Final[Mapping[Task, str]] = {
    Task.BINARY: "binary-classification",
    Task.MULTICLASS: "multiclass-classification",
    Task.REGRESSION: "regression",
}


def bill_of_materials(
    record: ModelVersion,
    *,
    signature: Signature,
    environment: Mapping[str, Any],
    evaluation: Mapping[str, Any] | None = None,
) -> bytes:
    """The document, as JSON.

    Args:
        record: The version.
        signature: What it takes and gives.
        environment: The stored environment of its fit.
        evaluation: Its stored evaluation, if it was judged.
    """
    name = f"{record.model}@{record.version}"
    packages = [
        {
            "type": "library",
            "bom-ref": f"pkg:pypi/{package}@{version}",
            "name": package,
            "version": version,
            "purl": f"pkg:pypi/{package}@{version}",
        }
        for package, version in sorted(environment.get("packages", {}).items())
    ]
    python = environment.get("python", "")
    runtime = [
        {"type": "platform", "bom-ref": "python", "name": "python", "version": python}
        for _ in ([python] if python else [])
    ]
    document = {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC_VERSION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, f'{name} {record.sha256}')}",
        "version": 1,
        "metadata": {
            "timestamp": text_of(record.created_at),
            "tools": {
                "components": [{"type": "application", "name": "millrace", "version": __version__}]
            },
            "component": {
                "type": "machine-learning-model",
                "bom-ref": _MODEL,
                "name": record.model,
                "version": str(record.version),
                "description": _description(record, signature, evaluation),
                "hashes": [{"alg": "SHA-256", "content": record.sha256}],
                "modelCard": _card(record, signature, evaluation),
                "properties": list(_properties(record, environment)),
            },
        },
        "components": [_dataset(record, environment), *runtime, *packages],
        "dependencies": [
            {
                "ref": _MODEL,
                "dependsOn": [_DATASET, *(c["bom-ref"] for c in (*runtime, *packages))],
            }
        ],
    }
    return (json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _description(
    record: ModelVersion, signature: Signature, evaluation: Mapping[str, Any] | None
) -> str:
    told = str((evaluation or {}).get("description") or "")
    task = _TASKS[signature.task].replace("-", " ")
    made = f"{task} of {signature.target}, {record.algorithm.value}, as ONNX"
    return f"{told} ({made})" if told else made[0].upper() + made[1:]


def _properties(record: ModelVersion, environment: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """What CycloneDX has no field for."""
    facts = {
        "run": record.run_id,
        "spec": record.spec_digest,
        "code": record.code_version,
        "seed": str(record.seed),
        "signature:sha256": record.signature_sha256,
        "onnx:opset": str(environment.get("opset", "")),
        "machine": str(environment.get("machine", "")),
        **{f"param:{k}": json.dumps(v, sort_keys=True) for k, v in sorted(record.params.items())},
    }
    if record.kms_key_id:
        facts |= {"kms:key": record.kms_key_id, "kms:signature": record.kms_signature}
    return ({"name": f"millrace:{k}", "value": v} for k, v in facts.items() if v)


def _dataset(record: ModelVersion, environment: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "data",
        "bom-ref": _DATASET,
        "name": f"{record.model} dataset",
        "version": record.dataset_version,
        "data": [
            {
                "type": "dataset",
                "name": record.dataset_version,
                "contents": {
                    "properties": [
                        {"name": f"millrace:{k}", "value": str(environment[k])}
                        for k in ("data_digest", "rows")
                        if k in environment
                    ]
                },
                "description": "The rows this version was fitted on; they are not part of it.",
            }
        ],
    }


def _card(
    record: ModelVersion, signature: Signature, evaluation: Mapping[str, Any] | None
) -> dict[str, Any]:
    return {
        "bom-ref": "model-card",
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": _TASKS[signature.task],
            "architectureFamily": record.algorithm.value,
            "modelArchitecture": f"ONNX opset {signature.onnx_opset}",
            "datasets": [{"ref": _DATASET}],
            "inputs": [{"format": f"{f.name}: {f.type.value}"} for f in signature.features],
            "outputs": [{"format": text} for text in _outputs(signature)],
        },
        "quantitativeAnalysis": {"performanceMetrics": list(_metrics(record, evaluation))},
        "considerations": _considerations(record, signature, evaluation),
    }


def _outputs(signature: Signature) -> Sequence[str]:
    if signature.task is Task.REGRESSION:
        return [f"{signature.target}: number"]
    return [f"probability of {signature.target} = {c}" for c in signature.classes]


def _metrics(
    record: ModelVersion, evaluation: Mapping[str, Any] | None
) -> Iterator[dict[str, Any]]:
    for name, metric in sorted(record.metrics.items()):
        yield _metric(name, metric.value, metric.low, metric.high)
    for table in (evaluation or {}).get("slices", ()):
        for group in table["slices"]:
            value = group["metric"]
            if value is not None:
                yield {
                    **_metric(table["metric"], value["value"], value["low"], value["high"]),
                    "slice": f"{table['column']} = {group['value']}",
                }


def _metric(name: str, value: float, low: float | None, high: float | None) -> dict[str, Any]:
    metric: dict[str, Any] = {"type": name, "value": f"{value:.6g}"}
    if low is not None and high is not None:
        metric["confidenceInterval"] = {"lowerBound": f"{low:.6g}", "upperBound": f"{high:.6g}"}
    return metric


def _considerations(
    record: ModelVersion, signature: Signature, evaluation: Mapping[str, Any] | None
) -> dict[str, Any]:
    limits = [
        f"{f.name}: trained on {' to '.join(_bounds(f.min, f.max))}"
        for f in signature.features
        if f.min is not None and f.max is not None
    ]
    limits += [
        f"{f.name}: {len(f.allowed)} values are known; others count as unknown"
        for f in signature.features
        if f.allowed
    ]
    limits += [
        f"gate {g.gate} failed: expected {g.expected}, got {g.actual}"
        for g in record.gates
        if not g.passed
    ]
    assessed = [
        {
            "groupAtRisk": f"groups of {table['column']}",
            "harms": f"the gap of {table['metric']} between groups is {table['gap']:.4g}",
        }
        for table in (evaluation or {}).get("slices", ())
        if table["role"] == "sensitive" and table["gap"] is not None
    ]
    considered: dict[str, Any] = {}
    if limits:
        considered["technicalLimitations"] = limits
    if assessed:
        considered["fairnessAssessments"] = assessed
    return considered


def _bounds(low: float, high: float) -> tuple[str, str]:
    return f"{low:g}", f"{high:g}"

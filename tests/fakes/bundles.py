"""Bundles of the small real models of `onnx_models`, as `millrace export` writes them."""

from datetime import UTC, datetime
from pathlib import Path

from millrace.bundle import Content, Kind, write_bundle
from millrace.registry.records import ServingRecord
from millrace.spec import Task
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
) -> Path:
    """Writes the bundle of a small linear model.

    Args:
        path: Where to.
        model: Its name.
        version: Its version.
        bias: Shifts its answers, so that two versions can be told apart.
        of: Another model.
        kind: What the bundle is for.
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

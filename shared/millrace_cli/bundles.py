"""The verb `export`: a model version as one file, to be served without the cloud that made it."""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.text import Text

from millrace import layout
from millrace.attestation import statement
from millrace.aws.objects import ObjectStore, verify_sha256
from millrace.aws.s3 import S3ObjectStore
from millrace.aws.translate import translated
from millrace.bundle import Content, Kind, Manifest, default_name, write_bundle
from millrace.errors import (
    ArtifactError,
    ConcurrentWriteError,
    InvalidRequestError,
    NotFoundError,
)
from millrace.known_rows import Value, usual_value
from millrace.monitoring.baseline import Baseline
from millrace.registry.records import (
    CHAMPION,
    CarriedVersion,
    ModelVersion,
    ServingRecord,
    VersionStatus,
)
from millrace.registry.registry import Registry, open_registry
from millrace.signature import Signature
from millrace.spec import ColumnType
from millrace_cli.bom import FILENAME as BOM_FILENAME
from millrace_cli.bom import bill_of_materials
from millrace_cli.console import JsonFlag, chosen, out, print_json, reported
from millrace_cli.models import split_reference
from millrace_cli.target import Target

app = typer.Typer()


WITHOUT_BASELINE: Final = (
    "it has no baseline: where it is used, its traffic is monitored, and neither its inputs nor its "
    "performance; train it anew for one"
)

EXAMPLES: Final = (
    "README.md",
    "python/predict.py",
    "python/requirements.txt",
    "javascript/millrace.mjs",
    "javascript/predict.mjs",
    "javascript/package.json",
)


@app.command(
    epilog="Examples: millrace export churn | millrace export churn@3 -o churn.bundle | "
    "millrace export churn --to edge"
)
def export(
    context: typer.Context,
    reference: Annotated[
        str, typer.Argument(help="MODEL (its champion), MODEL@VERSION or MODEL@ALIAS.")
    ],
    to: Annotated[
        str,
        typer.Option("--to", help="bundle: for `millrace serve`. edge: for a program of your own."),
    ] = "bundle",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="File or folder. Default: MODEL-VERSION.bundle (or -edge.zip)."
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write a model version with its signature, spec and evaluation into one verified file."""
    with reported(as_json):
        kind = _kind(to)
        name, version = split_reference(reference)
        target = chosen(context).target()
        context.call_on_close(target.close)
        registry = open_registry(target.dynamodb, target.outputs.raw["TableName"])
        record, serving = chosen_version(registry, name, version)
        path = _path(output, default_name(name, record.version, kind))
        contents = collect(
            S3ObjectStore(target.s3), target.outputs.artifact_bucket, record, serving, kind
        )
        if kind == "bundle":
            contents += papers(registry, record, contents, environment_of(target))
        manifest = write_bundle(
            path,
            contents,
            kind=kind,
            serving=serving,
            task=Signature.from_json(_body(contents, "signature")).task,
            algorithm=record.algorithm,
            trained_at=record.created_at,
        )
        _tell(path, manifest, as_json)


def _kind(text: str) -> Kind:
    if text == "bundle":
        return "bundle"
    if text == "edge":
        return "edge"
    raise InvalidRequestError(f"--to: expected bundle or edge, got {text!r}")


def _path(output: Path | None, name: str) -> Path:
    if output is None:
        return Path(name)
    return output / name if output.is_dir() else output


def chosen_version(
    registry: Registry, model: str, version: str | None
) -> tuple[ModelVersion, ServingRecord]:
    """A version that may answer, and its serving record.

    Raises:
        NotFoundError: There is no such model, version or alias.
        ConflictError: The version has not passed its gates, or was rejected.
        ConcurrentWriteError: Another version became champion while this was read.
    """
    record = registry.get_version(model, version or CHAMPION)
    champion = registry.champion(model)
    crowned = champion is not None and champion.version == record.version
    serving = registry.get_serving(model, None if crowned else record.version)
    if serving.version != record.version:
        raise ConcurrentWriteError(f"the champion of {model} changed meanwhile: export it again")
    # When a version was crowned, and beside whom, is the registry's to tell; its bundle stays the same.
    return record, replace(serving, updated_at=record.created_at, sequence=0, rollout=None)


def collect(
    store: ObjectStore, bucket: str, record: ModelVersion, serving: ServingRecord, kind: Kind
) -> list[Content]:
    """What goes into a bundle, each as it was registered.

    Args:
        store: Reads the artifact bucket.
        bucket: Its name.
        record: The version.
        serving: Its serving record.
        kind: What the bundle is for.

    Raises:
        ArtifactError: An artifact is missing or not the one that was registered.
    """
    what = f"{record.model}@{record.version}"

    def stored(path: str, role: str, key: str, sha256: str = "") -> Content:
        try:
            body = store.read(bucket, key)
        except NotFoundError as exc:
            raise ArtifactError(f"{what}: the registered {role} does not exist: {exc}") from exc
        if sha256:
            verify_sha256(body, sha256, f"{role} of {what}")
        return Content(path, role, body, key)

    contents = [
        stored("model.onnx", "model", serving.model_key, serving.sha256),
        stored("signature.json", "signature", serving.signature_key, serving.signature_sha256),
    ]
    if kind == "edge":
        signature = Signature.from_json(contents[1].body)
        rows = {"rows": example_rows(signature)}
        contents.append(
            Content(
                "rows.json",
                "example",
                (json.dumps(rows, indent=2, ensure_ascii=False) + "\n").encode(),
            )
        )
        folder = resources.files("millrace_cli") / "edge"
        contents += [
            Content(name, "example", folder.joinpath(name).read_bytes()) for name in EXAMPLES
        ]
        return contents
    spec = layout.spec_key(record.model, record.spec_digest)
    contents.append(stored("spec.json", "spec", spec, record.spec_digest))
    contents.append(stored("environment.json", "environment", record.environment_key))
    if record.evaluation_key:
        contents.append(stored("evaluation.json", "evaluation", record.evaluation_key))
    if record.report_key:
        contents.append(stored("report.html", "document", record.report_key))
    try:
        body = store.read(bucket, key := layout.baseline_key(record.model, record.run_id))
    except NotFoundError:
        return contents  # it was trained before there were baselines, or came without one
    Baseline.from_bytes(body, f"s3://{bucket}/{key}")
    return [*contents, Content("baseline.json", "baseline", body, key)]


def papers(
    registry: Registry, record: ModelVersion, contents: Sequence[Content], environment: str
) -> list[Content]:
    """What goes with a version into another environment: where it comes from, and what is in it.

    Args:
        registry: The registry it comes from.
        record: The version.
        contents: Its artifacts.
        environment: The name of the environment.
    """
    bodies = {c.role: c.body for c in contents}
    evaluation = json.loads(bodies["evaluation"]) if "evaluation" in bodies else None
    compared = ""
    if record.compared_with is not None:
        compared = registry.get_version(record.model, record.compared_with).sha256
    carried = CarriedVersion(
        environment=environment,
        # What changes after the verdict is the registry's to tell; the bundle stays the same.
        version=record.model_copy(
            update={"status": VersionStatus.VALIDATED, "updated_at": record.created_at}
        ),
        compared_with_sha256=compared,
        approval=registry.approval_of(record.model, record.version),
    )
    bill = bill_of_materials(
        record,
        signature=Signature.from_json(bodies["signature"]),
        environment=json.loads(bodies["environment"]),
        evaluation=evaluation,
    )
    made = [
        Content("version.json", "record", carried.model_dump_json(indent=1).encode()),
        Content(BOM_FILENAME, "bom", bill),
    ]
    if record.kms_signature:
        said = statement(record.model, record.version, record.sha256, record.signature_sha256)
        seal = base64.b64decode(record.kms_signature)
        made += [
            Content("statement.json", "statement", said),
            Content("statement.sig", "seal", seal),
        ]
    return made


def environment_of(target: Target) -> str:
    """A deployment's name, as a version that is imported elsewhere remembers it."""
    with translated("ask which account this is"):
        sts = target.session.client(
            "sts", endpoint_url=target.endpoint_url, region_name=target.region
        )
        account = sts.get_caller_identity()["Account"]
        sts.close()
    return f"{target.stack} in {target.region} of {account}"


def example_rows(signature: Signature) -> list[dict[str, Value]]:
    """Three rows that fit a signature: usual values, none where none may be, a text never seen."""
    usual: dict[str, Value] = {f.name: usual_value(f) for f in signature.features}
    absent = {f.name: None if f.nullable else usual[f.name] for f in signature.features}
    unseen: dict[str, Value] = {
        f.name: "never seen before" if f.type is ColumnType.STRING else usual[f.name]
        for f in signature.features
    }
    return [usual, absent, unseen]


def _body(contents: list[Content], role: str) -> bytes:
    return next(c.body for c in contents if c.role == role)


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def _tell(path: Path, manifest: Manifest, as_json: bool) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    size = path.stat().st_size
    if as_json:
        print_json(
            {
                "path": str(path),
                "kind": manifest.kind,
                "model": manifest.model,
                "version": manifest.version,
                "bytes": size,
                "sha256": digest,
                "files": [f.model_dump() for f in manifest.files],
            }
        )
        return
    out.print(
        f"[green]✓[/] {manifest.model}@{manifest.version} is in",
        Text(str(path), style="bold"),
        f"({_size(size)}, {len(manifest.files)} files)",
    )
    out.print(Text(f"  sha256: {digest}", style="dim"), soft_wrap=True)
    if manifest.kind == "bundle" and manifest.of_role("baseline") is None:
        out.print(Text(f"  {WITHOUT_BASELINE}", style="yellow"), soft_wrap=True)
    hint = (
        f"millrace serve {path}"
        if manifest.kind == "bundle"
        else f"unzip {path} -d {manifest.model}-edge, then see its README.md"
    )
    out.print(Text(f"  next: {hint}", style="dim"), soft_wrap=True)

"""Verbs on model specs: `init`, `validate`, `apply`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from millrace.errors import InvalidSpecError
from millrace.spec import ModelSpec, Task
from millrace_cli import render
from millrace_cli.console import JsonFlag, ModelArgument, connect, out, print_json, reported
from millrace_cli.exits import ExitCode

app = typer.Typer()


@app.command(epilog="Example: millrace init churn --data customers.csv --target churned")
def init(
    model: ModelArgument,
    data: Annotated[
        Path, typer.Option("--data", help="A sample of the data.", exists=True, dir_okay=False)
    ],
    target: Annotated[str, typer.Option("--target", help="The column to predict.")],
    task: Annotated[
        Task | None, typer.Option("--task", help="Default: inferred from the target.")
    ] = None,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="Where to write. Default: models/<name>.yaml.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing spec.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Infer a model spec from a data file, every field explained."""
    with reported(as_json):
        from millrace.datasets.infer import infer_spec, render_yaml

        path = out_file or Path("models", f"{model}.yaml")
        if path.exists() and not force:
            raise InvalidSpecError(f"{path} exists already: pass --force to replace it")
        spec, commentary = infer_spec(data, name=model, target=target, task=task)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render_yaml(spec, commentary), encoding="utf-8")
        if as_json:
            print_json({"path": str(path), "spec": spec.model_dump(mode="json")})
            return
        out.print(
            f"[green]wrote[/] {path}: task {spec.task}, target {spec.target.name}, "
            f"{len(spec.features)} features of {len(spec.data.columns)} columns"
        )
        out.print(f"look at it, then: millrace validate {path} --data {data}")


def _read_spec_file(path: Path) -> ModelSpec:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as exc:
        raise InvalidSpecError(f"{path} is not UTF-8 text") from exc
    return ModelSpec.from_yaml(text)


@app.command(epilog="Example: millrace validate models/churn.yaml --data new.csv")
def validate(
    spec_file: Annotated[Path, typer.Argument(help="The spec.", exists=True, dir_okay=False)],
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="A data file to check as the cloud would.", exists=True, dir_okay=False
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check a spec, and a data file against it, offline and exactly as in the cloud."""
    with reported(as_json):
        spec = _read_spec_file(spec_file)
        if data is None:
            if as_json:
                print_json({"valid": True, "spec": spec.model_dump(mode="json")})
            else:
                out.print(
                    f"[green]valid[/] {spec.name}: task {spec.task}, target {spec.target.name}, "
                    f"{len(spec.features)} features, metric {spec.training_metric}, "
                    f"split {spec.split_strategy}"
                )
            return
        from millrace.datasets.check import check_file

        report = check_file(data, spec)
        if as_json:
            print_json(report.model_dump(mode="json"))
        else:
            rows = report.rows
            accepted = report.outcome == "accepted"
            mark = "[green]accepted[/]" if accepted else "[bold red]refused[/]"
            out.print(
                f"{mark} {data}: {rows.accepted:,} good and {rows.quarantined:,} bad rows "
                f"of {rows.read:,}"
            )
            if report.reason:
                out.print(Text(report.reason))
            if report.problems:
                out.print(
                    render.problems_table([p.model_dump(mode="json") for p in report.problems])
                )
        if report.outcome != "accepted":
            raise typer.Exit(ExitCode.INVALID)


@app.command(epilog="Example: millrace apply models/churn.yaml")
def apply(
    context: typer.Context,
    spec_file: Annotated[Path, typer.Argument(help="The spec.", exists=True, dir_okay=False)],
    as_json: JsonFlag = False,
) -> None:
    """Make a spec a versioned resource of the stack."""
    with reported(as_json):
        spec = _read_spec_file(spec_file)
        api = connect(context)
        answer = api.put(f"/v1/specs/{spec.name}", spec.model_dump(mode="json", exclude_none=True))
        if as_json:
            print_json(answer)
            return
        out.print(
            f"[green]applied[/] {spec.name}: spec version {answer['version']} {api.target.where}"
        )
        out.print(f"next: millrace upload {spec.name} DATA.csv --follow")

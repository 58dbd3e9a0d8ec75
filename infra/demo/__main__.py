"""The demo's script: upload, model, prediction, a newer file, a broken file, and what to do next."""

import argparse
import json
import time
from contextlib import ExitStack, closing
from pathlib import Path

import duckdb
from rich.rule import Rule
from rich.text import Text

from infra.demo.data import DemoData, prepare
from infra.demo.scene import PROJECT, WORK, Clock, deployed, upload, uv
from millrace.errors import MillraceError
from millrace.spec import ModelSpec
from millrace_cli import render
from millrace_cli.client import ApiClient
from millrace_cli.console import out
from millrace_cli.exits import ExitCode
from millrace_cli.target import Target

MODEL = "employment"


def main() -> int:
    """Runs the demo; returns the process's exit code."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the phases' times to this file")
    arguments = parser.parse_args()
    clock = Clock()
    begun = time.monotonic()
    try:
        _run(clock)
    except MillraceError as exc:
        out.print(Text.assemble(("the demo stopped: ", "bold red"), str(exc)))
        return int(ExitCode.FAILED)
    total = time.monotonic() - begun
    out.print()
    out.print(Text(f"done in {total:.0f} s: {clock}", style="dim"))
    if arguments.json:
        arguments.json.write_text(json.dumps({"total": total, "phases": dict(clock.phases)}))
    return int(ExitCode.OK)


def _run(clock: Clock) -> None:
    with clock.phase("data", "1  Real data: US census, Massachusetts, 2015 and 2018"):
        data = prepare(WORK, uv())
        for path in (data.first, data.newer, data.broken):
            out.print(f"  {path.relative_to(PROJECT)}  {path.stat().st_size / 1e6:.1f} MB")
    with ExitStack() as stack:
        with clock.phase("deploy", "2  The embedded cloud, and `sam deploy` of template.yaml"):
            made = stack.enter_context(deployed())
        _story(clock, made.target, data)


def _story(clock: Clock, target: Target, data: DemoData) -> None:
    with closing(ApiClient(target)) as api:
        _tell(clock, api, data)


def _tell(clock: Clock, api: ApiClient, data: DemoData) -> None:
    target = api.target
    with clock.phase("apply", "3  millrace apply infra/demo/employment.yaml"):
        spec = ModelSpec.from_yaml((Path(__file__).with_name("employment.yaml")).read_text("utf-8"))
        applied = api.put(f"/v1/specs/{MODEL}", spec.model_dump(mode="json", exclude_none=True))
        out.print(f"  spec version {applied['version']} of {MODEL}")
    with clock.phase("first", "4  millrace upload employment employment-2015.csv --follow"):
        upload(api, MODEL, data.first)
    with clock.phase("predict", "5  millrace predict employment --row … (HTTPS in the cloud)"):
        _predict(api, target, data)
    with clock.phase("newer", "6  The world moves on: 2018 arrives"):
        out.print("  a few of its rows were damaged on purpose")
        before = api.get(f"/v1/models/{MODEL}")["champion_version"]
        run = upload(api, MODEL, data.newer)
        after = api.get(f"/v1/models/{MODEL}")["champion_version"]
        verdict = "changed" if after != before else "stands"
        out.print(
            Text.assemble(
                "  the champion ",
                (verdict, "bold"),
                f": {MODEL}@{before}" + (f" → {MODEL}@{after}" if after != before else ""),
                f"; {run.get('reason', '')}",
            )
        )
    with clock.phase("broken", "7  A broken file: column AGEP renamed to AGE_YEARS"):
        upload(api, MODEL, data.broken)
    _what_next(api, target)


def _predict(api: ApiClient, target: Target, data: DemoData) -> None:
    version = api.get(f"/v1/models/{MODEL}/versions/champion")
    names = [f["name"] for f in version["signature"]["features"]]
    with duckdb.connect() as db:
        table = db.execute(
            "SELECT * FROM read_csv($path, all_varchar = true) WHERE CAST(id AS INTEGER) % 13000 = 7",
            {"path": str(data.first)},
        )
        columns = [d[0] for d in table.description or ()]
        lines = [dict(zip(columns, line, strict=True)) for line in table.fetchall()]
    rows = [{n: int(line[n]) if n == "AGEP" else line[n] for n in names} for line in lines]
    answer = api.post(f"/v1/models/{MODEL}/predict", {"rows": rows})
    out.print(render.prediction_table(answer))
    truth = ", ".join(line["employed"] for line in lines)
    out.print(Text(f"  label 1 is employed; what they said themselves: {truth}", style="dim"))
    url = f"{target.outputs.api_url}/v1/models/{MODEL}/predict"
    body = json.dumps({"rows": rows[:1]})
    out.print(Text("  the first with curl:", style="dim"))
    for line in (
        f"curl -X POST {url} \\",
        "-H 'content-type: application/json' \\",
        f"-d '{body}'",
    ):
        out.print(Text(f"    {line}", style="dim"), soft_wrap=True)


def _what_next(api: ApiClient, target: Target) -> None:
    report = _save_report(api, target)
    out.print()
    out.print(Rule(Text("Where to look next", style="bold"), align="left", style="dim"))
    out.print(render.versions_table(api.get(f"/v1/models/{MODEL}/versions")["items"]))
    out.print(f"  report of the champion: {report.relative_to(PROJECT)}")
    out.print("  your own CSV:           .venv/bin/millrace init NAME --data FILE --target COLUMN")
    out.print("  keep a cloud running:   .venv/bin/millrace local up")
    out.print("  the ten-minute tutorial and `sam deploy` to AWS: README.md")


def _save_report(api: ApiClient, target: Target) -> Path:
    version = api.get(f"/v1/models/{MODEL}/versions/champion")
    body = target.s3.get_object(Bucket=target.outputs.artifact_bucket, Key=version["report_key"])[
        "Body"
    ].read()
    path = WORK / f"report-{MODEL}-{version['version']}.html"
    path.write_bytes(body)
    return path


if __name__ == "__main__":
    raise SystemExit(main())

"""The whole loop on the embedded cloud: a model is served, the world changes, labels tell, and a better one answers.

Two streams flow through the real template, each chunk of them within one hour of monitoring, which is a
minute here (MonitorHourSeconds=60):

* car-loan: 50,000 rows in chunks; from the middle on the world changes and the model gets worse. An alarm
  opens, one retraining takes the labelled rows in, passes its gates, takes the traffic by a canary and is
  promoted; the alarm closes by itself.
* census: inputs move in every chunk and the model stays right. Nothing is retrained.

Waits are scaled; nothing else is faked. Exit code 1 when the loop does not close.
"""

import argparse
import csv
import io
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from rich.rule import Rule
from rich.text import Text

from infra.demo import picture
from infra.demo.scene import WORK, Clock, Deployed, deployed, follow, upload, uv
from infra.demo.streams import Name, Part, Stream, read_stream, write_files
from infra.demo.timeline import (
    CENSUS,
    LOANS,
    Chunk,
    Record,
    Window,
    broken,
    chunk_line,
    happenings_of,
    summary,
)
from millrace.errors import MillraceError, NotFoundError, ServiceUnavailableError
from millrace.evaluation.metrics import Outcome, compute
from millrace.monitoring.binning import begin_of
from millrace.monitoring.retraining import CAUSES
from millrace.serving.identity import predicted_at
from millrace.spec import ColumnType, ModelSpec, Task
from millrace_cli.client import ApiClient
from millrace_cli.console import out
from millrace_cli.exits import ExitCode
from millrace_cli.feedback import read_labels, send_labels

if TYPE_CHECKING:
    from mypy_boto3_events.client import EventBridgeClient

HOUR: Final = timedelta(seconds=60)
REQUEST_ROWS: Final = 200
CANARY_ROWS: Final = 10
"""While a canary watches, requests count: each of its steps learns from a hundred of the champion's."""
CANARY_SECONDS: Final = 38.0
"""A chunk's requests are spread over so long then."""
ROOM: Final = (25.0, 50.0)
"""Seconds of an hour that a chunk and its labels are given, at least and at most: more than the last took."""
FIRES_AT: Final = (6, 25)
"""Between these seconds of an hour the schedule should fire, so that a window is judged before the next
chunk is sent: an hour is over for the monitor a twelfth of it later."""
PATIENCE: Final = 240
"""Seconds until a window is judged: at most two firings of the schedule, and labels that come late."""
SETTLED: Final = 12
"""Seconds after a report in which its window's alarms open, close, and start a training."""
DECIDED: Final = 60
"""Seconds from a report to its trainings: alarms open, and a training is asked for, after it is written."""
LATE: Final = 90
"""Seconds after which a window is taken as it is, with the labels that it was judged with."""
POLL: Final = 1.0
CENSUS_ROWS: Final = 3_000
"""Rows of a chunk of the census."""
LEARNED: Final[dict[Name, int | None]] = {LOANS: 10_000, CENSUS: None}
"""Rows of the past that each model learns from; None: all."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What was asked and answered of a chunk.

    Attributes:
        since: Begin of the hour.
        ids: Prediction id and row of each row.
        versions: Who answered each row.
        scores: The answered probability of 1.
        requests: In so many requests.
    """

    since: datetime
    ids: list[tuple[str, int]]
    versions: list[int]
    scores: list[float]
    requests: int


@dataclass(slots=True)
class Story:
    """The demo, once it is deployed.

    Attributes:
        deployed: The stack.
        api: Its API.
        streams: What flows.
        counts: Chunks of each stream.
        record: What happened.
    """

    deployed: Deployed
    api: ApiClient
    streams: dict[Name, Stream]
    counts: dict[Name, int]
    record: Record = field(default_factory=Record)

    # ── What flows ──────────────────────────────────────────────────────────────────────────────

    def flow(self) -> None:
        """Sends every chunk, and waits for what the monitor says of it."""
        parts = {
            name: list(stream.analysis.chunks(self.counts[name]))
            for name, stream in self.streams.items()
        }
        done: set[str] = set()
        took = 0.0
        for number, part in enumerate(parts[LOANS]):
            rolling = self._rollout()
            self._room(ROOM[1] if rolling else min(ROOM[1], max(ROOM[0], 1.25 * took + 4)))
            begun = time.monotonic()
            sent: dict[Name, Sent] = {LOANS: self._ask(LOANS, part, canary=rolling)}
            self._label(LOANS, part, sent[LOANS])
            if number < len(parts.get(CENSUS, ())):
                other = parts[CENSUS][number]
                sent[CENSUS] = self._ask(CENSUS, other)
                self._label(CENSUS, other, sent[CENSUS])
            took = time.monotonic() - begun
            for model, one in sent.items():
                chunk = self._judged(model, number, parts[model][number], one)
                self.record.chunks.append(chunk)
                out.print(chunk_line(chunk))
                if any(alarm.partition(" ")[0] in CAUSES for alarm in chunk.window.alarms):
                    self._follow_up(model, done)

    def _room(self, seconds: float) -> None:
        """Waits for the next hour when this one has not so much left, so that a chunk is one window."""
        now = datetime.now(UTC)
        left = (begin_of(now, HOUR) + HOUR - now).total_seconds()
        if left < seconds:
            with out.status("waiting for the next hour of monitoring"):
                time.sleep(left + 0.2)

    def _ask(self, model: Name, part: Part, *, canary: bool = False) -> Sent:
        """Asks for predictions over HTTP, some rows in each call."""
        stream, size = self.streams[model], CANARY_ROWS if canary else REQUEST_ROWS
        rows = rows_of(stream, part)
        begun, count = time.monotonic(), -(-len(rows) // size)
        sent = Sent(datetime.now(UTC), [], [], [], count)
        with out.status("") as spinner:
            for place, start in enumerate(range(0, len(rows), size)):
                if canary:
                    time.sleep(max(0.0, begun + place * CANARY_SECONDS / count - time.monotonic()))
                some = rows[start : start + size]
                answer = self.api.post(f"/v1/models/{model}/predict", {"rows": some})
                sent.ids.extend((answer["prediction_id"], n) for n in range(len(some)))
                sent.versions.extend([int(answer["version"])] * len(some))
                sent.scores.extend(float(p["probabilities"]["1"]) for p in answer["predictions"])
                spinner.update(Text(f"{model}: {len(sent.ids):,} of {len(rows):,} rows answered"))
        since = begin_of(predicted_at(sent.ids[0][0]), HOUR)
        return Sent(since, sent.ids, sent.versions, sent.scores, count)

    def _label(self, model: str, part: Part, sent: Sent) -> None:
        """Tells what really happened, by the API."""
        path = WORK / f"{model}-labels.csv"
        path.write_text(labels_csv(part, sent), encoding="utf-8")
        taken = send_labels(self.api, model, read_labels(path))
        if taken["accepted"] != part.rows:
            raise ServiceUnavailableError(
                f"expected {part.rows:,} labels of {model} to be accepted, and got {taken}"
            )

    # ── What came of it ─────────────────────────────────────────────────────────────────────────

    def _judged(self, model: Name, number: int, part: Part, sent: Sent) -> Chunk:
        """Waits until the monitor, on its schedule, has judged a chunk with its labels."""
        got = ["no report of it"]
        begun = time.monotonic()

        def look() -> Chunk | None:
            try:
                answer = self.api.get(f"/v1/models/{model}/monitor", window=sent.since.isoformat())
            except NotFoundError:
                return None
            window = Window.of_report(answer["report"])
            want = Counter(sent.versions)[window.version]
            got[:] = [
                f"{window.rows:,} rows of version {window.version}, {window.labelled:,} labelled"
            ]
            late = window.labelled < want and time.monotonic() - begun < LATE
            if late or window.measured is None:
                return None
            return Chunk(
                model,
                number,
                sent.since,
                part.rows,
                sent.requests,
                dict(Counter(sent.versions)),
                real_auc(part, sent),
                window,
            )

        return wait_for(
            f"the monitor to judge {model}, chunk {number}, hour {sent.since:%H:%M}",
            look,
            lambda: got[0],
            PATIENCE,
        )

    def _follow_up(self, model: Name, done: set[str]) -> None:
        """Follows the trainings that a model's alarms started, or says why they started none."""
        for run_id, reason in sorted(self._decisions(model)):
            if run_id and run_id not in done:
                done.add(run_id)
                out.print()
                out.print(Text(f"  an alarm started a training: {run_id}", style="bold"))
                follow(self.api, run_id)
                out.print()
            elif not run_id:
                out.print(Text(f"  no training yet: {reason}", style="yellow"))

    def _decisions(self, model: Name) -> set[tuple[str, str]]:
        """What was decided on a model's open alarms: runs, and reasons where there is none."""
        begun = time.monotonic()
        got: list[str] = []

        def look() -> set[tuple[str, str]] | None:
            path = f"/v1/models/{model}/alarms"
            alarms = [a for a in pages(self.api, path) if a["kind"] in CAUSES]
            details = [self.api.get(f"{path}/{a['id']}") for a in alarms if a["state"] != "closed"]
            got[:] = [f"{d['subject']}: {d['training'] or 'nothing decided'}" for d in details]
            if not details or any(d["training"] is None for d in details):
                return None
            found = {(d["training"]["run_id"], d["training"]["reason"]) for d in details}
            found = {(run_id, "" if run_id else reason) for run_id, reason in found}
            # A reason may be that of the window before, until this one's alarms were considered.
            settled = time.monotonic() - begun > SETTLED
            return found if settled or all(run_id for run_id, _ in found) else None

        return wait_for(
            f"a decision on the alarms of {model}", look, lambda: "; ".join(got) or "none", DECIDED
        )

    def _rollout(self) -> bool:
        """Whether a version is taking over the loans' traffic."""
        items = self.api.get(f"/v1/models/{LOANS}/rollouts", limit=1)["items"]
        return any(one["ended_at"] is None for one in items)

    # ── The watch ───────────────────────────────────────────────────────────────────────────────

    def pause_watch(self) -> None:
        """Stops the monitor's schedule: there is nothing to look at before a model answers."""
        self._events().disable_rule(Name=self._rule())

    def begin_watch(self) -> None:
        """Starts it at a moment that lets a window be judged before the next hour is half over.

        EventBridge counts a rate from when a rule began, which is any second of an hour.
        """
        first, last = FIRES_AT
        now = datetime.now(UTC)
        second = (now - begin_of(now, HOUR)).total_seconds()
        if not first <= second <= last - 10:
            with out.status("waiting for the schedule's moment"):
                time.sleep((first - second) % HOUR.total_seconds())
        self._events().enable_rule(Name=self._rule())

    def _rule(self) -> str:
        target = self.deployed.target
        found = target.cloudformation.describe_stack_resources(
            StackName=target.stack, LogicalResourceId="MonitorRule"
        )
        return found["StackResources"][0]["PhysicalResourceId"]

    def _events(self) -> "EventBridgeClient":
        target = self.deployed.target
        return target.session.client("events", endpoint_url=target.endpoint_url)

    def finish(self) -> None:
        """Reads what the deployment recorded, once the last window's alarms had time to close."""
        path, deadline = f"/v1/models/{LOANS}/alarms", time.monotonic() + SETTLED
        while any(a["kind"] in CAUSES and a["state"] != "closed" for a in pages(self.api, path)):
            if time.monotonic() > deadline:
                break  # `broken` says so
            time.sleep(POLL)
        for model in self.streams:
            entries = pages(self.api, f"/v1/models/{model}/audit")
            self.record.happenings += happenings_of(model, entries)
            self.record.trainings[model] = pages(self.api, f"/v1/models/{model}/runs")
            self.record.alarms[model] = pages(self.api, f"/v1/models/{model}/alarms")

    def say(self, *arguments: str) -> None:
        """Runs the command line as a person would, and shows what it says."""
        out.print()
        out.print(Text(f"  $ millrace {' '.join(arguments)}", style="bold"))
        done = subprocess.run(
            [str(Path(sys.executable).with_name("millrace")), *arguments],
            env=self.deployed.info.environment() | {"COLUMNS": str(out.width - 4)},
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        if done.returncode not in (ExitCode.OK, ExitCode.OUTCOME):
            raise ServiceUnavailableError(
                f"millrace {' '.join(arguments)} ended with {done.returncode}: {done.stderr.strip()}"
            )
        for line in done.stdout.rstrip().splitlines():
            out.print(Text(f"  {line}"), soft_wrap=True)


def wait_for[T](
    expected: str, look: Callable[[], T | None], got: Callable[[], str], seconds: float
) -> T:
    """What ``look`` finds, asked again and again.

    Args:
        expected: What is waited for, in words.
        look: Looks once.
        got: What there was instead, in words.
        seconds: How long at most.

    Raises:
        ServiceUnavailableError: Nothing came in time.
    """
    deadline = time.monotonic() + seconds
    with out.status(f"waiting for {expected}"):
        while True:
            found = look()
            if found is not None:
                return found
            if time.monotonic() > deadline:
                raise ServiceUnavailableError(
                    f"expected {expected} within {seconds:.0f} s, and got {got()}"
                )
            time.sleep(POLL)


def pages(api: ApiClient, path: str) -> list[dict[str, Any]]:
    """All items of a listing."""
    items: list[dict[str, Any]] = []
    token = None
    while True:
        page = api.get(path, page_token=token)
        items += page["items"]
        token = page["next_page_token"]
        if token is None:
            return items


def some_of(part: Part, rows: int) -> Part:
    """So many rows of a part, evenly spread over it."""
    return part.take(np.linspace(0, part.rows - 1, min(rows, part.rows)).astype(np.int64))


def rows_of(stream: Stream, part: Part) -> list[dict[str, Any]]:
    """A part's inputs as a caller sends them."""
    columns = {
        name: [_value(kind, value) for value in part.inputs[name]]
        for name, kind in stream.features.items()
    }
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def _value(kind: ColumnType, value: Any) -> Any:
    if kind is ColumnType.STRING:
        return value or None
    if np.isnan(value):
        return None
    match kind:
        case ColumnType.BOOLEAN:
            return bool(value)
        case ColumnType.INTEGER:
            return int(value)
        case _:
            return float(value)


def labels_csv(part: Part, sent: Sent) -> str:
    """What really happened, row by row, as a file of labels."""
    written = io.StringIO(newline="")
    lines = csv.writer(written, lineterminator="\n")
    lines.writerow(["prediction_id", "row", "label"])
    lines.writerows(
        (prediction, row, int(label))
        for (prediction, row), label in zip(sent.ids, part.labels, strict=True)
    )
    return written.getvalue()


def real_auc(part: Part, sent: Sent) -> dict[int, float]:
    """ROC AUC of each version's answers."""
    versions, scores = np.asarray(sent.versions), np.asarray(sent.scores)
    found = {}
    for version in sorted(set(sent.versions)):
        own = versions == version
        output = np.column_stack([1 - scores[own], scores[own]])
        found[version] = compute("roc_auc", Outcome(Task.BINARY, part.labels[own], output))
    return found


# ── The script ──────────────────────────────────────────────────────────────────────────────────


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo; returns the process's exit code."""
    parser = argparse.ArgumentParser(
        prog="make demo-drift",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--chunks", type=int, default=10, help="chunks of the loans (default: 10)")
    parser.add_argument(
        "--census", type=int, default=4, help="chunks of the census; 0: none (default: 4)"
    )
    parser.add_argument("--to", type=Path, default=WORK / "drift", help="where the picture goes")
    parser.add_argument("--json", action="store_true", help="print one JSON document at the end")
    given = parser.parse_args(arguments)
    if given.json:
        out.file = sys.stderr
    clock, begun = Clock(), time.monotonic()
    try:
        record = _run(clock, given)
    except MillraceError as exc:
        out.print(Text.assemble(("the demo stopped: ", "bold red"), str(exc)))
        return int(ExitCode.FAILED)
    record.phases = dict(clock.phases)
    (given.to / "record.json").write_text(record.to_json(), encoding="utf-8")
    page = picture.write(record, given.to)
    faults = broken(record)
    out.print()
    for fault in faults:
        out.print(Text.assemble(("✗ ", "bold red"), fault))
    if not faults:
        out.print(Text("✓ the loop closed", style="bold green"))
    out.print(f"the picture:        {page}", soft_wrap=True)
    out.print(f"all that happened:  {given.to / 'record.json'}", soft_wrap=True)
    out.print(Text(f"done in {time.monotonic() - begun:.0f} s: {clock}", style="dim"))
    if given.json:
        sys.stdout.write(record.to_json() + "\n")
    return int(ExitCode.FAILED) if faults else int(ExitCode.OK)


def _run(clock: Clock, given: argparse.Namespace) -> Record:
    given.to.mkdir(parents=True, exist_ok=True)
    counts: dict[Name, int] = {LOANS: given.chunks}
    if given.census:
        counts[CENSUS] = given.census
    with clock.phase("data", "1  Two streams whose truth is known"):
        files = {name: write_files(name, WORK, uv(), LEARNED[name]) for name in counts}
        streams = {name: read_stream(name, WORK, uv()) for name in counts}
        for name, stream in streams.items():
            later = stream.analysis
            if name == CENSUS:
                later = some_of(later, CENSUS_ROWS * given.census)
                streams[name] = replace(stream, analysis=later)
            learned = LEARNED[name] or stream.reference.rows
            out.print(
                f"  {name:<9} {learned:,} labelled rows to learn from; then {later.rows:,} in "
                f"{counts[name]} chunks"
            )
    with ExitStack() as stack:
        with clock.phase("deploy", "2  The embedded cloud, and `sam deploy` of template.yaml"):
            made = stack.enter_context(
                deployed(own=True, MonitorHourSeconds="60", MonitorSchedule="rate(1 minute)")
            )
        api = stack.enter_context(closing(ApiClient(made.target)))
        story = Story(made, api, streams, counts)
        with clock.phase("train", "3  millrace apply, and millrace upload of what is known"):
            story.pause_watch()
            for name in counts:
                text = Path(__file__).with_name(f"{name}.yaml").read_text("utf-8")
                spec = ModelSpec.from_yaml(text)
                api.put(f"/v1/specs/{name}", spec.model_dump(mode="json", exclude_none=True))
                upload(api, name, files[name].reference, brief=True)
        with clock.phase(
            "stream", "4  What comes later, chunk by chunk; the monitor looks each minute"
        ):
            story.begin_watch()
            story.flow()
        with clock.phase("look", "5  What a person sees"):
            story.finish()
            for name in counts:
                story.say("monitor", name)
                story.say("alarms", name, "--all")
            story.say("costs", LOANS)
        out.print()
        out.print(Rule(Text("What happened", style="bold"), align="left", style="dim"))
        out.print(summary(story.record))
        return story.record


if __name__ == "__main__":
    raise SystemExit(main())

"""What a batch job costs, from the same prices as the bill; ``docs/batch.md`` shows the table.

    python -m infra.costs.batch [--write]

What no template says is assumed here, each with its reason.
"""

import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from infra.build.expansion import BATCH_MACHINE, ROOT, Resolver, machine_definition
from infra.costs.bill import Line, total
from infra.costs.prices import price_list

DOCUMENT: Final = ROOT / "docs" / "batch.md"
MARKED: Final = re.compile(
    r"(?<=<!-- price: written by `python -m infra\.costs\.batch --write` -->\n).*?"
    r"(?=<!-- end of price -->)",
    re.DOTALL,
)
CHUNK_ROWS: Final = 50_000
MILLION: Final = 1_000_000

SPLIT_SECONDS: Final = Decimal(10)
"""For a million rows of 20 columns; measured by `make bench` with 5 columns, and rounded up."""
SCORE_SECONDS: Final = Decimal(10)
"""For a million rows and 100 trees: ONNX Runtime alone takes five on one core."""
FINISH_SECONDS: Final = Decimal(6)
"""For a million rows of two probabilities; measured by `make bench`, and rounded up."""
COLD_SECONDS: Final = Decimal(2)
"""A cold start of the score function with its model, billed as time."""
PART_MB: Final = 8
"""S3's clients upload larger files in parts of this size, each a request."""
RESULT_MB: Final = 45
"""Predictions of a million rows as CSV."""


@dataclass(frozen=True, slots=True)
class Job:
    """One job.

    Attributes:
        rows: Of the file.
        concurrency: Chunks scored at once.
    """

    rows: int
    concurrency: int

    @property
    def chunks(self) -> int:
        """Chunks of the file."""
        return math.ceil(self.rows / CHUNK_ROWS)

    @property
    def minutes(self) -> Decimal:
        """From upload to results, cold start included."""
        millions = Decimal(self.rows) / MILLION
        rounds = math.ceil(self.chunks / self.concurrency)
        chunk = SCORE_SECONDS * CHUNK_ROWS / MILLION
        seconds = (SPLIT_SECONDS + FINISH_SECONDS) * millions + rounds * chunk + 2 * COLD_SECONDS
        return seconds / 60


def lines(job: Job) -> list[Line]:
    """What a job costs, line by line."""
    prices = price_list().prices
    functions = Resolver().resources()
    millions = Decimal(job.rows) / MILLION
    started = min(job.concurrency, job.chunks)
    states = len(machine_definition({}, BATCH_MACHINE)["States"]) - 4  # refusal and failure
    put_together = (SPLIT_SECONDS + FINISH_SECONDS) * millions
    scored = SCORE_SECONDS * millions + COLD_SECONDS * started
    parts = math.ceil(RESULT_MB * millions / PART_MB)

    def line(item: str, formula: str, units: Decimal | int, price: str) -> Line:
        amount = Decimal(units)
        return Line(item, formula, amount, price, prices[price].cost(amount))

    def gigabytes(function: str) -> Decimal:
        return Decimal(str(functions[function]["Properties"]["MemorySize"])) / 1024

    disk = Decimal(functions["BatchFunction"]["Properties"]["EphemeralStorage"]["Size"] - 512)
    return [
        line(
            "state transitions",
            f"{states + 1} of the job, 2 for each of {job.chunks:,} chunks",
            states + 1 + 2 * job.chunks,
            "transitions",
        ),
        line(
            "split and finish, time",
            f"{put_together:,} s × {gigabytes('BatchFunction'):.2f} GB",
            put_together * gigabytes("BatchFunction"),
            "lambda-time",
        ),
        line(
            "split and finish, disk",
            f"{put_together:,} s × {disk / 1024:.1f} GB",
            put_together * disk / 1024,
            "lambda-disk",
        ),
        line(
            "score, time",
            f"{scored:,} s × {gigabytes('ScoreFunction'):.2f} GB",
            scored * gigabytes("ScoreFunction"),
            "lambda-time",
        ),
        line("function requests", f"{job.chunks + 5:,}", job.chunks + 5, "lambda-requests"),
        line(
            "objects written",
            f"2 for each chunk, {parts + 6:,} besides",
            2 * job.chunks + parts + 6,
            "s3-write",
        ),
        line("objects read", "4 for each chunk", 4 * job.chunks + 12, "s3-read"),
        line("events of the data bucket", "one for each object", 2 * job.chunks + 7, "events"),
    ]


JOBS: Final = (Job(MILLION, 4), Job(10 * MILLION, 40), Job(20 * MILLION, 40))
FILES: Final = 50
"""How many files of the last kind make a billion rows."""


def table() -> str:
    """The price of a million rows line by line, and of more in sum."""
    return "".join(_markdown())


def _markdown() -> Iterator[str]:
    one = lines(JOBS[0])
    yield "| for a million rows | how much | US dollars |\n|---|---|---|\n"
    for each in one:
        yield f"| {each.item} | {each.formula} | {each.usd:.6f} |\n"
    yield f"| **sum** | | **{total(one):.4f}** |\n\n"
    yield "| rows | files | chunks | at once | minutes | US dollars | for a million rows |\n"
    yield "|---|---|---|---|---|---|---|\n"
    for job in JOBS:
        usd = total(lines(job))
        yield _row(job, 1, usd)
    yield _row(JOBS[-1], FILES, total(lines(JOBS[-1])))


def _row(job: Job, files: int, usd: Decimal) -> str:
    rows = job.rows * files
    per_million = usd * files / (Decimal(rows) / MILLION)
    return (
        f"| {rows:,} | {files} | {job.chunks * files:,} | {job.concurrency * files:,} | "
        f"{job.minutes:.1f} | {usd * files:.4f} | {per_million:.4f} |\n"
    )


def written(page: str) -> str:
    """The page with the table as it is now."""
    return MARKED.sub(lambda _: "\n" + table() + "\n", page)


def main() -> int:
    """Prints the table, or writes it into its page."""
    if "--write" in sys.argv[1:]:
        DOCUMENT.write_text(written(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        sys.stdout.write(table())
    return 0


if __name__ == "__main__":
    sys.exit(main())

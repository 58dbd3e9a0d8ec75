"""What ingest costs beyond reading and writing the same file with the same library.

Subject: the ingest service on the census CSV (read as text, every cell checked, cleaned, digested,
sorted, profiled, split, Parquet and NumPy written). Reference: DuckDB reading that CSV with the
types known and writing it as Parquet.
"""

from pathlib import Path

import duckdb
import pytest

from millrace.spec import ModelSpec
from tests.bench.conftest import ingest_file
from tests.bench.measure import compare, keep
from tests.fakes.store import FakeStore


def test_ingest_time_over_reading_and_writing(
    census: Path, spec: ModelSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = 0

    def ingest_it() -> None:
        nonlocal rows
        store = FakeStore()
        store.write(
            "artifact-bucket",
            f"specs/{spec.name}/{spec.digest}.json",
            spec.to_json().encode(),
            content_type="application/json",
        )
        rows = ingest_file(census, spec, store, tmp_path).rows.accepted

    def read_and_write() -> None:
        with duckdb.connect(config={"threads": 1}) as db:
            db.read_csv(str(census)).write_parquet(str(tmp_path / "bare.parquet"))

    measured = compare("ingest", ingest_it, read_and_write, rounds=5)

    capsys.readouterr()
    with capsys.disabled():
        measured.tell()
        print(f"  {rows / measured.subject:,.0f} rows a second of {rows:,}, 19 columns")
    keep("ingest rows", {"rows": rows, "rows_per_second": rows / measured.subject})
    assert rows == 68_785

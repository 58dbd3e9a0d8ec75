"""The demo's data: US census, Massachusetts employment, 2015 to 2018.

Source: American Community Survey public use microdata (US Census Bureau, public domain), as packed
into the wheel of ``nannyml`` 0.13.1 (Apache-2.0). The wheel is fetched alone and read as a file;
the package is never imported. Its ready-made prediction columns are dropped.
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import duckdb

from millrace.errors import ConfigurationError

_TABLES = "nannyml/datasets/data"
_COLUMNS = (
    "id, CAST(AGEP AS INTEGER) AS AGEP, SCHL, MAR, RELP, DIS, ESP, CIT, MIG, MIL, ANC, NATIVITY, "
    "DEAR, DEYE, DREM, SEX, RAC1P, year, employed"
)
# Every 20,000th row or so gets an age below zero, an unknown sex or no label.
_DAMAGE = (
    "* REPLACE (CASE WHEN id % 20000 = 1 THEN -5 ELSE AGEP END AS AGEP, "
    "CASE WHEN id % 20000 = 2 THEN 'X' ELSE SEX END AS SEX, "
    "CASE WHEN id % 20000 = 3 THEN NULL ELSE employed END AS employed)"
)


@dataclass(frozen=True, slots=True)
class DemoData:
    """The three files the demo uploads.

    Attributes:
        first: All rows of 2015, as CSV.
        newer: All rows of 2018, as Parquet, with a few rows damaged on purpose.
        broken: The first rows of 2018 with a column renamed, as CSV.
    """

    first: Path
    newer: Path
    broken: Path


def fetch_tables(folder: Path, uv: Path) -> Path:
    """Unpacks the pinned wheel below ``folder`` once; returns the folder of its tables.

    Raises:
        ConfigurationError: The wheel could not be fetched, with uv's words.
    """
    tables = folder / "wheel" / _TABLES
    if (tables / "employment_MA_reference.pq").exists():
        return tables
    command = [
        str(uv),
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--require-hashes",
        "--python-version",
        "3.12",
        "--target",
        str(folder / "wheel"),
        "--requirement",
        str(Path(__file__).with_name("requirements.txt")),
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise ConfigurationError(f"the demo's data could not be fetched: {done.stderr.strip()}")
    return tables


def prepare(folder: Path, uv: Path) -> DemoData:
    """Writes the demo's three files once and returns them."""
    folder.mkdir(parents=True, exist_ok=True)
    data = DemoData(
        first=folder / "employment-2015.csv",
        newer=folder / "employment-2018.parquet",
        broken=folder / "employment-broken.csv",
    )
    if all(path.exists() for path in (data.first, data.newer, data.broken)):
        return data
    tables = fetch_tables(folder, uv)
    with duckdb.connect() as db:
        old = db.read_parquet(str(tables / "employment_MA_reference.pq"))
        old.project(_COLUMNS).order("id").write_csv(str(data.first))
        features = db.read_parquet(str(tables / "employment_MA_analysis.pq"))
        labels = db.read_parquet(str(tables / "employment_MA_analysis_target.pq"))
        newer = features.join(labels, "id").filter("year = 2018").project(_COLUMNS).order("id")
        newer.project(_DAMAGE).write_parquet(str(data.newer))
        newer.limit(5000).project("* RENAME (AGEP AS AGE_YEARS)").write_csv(str(data.broken))
    return data

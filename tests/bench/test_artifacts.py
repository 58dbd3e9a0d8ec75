"""Sizes of the built artifacts, and how long their handlers take to import.

Import times are of a whole process of the runtime's interpreter that imports the handler from the
artifact, over one that imports nothing.
"""

import os
import subprocess
from pathlib import Path

import pytest

from infra.build.artifact import ROOT, function_names
from tests.bench.measure import compare, keep
from tests.infra.isolated import RUNTIME, logical_id

BUILT = ROOT / ".aws-sam" / "build"


def _artifact(function: str) -> Path:
    folder = BUILT / logical_id(function)
    if not folder.is_dir():
        pytest.fail("nothing is built: run the benchmarks through `make bench`")
    return folder


def test_artifact_sizes_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    sizes: dict[str, object] = {
        function: sum(p.stat().st_size for p in _artifact(function).rglob("*") if p.is_file())
        for function in function_names()
    }

    with capsys.disabled():
        print("\nartifacts, unzipped, of Lambda's 262.1 MB:")
        for function, size in sizes.items():
            print(f"  {function:<10} {int(str(size)) / 1e6:7.1f} MB")
    keep("artifact sizes", sizes)
    assert all(int(str(size)) < 262_144_000 for size in sizes.values())


@pytest.mark.parametrize("function", function_names())
def test_import_time_over_an_empty_process(
    function: str, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "AWS_DEFAULT_REGION": "us-east-1",
        "POWERTOOLS_TRACE_DISABLED": "true",
    }

    def run(code: str) -> None:
        subprocess.run(
            [str(RUNTIME), "-I", "-c", code], env=environment, check=True, capture_output=True
        )

    folder = str(_artifact(function))
    measured = compare(
        f"import {function}",
        lambda: run(f"import sys; sys.path.insert(0, {folder!r}); import handler"),
        lambda: run("pass"),
        rounds=5,
    )

    with capsys.disabled():
        measured.tell()
    assert measured.ratio > 1

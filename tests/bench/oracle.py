"""Asks Evidently and NannyML, which install only in an environment of their own (`make setup-oracles`)."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

_PROJECT: Final = Path(__file__).resolve().parents[2]
_PYTHON: Final = _PROJECT / ".tools" / "oracles" / "bin" / "python"


def ask(question: str, folder: Path, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """What they answer; skips the test that asks where their environment is missing.

    Args:
        question: A script of ``tests/bench/oracles``.
        folder: Takes what goes there and back.
        arrays: What the script reads.
    """
    if not _PYTHON.exists():
        pytest.skip("the oracles' environment is missing: make setup-oracles")
    np.savez(folder / "asked.npz", **arrays)
    script = _PROJECT / "tests" / "bench" / "oracles" / f"{question}.py"
    subprocess.run(
        [_PYTHON, script, folder / "asked.npz", folder / "answers.json"],
        check=True,
        timeout=500,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "NML_DISABLE_USAGE_LOGGING": "1",
            "DO_NOT_TRACK": "1",
            "PYTHONWARNINGS": "ignore",
        },
    )
    said: dict[str, Any] = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    return said

"""Starts the programs and takes their answers."""

import json
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from millrace_cli.cloud import tools_folder

HERE: Final = Path(__file__).parent
PROJECT: Final = HERE.parents[1]
_SECONDS: Final = 120


def ask(client: str, plan: dict[str, Any]) -> dict[str, Any]:
    """What a public client was answered.

    Args:
        client: A program of this folder, without ``ask_``.
        plan: What it shall ask; see the program.
    """
    python = tools_folder(PROJECT).absolute() / "clients" / "bin" / "python"
    if not python.exists():
        pytest.fail("the public clients are not installed: `make setup-clients`")
    done = subprocess.run(
        [str(python), "-I", str(HERE / f"ask_{client}.py")],
        input=json.dumps(plan),
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    answered: dict[str, Any] = json.loads(done.stdout)
    return answered

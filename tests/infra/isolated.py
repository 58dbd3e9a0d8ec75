"""A built artifact, run alone: nothing but itself, the standard library and Lambda's runtime."""

import json
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from infra.build.artifact import FUNCTIONS, ROOT

RUNTIME = ROOT / ".tools" / "runtime" / "bin" / "python"


def logical_id(function: str) -> str:
    """The function's name in template.yaml."""
    return f"{function.capitalize()}Function"


def make_artifact(function: str, target: Path) -> None:
    """Builds as `sam build` does."""
    subprocess.run(
        [
            "make",
            "--silent",
            "--makefile",
            str(ROOT / "infra/build/Makefile"),
            f"build-{logical_id(function)}",
        ],
        cwd=FUNCTIONS / function,
        env={**os.environ, "ARTIFACTS_DIR": str(target)},
        check=True,
        timeout=300,
    )


class Artifacts(dict[str, Path]):
    """Artifacts by function, each built from the code as it is now when first asked for."""

    def __init__(self, place: Path) -> None:
        super().__init__()
        self._place = place

    def __missing__(self, function: str) -> Path:
        target = self._place / function
        make_artifact(function, target)
        self[function] = target
        return target


# Reads one event a line, answers one line on the descriptor it is given: what a function prints
# is its log. `-I` keeps the working folder, PYTHONPATH and the user's packages out.
_SERVE = """
import json, sys, traceback
artifact, answers = sys.argv[1], open(int(sys.argv[2]), "w", encoding="utf-8")
sys.path.insert(0, artifact)

class Context:
    function_name = "isolated"
    memory_limit_in_mb = 1024
    invoked_function_arn = "arn:aws:lambda:us-east-1:123456789012:function:isolated"
    aws_request_id = "6f4c9d0e-0000-4000-8000-000000000000"

    def get_remaining_time_in_millis(self):
        return 300_000

import handler
for line in sys.stdin:
    try:
        answer = {"result": handler.handler(json.loads(line), Context())}
    except Exception as exc:
        answer = {"error": type(exc).__name__, "message": "".join(traceback.format_exception(exc))}
    answer["packages"] = sorted({name.partition(".")[0] for name in sys.modules})
    print(json.dumps(answer), file=answers, flush=True)
"""


def environment(**variables: str) -> dict[str, str]:
    """What a function sees of the environment: no more than Lambda would give it."""
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": "/tmp",
        "LANG": "en_US.UTF-8",
        "TZ": "UTC",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_EC2_METADATA_DISABLED": "true",
        **variables,
    }


def run_alone(artifact: Path, code: str, **variables: str) -> str:
    """Runs code with the artifact as the only import path besides the runtime's own.

    Returns:
        What the code printed.
    """
    done = subprocess.run(
        [RUNTIME, "-I", "-B", "-c", f"import sys; sys.path.insert(0, {str(artifact)!r})\n{code}"],
        env=environment(**variables),
        cwd=artifact.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{artifact.name}: {done.stderr[-4000:]}"
    return done.stdout


class HandlerError(Exception):
    """The handler raised; the message begins with the error's name, as Step Functions sees it."""


class IsolatedFunction:
    """One artifact in a process of its own that stays warm between invocations."""

    def __init__(self, artifact: Path, log: Path, **variables: str) -> None:
        self.name = artifact.name
        self.packages: frozenset[str] = frozenset()
        """What the process had imported when it answered last."""
        self._log_path = log
        self._log = log.open("w", encoding="utf-8")
        reading, writing = os.pipe()
        self._process = subprocess.Popen(
            [RUNTIME, "-I", "-B", "-c", _SERVE, str(artifact), str(writing)],
            env=environment(**variables),
            cwd=artifact.parent,
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            pass_fds=[writing],
            text=True,
        )
        os.close(writing)
        self._answers = os.fdopen(reading, encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()
        self._log.close()

    def invoke(self, event: dict[str, Any]) -> Any:
        """Calls the handler.

        Raises:
            HandlerError: The handler raised, or the process ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(event) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._process.wait(timeout=10)
        line = self._answers.readline()
        if not line:
            log = self._log_path.read_text(encoding="utf-8")[-4000:]
            raise HandlerError(f"{self.name} ended without an answer: {log}")
        answer = json.loads(line)
        self.packages = frozenset(answer["packages"])
        if "error" in answer:
            raise HandlerError(f"{answer['error']} in {self.name}: {answer['message']}")
        return answer["result"]

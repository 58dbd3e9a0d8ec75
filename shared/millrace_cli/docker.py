"""Whether Docker can be used here, and what to say when not.

Standard library only, like everything that the embedded cloud's life needs.
"""

import os
import shutil
import subprocess
from pathlib import Path

ANSWER_SECONDS = 20.0
COMPOSE_FILE = Path("infra", "localstack", "compose.yaml")


def why_not() -> str | None:
    """Why Docker cannot be used, as the end of a sentence; None when it can.

    Asked are the engine itself, since the command line may be there without one, and Compose.
    """
    docker = shutil.which("docker")
    if docker is None:
        return "`docker` is not on PATH"
    for question, meaning in (
        (["info", "--format", "{{.ServerVersion}}"], "no Docker engine answers"),
        (["compose", "version", "--short"], "Docker has no Compose plug-in"),
    ):
        try:
            answer = subprocess.run(
                [docker, *question],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=ANSWER_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"`docker {question[0]}` did not answer within {ANSWER_SECONDS:.0f} s"
        except OSError as exc:
            return f"`docker` does not run: {exc.strerror}"
        if answer.returncode != 0:
            last = (answer.stderr.strip().splitlines() or ["no reason was given"])[-1]
            # Docker adds a question of its own: "Is the docker daemon running?"
            return f"{meaning}: {last.partition('. ')[0]}"
    return None


def socket_path() -> str:
    """Where the engine's socket is, for LocalStack to start functions through."""
    host = os.environ.get("DOCKER_HOST", "")
    return host.removeprefix("unix://") if host.startswith("unix://") else "/var/run/docker.sock"

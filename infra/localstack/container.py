"""Keeps LocalStack's container for as long as this process lives.

Started by ``millrace_cli.cloud`` as ``python -m infra.localstack.container``, so that a cloud is one
process to watch, to log and to stop, whether LocalStack is that process or runs in Docker.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from infra.local.lifeline import end_with_owner

COMPOSE_FILE = Path(__file__).with_name("compose.yaml")
STOP_SECONDS = 20


def main() -> None:
    """Runs ``docker compose up`` until SIGTERM or its own end, and removes what it made."""
    command = [
        "docker",
        "compose",
        "--project-name",
        os.environ["MILLRACE_COMPOSE_PROJECT"],
        "--file",
        str(COMPOSE_FILE),
    ]
    # A session of its own: the signal that stops this process is passed on once, not twice.
    up = subprocess.Popen(
        [*command, "up", "--no-color", "--no-log-prefix", "--abort-on-container-exit"],
        start_new_session=True,
    )

    def stop(_signal: int, _frame: FrameType | None) -> None:
        up.terminate()

    signal.signal(signal.SIGTERM, stop)
    end_with_owner()
    try:
        code = up.wait()
    finally:
        subprocess.run([*command, "down", "--volumes", "--timeout", str(STOP_SECONDS)], check=False)
    sys.exit(code)


if __name__ == "__main__":
    main()

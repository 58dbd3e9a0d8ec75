"""Runs the server: ``python -m millrace.server``, which is what `millrace serve` becomes.

The settings come from the environment (`server.settings`). With several workers this process is
their parent: it starts them, replaces one that died, and passes a stop on. SIGTERM and Ctrl-C stop
gracefully: no new connections, running requests get `stop_seconds` to end, and the exit code is 0.
"""

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

import uvicorn

from millrace.bundle import Shelf
from millrace.errors import MillraceError
from millrace.server.keys import read_keys
from millrace.server.metrics import FOLDER_VARIABLE
from millrace.server.protocol import DirectProtocol
from millrace.server.settings import ServerSettings
from millrace.settings import PREFIX

FAILED = 1


def main() -> int:
    """Serves until it is told to stop.

    Returns:
        The exit code.
    """
    try:
        settings = ServerSettings.from_environment()
        # Whatever is wrong is said here, once; a worker starts with what is there.
        Shelf(settings.bundles, on_damage=lambda *_: None).open()
        if settings.api_key_file is not None:
            read_keys(settings.api_key_file)
    except MillraceError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return FAILED
    folder = Path(tempfile.mkdtemp(prefix="millrace-serve-"))
    try:
        os.environ[f"{PREFIX}RUN_FOLDER"] = str(folder)
        if settings.workers > 1:
            os.environ[FOLDER_VARIABLE] = str(folder)
        # uvicorn raises the signal again once it has stopped; it has had its effect by then.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _stopped)
        uvicorn.run(
            "millrace.server.app:create",
            factory=True,
            host=settings.host,
            port=settings.port,
            workers=settings.workers,
            loop="uvloop",
            http=DirectProtocol,
            ws="none",
            lifespan="on",
            access_log=False,
            server_header=False,
            # Neither the caller's address nor the scheme matters to any answer.
            proxy_headers=False,
            limit_concurrency=settings.max_connections,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=settings.stop_seconds,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _stopped(_signal: int, _frame: FrameType | None) -> None:
    """Takes note of a stop that was carried out."""


if __name__ == "__main__":
    sys.exit(main())

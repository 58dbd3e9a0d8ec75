"""The embedded cloud's process: MiniStack with its gaps closed.

Started by ``millrace_cli.cloud`` as ``python -m infra.local.host`` with the interpreter that has
MiniStack; configured by environment variables only, MiniStack's own and ``MILLRACE_CLOUD_*``.
"""

import importlib
import importlib.metadata
import os
import signal
import sys
import threading
from pathlib import Path

from infra.local.executor import Executor
from infra.local.gaps import close_gaps

MINISTACK_VERSION = "1.5.33"


def main() -> None:
    """Serves until SIGTERM, then saves and stops every function process."""
    os.chdir(Path(__file__).parents[2])
    installed = importlib.metadata.version("ministack")
    if installed != MINISTACK_VERSION:
        sys.exit(f"expected ministack {MINISTACK_VERSION}, found {installed}: run `make setup`")
    endpoint = f"http://127.0.0.1:{os.environ['GATEWAY_PORT']}"
    calls = os.environ.get("MILLRACE_CLOUD_CALLS")
    executor = Executor(
        interpreter=Path(os.environ["MILLRACE_CLOUD_RUNTIME"]),
        code=Path(os.environ["MILLRACE_CLOUD_CODE"]),
        scratch=Path(os.environ["MILLRACE_CLOUD_SCRATCH"]),
        limit=int(os.environ["MILLRACE_CLOUD_WORKERS"]),
        calls=None if calls is None else Path(calls),
    )
    lifeline = os.environ.get("MILLRACE_CLOUD_LIFELINE")
    if lifeline is not None:
        threading.Thread(target=_end_with_owner, args=(int(lifeline),), daemon=True).start()
    close_gaps(executor, endpoint)
    app = importlib.import_module("ministack.app")
    sys.argv = ["ministack"]
    try:
        app.main()
    finally:
        executor.close()


def _end_with_owner(descriptor: int) -> None:
    """Ends an ephemeral cloud when its owner's end of the pipe closes, however the owner ended."""
    while os.read(descriptor, 1):
        continue
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()

"""The embedded cloud's process: MiniStack with its gaps closed.

Started by ``millrace_cli.cloud`` as ``python -m infra.local.host`` with the interpreter that has
MiniStack; configured by environment variables only, MiniStack's own and ``MILLRACE_CLOUD_*``.
"""

import importlib
import importlib.metadata
import os
import sys
from pathlib import Path

from infra.local.executor import Executor
from infra.local.gaps import close_gaps
from infra.local.lifeline import end_with_owner

MINISTACK_VERSION = "1.5.33"


def main() -> None:
    """Serves until SIGTERM, then saves and stops every function process."""
    os.chdir(Path(__file__).parents[2])
    installed = importlib.metadata.version("ministack")
    if installed != MINISTACK_VERSION:
        sys.exit(f"expected ministack {MINISTACK_VERSION}, found {installed}: run `make setup`")
    endpoint = f"http://127.0.0.1:{os.environ['GATEWAY_PORT']}"
    executor = Executor.of_environment()
    end_with_owner()
    close_gaps(executor, endpoint)
    app = importlib.import_module("ministack.app")
    sys.argv = ["ministack"]
    try:
        app.main()
    finally:
        executor.close()


if __name__ == "__main__":
    main()

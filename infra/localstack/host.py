"""LocalStack as a process of this machine, with its gaps closed.

Started by ``millrace_cli.cloud`` as ``python -m infra.localstack.host`` with the interpreter that
has LocalStack; configured by environment variables only, LocalStack's own and
``MILLRACE_CLOUD_*``.
"""

import importlib
import importlib.metadata
import logging
import os
import sys
from pathlib import Path

from infra.local.executor import Executor
from infra.local.lifeline import end_with_owner
from infra.localstack import loopback
from infra.localstack.gaps import close_gaps

LOCALSTACK_VERSION = "4.14.0"


def main() -> None:
    """Serves until SIGTERM, then stops every function process."""
    os.chdir(Path(__file__).parents[2])
    installed = importlib.metadata.version("localstack-core")
    if installed != LOCALSTACK_VERSION:
        sys.exit(
            f"expected localstack-core {LOCALSTACK_VERSION}, found {installed}: "
            "run `make setup-localstack`"
        )
    loopback.stay()
    end_with_owner()
    executor = Executor.of_environment()
    close_gaps(executor, f"http://{os.environ['GATEWAY_LISTEN']}")
    runtime = importlib.import_module("localstack.runtime.main")
    code: object = 1
    try:
        runtime.main()
    except SystemExit as ended:
        code = ended.code
    finally:
        executor.close()
        logging.shutdown()
        sys.stdout.flush()
        # A service that is first used while LocalStack stops starts threads that nobody ends.
        os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    main()

"""Starts AWS's runtime interface client in a function process.

Run by the runtime's interpreter with ``-S``: the import path is then built here in Lambda's
order, the function's own packages before the runtime's, so that an artifact that forgets a
dependency fails here as it would on AWS, and one that carries its own wins.
"""

import os
import sys
from pathlib import Path


def die_with(parent: int) -> None:
    """Has Linux kill this process when its parent dies; elsewhere the closed runtime API does."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes
    import signal

    set_parent_death_signal = 1
    ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the embedded cloud ended while a function was starting")


def main() -> None:
    """Builds the import path and hands over to the runtime interface client."""
    die_with(int(sys.argv[1]))
    runtime = Path(os.environ["LAMBDA_RUNTIME_DIR"])
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    sys.path[0] = os.environ["LAMBDA_TASK_ROOT"]
    sys.path.append(str(runtime / "lib" / version / "site-packages"))
    sys.argv = ["awslambdaric", os.environ["_HANDLER"]]

    from awslambdaric.__main__ import main as serve

    serve(sys.argv)


if __name__ == "__main__":
    main()

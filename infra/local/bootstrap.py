"""Starts AWS's runtime interface client in a function process.

Run by the runtime's interpreter with ``-S``: the import path is then built here in Lambda's
order, the function's own packages before the runtime's, so that an artifact that forgets a
dependency fails here as it would on AWS, and one that carries its own wins.

Asked by an environment variable, which the function does not get to see, it first has the AWS calls
of the process recorded (``calls.py``).
"""

import importlib.util
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


def record_calls(folder: str) -> None:
    """Loads the recorder, which is no module on the function's path, and starts it."""
    place = Path(__file__).with_name("calls.py")
    spec = importlib.util.spec_from_file_location("millrace_recorded_calls", place)
    if spec is None or spec.loader is None:
        sys.exit(f"{place} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.record(folder)


def main() -> None:
    """Builds the import path and hands over to the runtime interface client."""
    die_with(int(sys.argv[1]))
    runtime = Path(os.environ["LAMBDA_RUNTIME_DIR"])
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    sys.path[0] = os.environ["LAMBDA_TASK_ROOT"]
    sys.path.append(str(runtime / "lib" / version / "site-packages"))
    sys.argv = ["awslambdaric", os.environ["_HANDLER"]]
    folder = os.environ.pop("MILLRACE_RECORD_CALLS", None)
    if folder is not None:
        record_calls(folder)

    from awslambdaric.__main__ import main as serve

    serve(sys.argv)


if __name__ == "__main__":
    main()

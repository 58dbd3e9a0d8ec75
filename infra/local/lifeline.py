"""Ends an ephemeral cloud with its owner, however the owner ends."""

import os
import signal
import threading

VARIABLE = "MILLRACE_CLOUD_LIFELINE"


def end_with_owner() -> None:
    """Watches the pipe named by the environment, when one is, and stops this process at its end."""
    descriptor = os.environ.get(VARIABLE)
    if descriptor is not None:
        threading.Thread(target=_watch, args=(int(descriptor),), daemon=True).start()


def _watch(descriptor: int) -> None:
    while os.read(descriptor, 1):
        continue
    os.kill(os.getpid(), signal.SIGTERM)

"""Something done again and again beside the emulator's own work."""

import logging
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)


def every(seconds: float, act: Callable[[], None]) -> None:
    """Does something again and again on a thread of its own, until the process ends."""

    def run() -> None:
        pause = threading.Event()
        while not pause.wait(seconds):
            try:
                act()
            except Exception:
                logger.exception("a periodic task of the embedded cloud failed")

    threading.Thread(target=run, daemon=True, name=act.__qualname__).start()

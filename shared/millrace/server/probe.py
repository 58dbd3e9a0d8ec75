"""Asks the server of this container whether it lives: ``python -m millrace.server.probe [ready]``.

For engines that run a command to know, where there is no curl. The exit code is 0 when it answers.
"""

import http.client
import os
import sys
from typing import Final

from millrace.settings import PREFIX

TIMEOUT_SECONDS: Final = 2


def main(arguments: list[str]) -> int:
    """Asks ``/v2/health/live``, or ``/v2/health/ready`` when told so.

    Args:
        arguments: ``ready``, or nothing.

    Returns:
        The exit code.
    """
    which = "ready" if arguments == ["ready"] else "live"
    port = int(os.environ.get(f"{PREFIX}PORT", "8080"))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", f"/v2/health/{which}")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as exc:
        sys.stderr.write(f"no answer on port {port}: {exc}\n")
        return 1
    finally:
        connection.close()
    if status != http.HTTPStatus.OK:
        sys.stderr.write(f"/v2/health/{which} answered {status}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

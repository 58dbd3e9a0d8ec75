"""Closes LocalStack's gaps in its container, which runs this as a script of its start.

``compose.yaml`` mounts it into ``/etc/localstack/init/start.d``, with ``infra`` beside it: LocalStack
runs a Python script there in its own process, before it answers. It goes on when a script fails;
here it must not, since what is missing would show much later and look like something else.
"""

import os
import sys
import traceback

sys.path.insert(0, "/opt/millrace")

try:
    from infra.localstack.gaps import close_gaps

    close_gaps(None, "http://127.0.0.1:4566")
except Exception:  # noqa: BLE001 - whatever it was, LocalStack would go on
    traceback.print_exc()
    os._exit(1)

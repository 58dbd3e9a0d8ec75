"""Closes LocalStack's gaps in its container, which runs this as a script of its start.

``compose.yaml`` mounts it into ``/etc/localstack/init/start.d``, with ``infra`` beside it: LocalStack
runs a Python script there in its own process, before it answers.
"""

import sys

sys.path.insert(0, "/opt/millrace")

from infra.localstack.gaps import close_gaps

close_gaps(None, "http://127.0.0.1:4566")

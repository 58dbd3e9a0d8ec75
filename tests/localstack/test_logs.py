"""What MiniStack is held to by ``tests/e2e/conformance/test_logs.py``, word for word."""

from tests.e2e.conformance.test_logs import *  # noqa: F403 - pytest collects them here too

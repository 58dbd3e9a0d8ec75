"""What MiniStack is held to by ``tests/e2e/conformance/test_conditions.py``, word for word."""

from tests.e2e.conformance.test_conditions import *  # noqa: F403 - pytest collects them here too

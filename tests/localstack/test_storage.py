"""What MiniStack is held to by ``tests/e2e/conformance/test_storage.py``, word for word."""

from tests.e2e.conformance.test_storage import *  # noqa: F403 - pytest collects them here too

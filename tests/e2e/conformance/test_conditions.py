"""Conditions of a template."""

import pytest

from tests.e2e.conformance.conftest import Stack

pytestmark = pytest.mark.needs("deployment")


def test_a_number_is_compared_as_the_text_it_is(stack: Stack) -> None:
    assert stack.outputs["Copied"] == "no"

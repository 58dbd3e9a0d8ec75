"""Settings come from the environment, and a wrong environment is named."""

import pytest

from millrace.errors import ConfigurationError
from millrace.settings import EnvironmentSettings


class Settings(EnvironmentSettings):
    table_name: str
    refresh_seconds: float = 30


def test_fields_come_from_prefixed_variables() -> None:
    settings = Settings.from_environment(
        {"MILLRACE_TABLE_NAME": "t", "MILLRACE_REFRESH_SECONDS": "5", "TABLE_NAME": "other"}
    )

    assert (settings.table_name, settings.refresh_seconds) == ("t", 5)


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({}, "MILLRACE_TABLE_NAME"),
        (
            {"MILLRACE_TABLE_NAME": "t", "MILLRACE_REFRESH_SECONDS": "soon"},
            "MILLRACE_REFRESH_SECONDS",
        ),
    ],
    ids=["missing", "wrong"],
)
def test_a_wrong_environment_is_named(environ: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        Settings.from_environment(environ)

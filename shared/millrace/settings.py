"""Typed settings of a function, read from its environment once."""

import os
from collections.abc import Mapping
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from millrace.errors import ConfigurationError

PREFIX = "MILLRACE_"


class EnvironmentSettings(BaseModel):
    """Base of every function's settings: field ``table_name`` comes from ``MILLRACE_TABLE_NAME``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Reads and validates the settings.

        Args:
            environ: The environment; the process's own by default.

        Raises:
            ConfigurationError: Names the variables that are missing or wrong.
        """
        source = os.environ if environ is None else environ
        values = {
            name: source[PREFIX + name.upper()]
            for name in cls.model_fields
            if PREFIX + name.upper() in source
        }
        try:
            return cls.model_validate(values)
        except ValidationError as exc:
            names = ", ".join(
                f"{PREFIX}{str(e['loc'][0]).upper()} ({e['msg']})" for e in exc.errors()
            )
            raise ConfigurationError(f"the function's environment is wrong: {names}") from exc

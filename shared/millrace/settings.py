"""Typed settings of a function, read from its environment once."""

import dataclasses
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Self, dataclass_transform

from millrace.errors import ConfigurationError
from millrace.typed import WrongValue, make

PREFIX: Final = "MILLRACE_"


@dataclass_transform(frozen_default=True, kw_only_default=True)
class EnvironmentSettings:
    """Base of every function's settings: field ``table_name`` comes from ``MILLRACE_TABLE_NAME``.

    What derives from it is a frozen dataclass; its fields are texts and numbers.
    """

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True, kw_only=True)(cls)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Reads and checks the settings.

        Args:
            environ: The environment; the process's own by default.

        Raises:
            ConfigurationError: Names the variables that are missing or wrong.
        """
        fields = dataclasses.fields(cls)  # type: ignore[arg-type]  # __init_subclass__ made it one
        values = given([f.name for f in fields], environ)
        missing = [
            f.name for f in fields if f.default is dataclasses.MISSING and f.name not in values
        ]
        if missing:
            raise wrong_environment((name, "is required") for name in missing)
        try:
            return make(cls, values, from_text=True)
        except WrongValue as exc:
            raise wrong_environment([(exc.problem.field, exc.problem.message)]) from exc


def given(names: Iterable[str], environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables that the environment has, by the names of their fields."""
    source = os.environ if environ is None else environ
    return {n: source[PREFIX + n.upper()] for n in names if PREFIX + n.upper() in source}


def wrong_environment(problems: Iterable[tuple[str, str]]) -> ConfigurationError:
    """The error that names each wrong field's variable and what is wrong with it."""
    named = ", ".join(f"{PREFIX}{name.upper()} ({message})" for name, message in problems)
    return ConfigurationError(f"the function's environment is wrong: {named}")

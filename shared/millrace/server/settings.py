"""Settings of the server: the environment's, which `millrace serve` writes from its options."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from millrace.settings import PREFIX, given, wrong_environment

STDOUT: Final = "-"
OFF: Final = "off"


def _paths(value: object) -> object:
    return tuple(filter(None, value.split(os.pathsep))) if isinstance(value, str) else value


class ServerSettings(BaseModel):
    """Environment of the server; ``MILLRACE_BUNDLES`` and the like, all but it with a default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundles: Annotated[tuple[Path, ...], BeforeValidator(_paths), Field(min_length=1)]
    """Bundle files and folders of them, as PATH lists folders."""
    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65_535)
    workers: int = Field(default=1, ge=1, le=256)
    refresh_seconds: float = Field(default=5.0, gt=0, le=86_400)
    """How often the files are looked at again, at most."""
    capture: str = STDOUT
    """Where the line of each request goes: ``-``, ``off`` or a file."""
    api_key_file: Path | None = None
    """One key per line; without a file, nobody is asked for one."""
    public_key: Path | None = None
    """The key that must have signed what is served; without a file, nobody need have."""
    max_rows: int = Field(default=5_000, ge=1)
    max_body_mb: float = Field(default=6.0, gt=0, le=1_024)
    max_connections: int = Field(default=1_000, ge=1)
    """Per worker; above it, 503."""
    request_seconds: float = Field(default=30.0, gt=0, le=3_600)
    """How long a request's body may take to arrive."""
    stop_seconds: int = Field(default=20, ge=0, le=3_600)
    """How long running requests may take to end when the server stops."""
    model_cache_mb: int = Field(default=1_024, ge=1)
    """Per worker; the least recently used model goes first."""
    run_folder: Path | None = None
    """What several workers share while they run; `server.__main__` makes and removes it."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Reads and checks the settings.

        Args:
            environ: The environment; the process's own by default.

        Raises:
            ConfigurationError: Names the variables that are missing or wrong.
        """
        try:
            return cls.model_validate(given(cls.model_fields, environ))
        except ValidationError as exc:
            raise wrong_environment((str(e["loc"][0]), e["msg"]) for e in exc.errors()) from exc

    def as_environment(self) -> dict[str, str]:
        """The variables that give these settings."""
        values = {k: v for k, v in self if v is not None}
        values["bundles"] = os.pathsep.join(str(p) for p in self.bundles)
        return {PREFIX + name.upper(): str(value) for name, value in values.items()}

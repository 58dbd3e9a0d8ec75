"""The parameters that `samconfig.toml` gives each stage."""

import shlex
import tomllib

from infra.build.expansion import ROOT
from millrace.errors import ConfigurationError

CONFIG = ROOT / "samconfig.toml"
STAGES = {"dev": "default", "staging": "staging", "prod": "prod"}
"""Stage to its table in `samconfig.toml`; `sam deploy` alone is dev."""


def parameters_of(stage: str) -> dict[str, str]:
    """The parameters that a stage deploys with where they are not the template's defaults.

    Raises:
        ConfigurationError: There is no such stage.
    """
    if stage not in STAGES:
        raise ConfigurationError(f"the stage has to be one of {', '.join(STAGES)}, not {stage!r}")
    table = tomllib.loads(CONFIG.read_text("utf-8"))[STAGES[stage]]
    given = table["deploy"]["parameters"].get("parameter_overrides", "")
    pairs = given if isinstance(given, list) else shlex.split(given)
    return dict(pair.split("=", 1) for pair in pairs)

"""Stages of samconfig.toml, and the parameters a deployment is given."""

import difflib
import re
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from millrace.errors import FieldProblem, InvalidRequestError

PRODUCTION = "prod"
DEFAULT_STAGE = "dev"
_DEFAULT_SECTION = "default"
_CAPABILITIES = ("CAPABILITY_IAM", "CAPABILITY_NAMED_IAM")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of samconfig.toml.

    Attributes:
        name: What it is called on the command line.
        section: Its section, SAM's ``--config-env``.
        stack: Its CloudFormation stack.
        parameters: Parameters that the section sets.
        capabilities: What CloudFormation has to be told is meant.
        tags: Tags of the stack.
    """

    name: str
    section: str
    stack: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    capabilities: Sequence[str] = _CAPABILITIES
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def production(self) -> bool:
        """Whether people depend on it."""
        return self.name == PRODUCTION


def stages(config: Path) -> dict[str, Stage]:
    """The stages of a samconfig.toml by name: every section that names a stack.

    Raises:
        InvalidRequestError: The file is not TOML.
    """
    try:
        sections = tomllib.loads(config.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as exc:
        raise InvalidRequestError(f"{config.name} is not valid TOML: {exc}") from exc
    found = {}
    for section, verbs in sections.items():
        if not isinstance(verbs, dict):
            continue
        settings: dict[str, Any] = {
            **verbs.get("global", {}).get("parameters", {}),
            **verbs.get("deploy", {}).get("parameters", {}),
        }
        if "stack_name" not in settings:
            continue
        name = DEFAULT_STAGE if section == _DEFAULT_SECTION else section
        found[name] = Stage(
            name=name,
            section=section,
            stack=settings["stack_name"],
            parameters=_pairs(settings.get("parameter_overrides", "")),
            capabilities=tuple(_words(settings.get("capabilities", _CAPABILITIES))),
            tags=_pairs(settings.get("tags", "")),
        )
    return found


def stage_named(config: Path, name: str, *, stack: str | None = None) -> Stage:
    """One stage.

    Args:
        config: samconfig.toml.
        name: Its name.
        stack: Another stack name than the section's.

    Raises:
        InvalidRequestError: There is none of that name.
    """
    known = stages(config)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = (
            f"; did you mean {near[0]}?" if near else "; a new one is a section with a stack_name"
        )
        raise InvalidRequestError(
            f"expected a stage of {config.name} ({', '.join(known)}), got {name!r}{hint}"
        )
    found = known[name]
    if not stack:
        return found
    return Stage(
        name=found.name,
        section=found.section,
        stack=stack,
        parameters=found.parameters,
        capabilities=found.capabilities,
        tags=found.tags,
    )


def parse_parameters(text: str) -> dict[str, str]:
    """``Name=value`` pairs as a shell would read them: quotes keep spaces together.

    Raises:
        InvalidRequestError: Something is no pair, or a quote is left open.
    """
    example = "PARAMETERS=\"ApiAuthorizer=API_KEY NotificationEmail='you@example.com'\""
    try:
        words = shlex.split(text)
    except ValueError as exc:
        raise InvalidRequestError(f"PARAMETERS cannot be read ({exc}): expected {example}") from exc
    pairs: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.isalnum():
            raise InvalidRequestError(
                f"PARAMETERS: expected Name=value, got {word!r}; for example {example}"
            )
        if name in pairs and pairs[name] != value:
            raise InvalidRequestError(
                f"PARAMETERS names {name} twice: {pairs[name]!r} and {value!r}; give one"
            )
        pairs[name] = value
    return pairs


def check_parameters(declared: Mapping[str, Mapping[str, Any]], given: Mapping[str, str]) -> None:
    """Compares values with the template's own constraints, before anything is sent.

    Args:
        declared: The template's ``Parameters``.
        given: The values.

    Raises:
        InvalidRequestError: A name is unknown or a value is outside its constraints; every wrong
            one is listed.
    """
    problems = []
    for name, value in given.items():
        if name not in declared:
            near = difflib.get_close_matches(name, declared, n=1, cutoff=0.5)
            meant = f"did you mean {near[0]}?" if near else f"known: {', '.join(declared)}"
            problems.append(FieldProblem(name, f"the template has no such parameter; {meant}"))
            continue
        wrong = _wrong(declared[name], value)
        if wrong:
            problems.append(FieldProblem(name, wrong))
    if problems:
        raise InvalidRequestError(
            "nothing was sent: the parameters do not fit template.yaml", problems
        )


def _wrong(declaration: Mapping[str, Any], value: str) -> str:
    """What is wrong with a value, empty when nothing is."""
    allowed = [_text(a) for a in declaration.get("AllowedValues", ())]
    if allowed and value not in allowed:
        return f"expected one of {', '.join(allowed)}, got {value!r}"
    if declaration.get("Type") == "Number":
        try:
            number = float(value)
        except ValueError:
            return f"expected a number, got {value!r}"
        low, high = declaration.get("MinValue"), declaration.get("MaxValue")
        if (low is not None and number < float(low)) or (high is not None and number > float(high)):
            return f"expected {_range(low, high)}, got {value}"
        return ""
    pattern = declaration.get("AllowedPattern")
    if pattern and not re.fullmatch(str(pattern), value):
        wanted = declaration.get("ConstraintDescription") or f"a match of {pattern}"
        return f"expected {wanted}, got {value!r}"
    low, high = declaration.get("MinLength"), declaration.get("MaxLength")
    if (low is not None and len(value) < int(low)) or (high is not None and len(value) > int(high)):
        return f"expected {_range(low, high)} characters, got {len(value)}"
    return ""


def _range(low: object, high: object) -> str:
    if low is None:
        return f"at most {high}"
    return f"at least {low}" if high is None else f"{low} to {high}"


def _text(value: object) -> str:
    """A scalar of the template as CloudFormation reads it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _words(value: object) -> list[str]:
    return value.split() if isinstance(value, str) else [str(v) for v in _listed(value)]


def _listed(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else ()


def _pairs(value: object) -> dict[str, str]:
    """``A=b C=d`` as a string, a list or a table: SAM takes each."""
    if isinstance(value, dict):
        return {str(k): str(v) for k, v in value.items()}
    text = value if isinstance(value, str) else " ".join(str(v) for v in _listed(value))
    return {
        name: content
        for name, _, content in (word.partition("=") for word in shlex.split(text))
        if name
    }

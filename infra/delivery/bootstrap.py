"""The bootstrap stack: what a stage needs once, before any CI can deploy to it."""

import json
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from infra.delivery.place import Place
from infra.delivery.stack import (
    failures_since,
    find_stack,
    outputs_of,
    parse_template,
    refuse_unready,
)
from infra.delivery.stages import check_parameters
from millrace.errors import ConfigurationError, FieldProblem, FinalError, InvalidRequestError
from millrace_cli.deploy import run_tool, sam_executable

TEMPLATE = Path("infra") / "ci" / "bootstrap.yaml"


def bootstrap(
    project: Path,
    place: Place,
    name: str,
    given: Mapping[str, str],
    say: Callable[[str], None],
) -> dict[str, str]:
    """Deploys infra/ci/bootstrap.yaml; parameters that were given before stay.

    Args:
        project: The checkout.
        place: Account and region.
        name: Name of the stack.
        given: Parameters: which CI provider, which repository.
        say: Told what is being done.

    Returns:
        The stack's outputs.

    Raises:
        InvalidRequestError: Parameters do not fit the template.
        FinalError: The deployment failed.
    """
    file = project / TEMPLATE
    if not file.exists():
        raise ConfigurationError(f"{TEMPLATE} is missing: is this a whole checkout?")
    declared = parse_template(file.read_text(encoding="utf-8")).get("Parameters", {})
    stack = find_stack(place, name)
    refuse_unready(stack, place.region)
    check_parameters(declared, given)
    known = stack.parameters if stack else {}
    missing = [
        FieldProblem(n, str(d.get("Description", "expected a value")).strip())
        for n, d in declared.items()
        if n not in given and n not in known and "Default" not in d
    ]
    if missing:
        raise InvalidRequestError(
            f'nothing was sent: {TEMPLATE} needs PARAMETERS="{missing[0].field}=…"', missing
        )
    started = datetime.now(UTC)
    with tempfile.TemporaryDirectory(prefix="millrace-bootstrap-") as folder:
        parameters = Path(folder) / "parameters.yaml"
        parameters.write_text(json.dumps(dict(given)), encoding="utf-8")
        settings = Path(folder) / "samconfig.toml"
        settings.write_text("version = 0.1\n", encoding="utf-8")
        command = [
            str(sam_executable(project)),
            "deploy",
            "--template-file",
            str(file),
            "--config-file",
            str(settings),
            "--stack-name",
            name,
            "--region",
            place.region,
            "--capabilities",
            "CAPABILITY_NAMED_IAM",
            "--no-confirm-changeset",
            "--no-fail-on-empty-changeset",
            "--no-progressbar",
            *(["--parameter-overrides", f"file://{parameters}"] if given else []),
        ]
        try:
            run_tool(command, project, place.environment(), say)
        except FinalError as exc:
            failed = failures_since(place, name, started) if find_stack(place, name) else []
            if not failed:
                raise
            causes = "".join(f"\n  {line}" for line in failed)
            raise FinalError(f"the deployment of {name} failed, the cause first:{causes}") from exc
    return outputs_of(place, name)

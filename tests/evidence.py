"""What was exercised where, as a table for docs/testing.md.

Which e2e test needs which capability is read from the tests themselves (`@pytest.mark.needs`), what
an engine does from its declaration (`millrace_cli.engines`); only what tests of other kinds show is
written here. ``python -m tests.evidence`` writes the table into the page; a test holds the page to it.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from millrace_cli.engines import (
    AWS_CAPABILITIES,
    LOCALSTACK,
    MINISTACK,
    OF_PROCESSES,
    Capability,
)

TESTS: Final = Path(__file__).parent
PAGE: Final = TESTS.parent / "docs" / "testing.md"
BEGIN, END = "<!-- table: python -m tests.evidence -->", "<!-- end of table -->"


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What tests of other kinds than e2e show of a capability, as files below ``tests``.

    Attributes:
        what: The capability in a few words.
        unit: Without any AWS: pure rules and fakes.
        moto: Real handlers on moto, in the test's process.
        static: Read from template, roles, machine and artifacts.
    """

    what: str
    unit: tuple[str, ...] = ()
    moto: tuple[str, ...] = ()
    static: tuple[str, ...] = ()


ELSEWHERE: Final[dict[Capability, Elsewhere]] = {
    Capability.DEPLOYMENT: Elsewhere(
        "CloudFormation: SAM transform, change sets, outputs",
        unit=("unit/local/test_packing.py",),
        static=("infra/test_template.py", "infra/test_artifacts.py"),
    ),
    Capability.UPLOAD_EVENTS: Elsewhere(
        "S3 to EventBridge to Lambda, naming the object's version",
        moto=("integration/trigger/test_door.py",),
    ),
    Capability.OBJECT_VERSIONS: Elsewhere(
        "S3 keeps every version of an object",
        moto=("integration/registry/test_store_contract.py",),
        static=("infra/test_template.py",),
    ),
    Capability.TRANSACTIONS: Elsewhere(
        "DynamoDB transactions and conditions",
        unit=("unit/registry/test_conditions_matter.py", "unit/registry/test_invariants.py"),
        moto=(
            "integration/registry/test_table_contract.py",
            "integration/registry/test_concurrency.py",
        ),
    ),
    Capability.STATE_MACHINE: Elsewhere(
        "Step Functions: Map, Choice, Retry, Catch, one execution a name",
        moto=("integration/pipeline/test_machine.py", "integration/pipeline/test_pipeline.py"),
        static=("infra/test_training_machine.py",),
    ),
    Capability.EXECUTION_EVENTS: Elsewhere(
        "An execution that did not succeed reaches the registry",
        moto=("integration/registry/test_handler.py",),
    ),
    Capability.REST_API: Elsewhere(
        "API Gateway: REST API with Lambda proxy integrations",
        unit=("unit/http/test_operations.py", "unit/http/test_problems.py"),
        moto=("integration/api/test_api.py", "integration/predict/test_predict.py"),
        static=("infra/test_template.py",),
    ),
    Capability.AUTHORIZERS: Elsewhere(
        "API keys and tokens let in whom their roles permit, route by route",
        unit=("unit/http/test_guard.py", "unit/http/test_tokens.py"),
        moto=("integration/authorizer/test_handler.py",),
        static=("infra/test_roles.py", "infra/test_template.py"),
    ),
    Capability.RATES: Elsewhere(
        "Request rates and quotas of API keys end in 429", static=("infra/test_template.py",)
    ),
    Capability.PROBLEMS: Elsewhere(
        "The gateway's own refusals are problem details", static=("infra/test_template.py",)
    ),
    Capability.LOGS: Elsewhere(
        "CloudWatch Logs hold what functions log, with the ids",
        unit=("unit/core/test_observability.py",),
    ),
    Capability.EMBEDDED_METRICS: Elsewhere(
        "Powertools metrics (embedded metric format) reach CloudWatch",
        unit=("unit/core/test_observability.py", "unit/local/test_metrics.py"),
    ),
    Capability.SERVICE_METRICS: Elsewhere(
        "Lambda, Step Functions, API Gateway, SQS measure themselves"
    ),
    Capability.ALARMS: Elsewhere(
        "Alarms, also on metric math, ring, publish, and are quiet again",
        unit=("unit/local/test_alarms.py",),
        static=("infra/test_template.py",),
    ),
    Capability.SCHEDULES: Elsewhere(
        "A rule calls its function by a schedule",
        moto=("integration/trigger/test_calendar.py",),
        static=("infra/test_template.py",),
    ),
    Capability.NOTICES: Elsewhere(
        "SNS delivers notices and alarms to a subscriber",
        unit=("unit/registry/test_notices_and_calls.py",),
    ),
    Capability.DEAD_LETTERS: Elsewhere(
        "Failed events are retried, then kept as dead letters",
        moto=("integration/pipeline/test_replay.py",),
        static=("infra/test_template.py",),
    ),
    Capability.SIGNATURES: Elsewhere(
        "Requests without a valid signature are refused, and so is what IAM does not allow",
        unit=("unit/http/test_caller.py",),
        static=("infra/test_roles.py", "infra/test_template.py"),
    ),
    Capability.ROLES: Elsewhere(
        "Roles allow what is needed, and nothing else",
        static=("infra/test_access.py",),
    ),
    Capability.LIMITS: Elsewhere(
        "Memory, payload and package sizes, timeouts",
        unit=("unit/datasets/test_limits.py",),
        static=("infra/test_artifacts.py", "infra/test_training_machine.py"),
    ),
    Capability.ACCESS_LOGS: Elsewhere(
        "API Gateway writes access logs", static=("infra/test_template.py",)
    ),
    Capability.TRACES: Elsewhere("X-Ray records traces"),
    Capability.EXPIRY: Elsewhere(
        "Expired items, objects and logs are deleted", static=("infra/test_template.py",)
    ),
    Capability.ENCRYPTION: Elsewhere(
        "Encryption at rest and in transit", static=("infra/test_template.py",)
    ),
    Capability.RECOVERY: Elsewhere(
        "Point-in-time recovery of the table", static=("infra/test_template.py",)
    ),
    Capability.RETENTION: Elsewhere(
        "What the template retains outlives its stack",
        unit=("unit/delivery/test_plan.py",),
        moto=("integration/delivery/test_destruction.py",),
        static=("infra/test_template.py",),
    ),
    Capability.RECORDED_CALLS: Elsewhere(
        "Each AWS call of a function is one that its role grants",
        unit=("unit/access/test_needs.py", "unit/access/test_policies.py"),
        moto=("integration/access/test_watched.py",),
        static=("infra/test_rights.py", "infra/test_access.py"),
    ),
    Capability.DISPOSABLE: Elsewhere("Stages are made, rolled back and destroyed at will"),
    Capability.PIPELINES: Elsewhere(
        "Each pipeline's commands run in their order, with its roles' rights alone",
        static=("infra/test_ci_pipelines.py", "infra/test_ci_lint.py"),
    ),
}

RUN: Final = frozenset({"MiniStack", "LocalStack, process"})
"""Where the maintainers have run the suite. The other columns say what is ready to be run."""

COLUMNS: Final = {
    "MiniStack": (MINISTACK.capabilities, "e2e/conformance"),
    "LocalStack, process": (LOCALSTACK.capabilities, "localstack"),
    "LocalStack, Docker": (LOCALSTACK.capabilities - OF_PROCESSES, "localstack"),
    "AWS": (AWS_CAPABILITIES, None),
}
"""What an engine is declared to do, and the folder of its own tests."""


def needs_of(path: Path) -> dict[str, frozenset[str]]:
    """What each test of a file says it needs, the file's own marks included.

    Tests that it takes from another file with ``import *`` are its tests too.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    taken = {
        name: needs
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and [one.name for one in node.names] == ["*"]
        for name, needs in needs_of(_module(str(node.module))).items()
    }
    shared = frozenset(
        name
        for node in tree.body
        if isinstance(node, ast.Assign)
        and any(isinstance(t, ast.Name) and t.id == "pytestmark" for t in node.targets)
        for name in _needs(node.value)
    )
    return taken | {
        node.name: shared | {n for decorator in node.decorator_list for n in _needs(decorator)}
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def _module(name: str) -> Path:
    return TESTS.parent.joinpath(*name.split(".")).with_suffix(".py")


def _needs(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "needs"
        ):
            for argument in node.args:
                if isinstance(argument, ast.Constant):
                    yield str(argument.value)


def suite() -> list[Path]:
    """The files of the e2e suite, which every engine runs."""
    return sorted((TESTS / "e2e").glob("test_*.py"))


def needing(capability: Capability, files: list[Path]) -> list[str]:
    """Names of the files with a test that needs a capability, without ``test_``."""
    return [
        path.stem.removeprefix("test_")
        for path in files
        if any(capability in needs for needs in needs_of(path).values())
    ]


def table() -> str:
    """The table as Markdown."""
    heads = ["what Millrace relies on", "unit", "moto, in process", "checked statically"]
    heads += [name if name in RUN else f"{name} (never run)" for name in COLUMNS]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for capability, elsewhere in ELSEWHERE.items():
        cells = [f"**{capability}**: {elsewhere.what}"]
        cells += [
            _names(kind) or "–" for kind in (elsewhere.unit, elsewhere.moto, elsewhere.static)
        ]
        cells += [_cell(capability, column) for column in COLUMNS]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(capability: Capability, column: str) -> str:
    declared, own = COLUMNS[column]
    if capability not in declared:
        return "not done by it"
    found = needing(capability, suite())
    if own is not None:
        more = needing(capability, sorted((TESTS / own).glob("test_*.py")))
        found += [f"{Path(own).name}/{name}" for name in more]
    if not found:
        return "no test"
    return ", ".join(found) if column in RUN else "ready"


def _names(files: tuple[str, ...]) -> str:
    return ", ".join(
        f"{Path(file).parent.name}/{Path(file).stem.removeprefix('test_')}" for file in files
    )


def page_with_table(page: str) -> str:
    """The page with the table as it is now between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page_with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

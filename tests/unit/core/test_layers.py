"""Dependencies point inward, and each heavy library stays in the rooms that own it.

Read from the source, so that an import hidden in a function counts as well.
"""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

OWNERS = {
    "sklearn": ("millrace.learning",),
    "skl2onnx": ("millrace.learning",),
    "scipy": ("millrace.learning",),
    "onnx": ("millrace.learning",),
    "threadpoolctl": ("millrace.learning",),
    "google": ("millrace.learning",),
    "onnxruntime": (
        "millrace.onnx_session",
        "millrace.evaluation",
        "millrace.serving.model",
        "millrace.learning.parity",
        "millrace.learning.service",
        # An example for programs that have nothing of ours.
        "millrace_cli.edge",
    ),
    "duckdb": ("millrace.batch", "millrace.datasets", "millrace_cli"),
    "jinja2": ("millrace.evaluation", "millrace.http.pages", "millrace.monitoring"),
    "fastapi": ("millrace.http",),
    "starlette": ("millrace.http",),
    "mangum": ("millrace.http",),
    "orjson": (
        "millrace.aws.wire",
        "millrace.http",
        "millrace.server",
        "millrace.serving",
        "millrace.monitoring",
        "millrace.aws.logs",
    ),
    "cryptography": ("millrace.public_key",),
    "nanoarrow": ("millrace.serving.arrow",),
    "prometheus_client": ("millrace.server",),
    "uvicorn": ("millrace.server",),
    "aws_lambda_powertools": ("millrace.observability", "functions"),
    "boto3": ("millrace.aws.clients", "millrace_cli"),
    "botocore": ("millrace.aws", "millrace_cli"),
    "botocore.exceptions": ("millrace.aws.translate", "millrace_cli"),
    "typer": ("millrace_cli",),
    "rich": ("millrace_cli",),
    "httpx": ("millrace_cli",),
    "jwt": ("millrace.http.tokens",),
}
"""Module to those that may import it, or anything below it."""

NOBODYS = {"pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal", "pandas", "requests"}
"""What nothing here imports: what unpickles, and what is too large or not needed."""

FREE_OF_ALL = (
    "millrace.base64_text",
    "millrace.attestation",
    "millrace.decoding",
    "millrace.errors",
    "millrace.graphs",
    "millrace.layout",
    "millrace.messages",
    "millrace.onnx_graph",
    "millrace.plots",
    "millrace.settings",
    "millrace.signature",
    "millrace.spec",
    "millrace.typed",
    "millrace.vocabulary",
)
"""The core: it imports nothing of ours but itself."""

INWARD = {
    "millrace.bundle": ("millrace.registry.serving", *FREE_OF_ALL),
    "millrace.aws": ("millrace.attestation", "millrace.errors", "millrace.observability"),
    "millrace.registry": ("millrace.aws", "millrace.observability", *FREE_OF_ALL),
    "millrace.questions": (
        "millrace.__version__",
        "millrace.aws",
        "millrace.documents",
        "millrace.registry",
        "millrace.serving.identity",
        *FREE_OF_ALL,
    ),
    "millrace.datasets": (
        "millrace.aws",
        "millrace.documents",
        # Labelled predictions are rows of a dataset, too.
        "millrace.monitoring.captures",
        "millrace.monitoring.labelled",
        "millrace.monitoring.usable",
        *FREE_OF_ALL,
    ),
    "millrace.documents": ("millrace.aws.objects", "millrace.signature_file", *FREE_OF_ALL),
    "millrace.onnx_session": ("millrace.aws.objects", *FREE_OF_ALL),
    "millrace.signature_file": ("millrace.aws.objects", *FREE_OF_ALL),
    "millrace.batch": (
        "millrace.aws",
        "millrace.datasets",
        "millrace.documents",
        "millrace.onnx_session",
        "millrace.serving.codec",
        "millrace.serving.columns",
        "millrace.serving.features",
        "millrace.serving.model",
        *FREE_OF_ALL,
    ),
    "millrace.learning": (
        "millrace.aws",
        "millrace.datasets.table",
        "millrace.documents",
        "millrace.onnx_session",
        *FREE_OF_ALL,
    ),
    "millrace.evaluation": (
        "millrace.aws",
        "millrace.datasets.table",
        "millrace.documents",
        "millrace.onnx_session",
        "millrace.signature_file",
        # The baseline is made by those who will hold live rows against it.
        "millrace.monitoring.baseline",
        "millrace.monitoring.encoding",
        "millrace.monitoring.estimation",
        "millrace.monitoring.segments",
        "millrace.monitoring.spread",
        # The coverage that is measured is that of the sets that are served.
        "millrace.serving.intervals",
        *FREE_OF_ALL,
    ),
    "millrace.serving": (
        "millrace.aws",
        "millrace.observability",
        "millrace.onnx_session",
        "millrace.registry.serving",
        "millrace.signature_file",
        *FREE_OF_ALL,
    ),
}
"""Room to what of ours it may import besides itself."""


def module_of(path: Path) -> str:
    """The name a file is imported by."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[1:] if parts[0] == "shared" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    module_of(path): path
    for folder in ("shared", "functions")
    for path in sorted((ROOT / folder).rglob("*.py"))
}


@cache
def imported(module: str) -> frozenset[str]:
    """Every module that a module imports, wherever it does so; ``from a import b`` is ``a.b``."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(SOURCES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import hides where it leads"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def within(name: str, *packages: str) -> bool:
    """Whether a module is one of these, or lies below one."""
    return any(name == p or name.startswith(p + ".") for p in packages)


@pytest.mark.parametrize("module", SOURCES)
def test_a_library_stays_with_its_owners(module: str) -> None:
    strangers = {
        name
        for name in imported(module)
        for library, owners in OWNERS.items()
        if within(name, library) and not within(module, *owners)
    }

    assert strangers == set()
    assert not {name.partition(".")[0] for name in imported(module)} & NOBODYS


@pytest.mark.parametrize("module", SOURCES)
def test_dependencies_point_inward(module: str) -> None:
    names = imported(module)
    ours = {n for n in names if within(n, "millrace", "millrace_cli", "functions")}

    if within(module, "millrace"):
        assert not {n for n in names if within(n, "functions", "millrace_cli", "tests", "infra")}
    if within(module, "functions"):
        itself = ".".join(module.split(".")[:2])
        assert not {n for n in ours if not within(n, "millrace", itself)}
    if module in FREE_OF_ALL:
        assert not {n for n in ours if not within(n, *FREE_OF_ALL)}
    for room, allowed in INWARD.items():
        if within(module, room):
            assert {n for n in ours if not within(n, room, *allowed)} == set()


def test_packages_themselves_import_nothing() -> None:
    """Who imports one module of a room must not load the others."""
    packages = [m for m, path in SOURCES.items() if path.name == "__init__.py"]

    assert {m: imported(m) for m in packages if imported(m)} == {}

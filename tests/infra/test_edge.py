"""The edge bundle: its examples answer what the service answers, in Python and in JavaScript."""

import ast
import hashlib
import importlib.util
import json
import math
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from millrace.bundle import Bundle, Content, default_name, write_bundle
from millrace.spec import Algorithm, Task
from millrace_cli.bundles import EXAMPLES, example_rows
from tests.fakes.bundles import TRAINED_AT
from tests.unit.serving.pipelines import CITIES, PLANS, Pipeline, post, serve, trained

ROOT = Path(__file__).resolve().parents[2]
EDGE = ROOT / "shared" / "millrace_cli" / "edge"
NODE_MODULES = ROOT / "infra" / "build" / "node" / "node_modules"
NODE = shutil.which("node")

needs_node = pytest.mark.skipif(
    NODE is None or not (NODE_MODULES / "onnxruntime-web").is_dir(),
    reason="needs Node with onnxruntime-web: make setup-node",
)
PIPELINES = [
    (Task.BINARY, Algorithm.LINEAR),
    (Task.BINARY, Algorithm.RANDOM_FOREST),
    (Task.MULTICLASS, Algorithm.HIST_GRADIENT_BOOSTING),
    (Task.REGRESSION, Algorithm.HIST_GRADIENT_BOOSTING),
]
kinds = pytest.mark.parametrize(
    ("task", "algorithm"), PIPELINES, ids=[f"{t}-{a}" for t, a in PIPELINES]
)
WRONG: list[dict[str, Any]] = [
    {"age": None},
    {"age": "41"},
    {"age": 1.5},
    {"age": 2**53 + 2},
    {"age": True},
    {"ratio": 1e39},
    {"member": 1},
    {"plan": None},
    {"plan": " NA "},
    {"plan": "a\0b"},
    {"city": 7},
    {"surplus": 1},
]


@cache
def pipeline(task: Task, algorithm: Algorithm) -> Pipeline:
    """A pipeline that was really trained, on columns of every type."""
    return trained(task, algorithm)


@pytest.fixture
def unpacked(task: Task, algorithm: Algorithm, tmp_path: Path) -> Path:
    return unpack(pipeline(task, algorithm), tmp_path)


def unpack(of: Pipeline, folder: Path) -> Path:
    """Writes an edge bundle and unpacks it as a person would."""
    signature = of.signature.to_json()
    record = of.loaded.record
    archive = folder / default_name(record.model, record.version, "edge")
    manifest = write_bundle(
        archive,
        [
            Content("model.onnx", "model", of.fit.onnx, record.model_key),
            Content("signature.json", "signature", signature, record.signature_key),
            *(Content(name, "example", (EDGE / name).read_bytes()) for name in EXAMPLES),
        ],
        kind="edge",
        serving=replace(record, signature_sha256=_sha256(signature)),
        task=of.signature.task,
        algorithm=of.signature.algorithm,
        trained_at=TRAINED_AT,
    )
    assert Bundle.open(archive).manifest == manifest
    place = folder / "edge"
    with zipfile.ZipFile(archive) as zipped:
        zipped.extractall(place)
    return place


def rows_of_every_kind(count: int = 60) -> list[dict[str, Any]]:
    """Rows with missing values, unknown categories, and numbers at the edges of 32 bits."""
    random = np.random.default_rng(11)
    made = []
    for _ in range(count):
        row: dict[str, Any] = {
            "visits": int(random.integers(-(2**50), 2**50)),
            "age": int(random.integers(18, 90)),
            "ratio": float(random.normal() * 10.0 ** random.integers(-40, 38)),
            "income": float(random.lognormal(10, 1)),
            "member": bool(random.random() < 0.5),
            "agreed": bool(random.random() < 0.5),
            "city": str(random.choice([*CITIES, "Nowhere", " Graz\t", "", "\u00a0"])),
            "plan": str(random.choice([*PLANS, "never seen", "\ufeffbasic "])),
        }
        for name in ("visits", "ratio", "member", "city"):
            if random.random() < 0.15:
                row[name] = None
        made.append(row)
    return made


def served(of: Pipeline, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the service answers."""
    reply = post(serve(of.loaded), json.dumps({"rows": rows}).encode())
    assert reply.status == 200, reply.body
    answers: list[dict[str, Any]] = reply.json["predictions"]
    return answers


def same(here: list[dict[str, Any]], there: list[dict[str, Any]], scale: float) -> None:
    """Labels are equal, numbers to the last bits of 32: another build adds up in another order."""
    assert len(here) == len(there)
    for ours, theirs in zip(here, there, strict=True):
        assert ours.keys() == theirs.keys()
        if "value" in ours:
            assert math.isclose(ours["value"], theirs["value"], rel_tol=2e-6, abs_tol=1e-5 * scale)
            continue
        assert list(ours["probabilities"]) == list(theirs["probabilities"])
        for name, share in ours["probabilities"].items():
            assert math.isclose(share, theirs["probabilities"][name], abs_tol=2e-6)
        first, second = sorted(theirs["probabilities"].values())[-2:][::-1]
        assert ours["label"] == theirs["label"] or first - second < 4e-6


def python_example(folder: Path) -> ModuleType:
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("edge_example", folder / "python" / "predict.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def node_example(folder: Path, rows: Any) -> subprocess.CompletedProcess[str]:
    """Runs the JavaScript example as its documentation says, with the pinned packages."""
    if not (folder / "javascript" / "node_modules").exists():
        (folder / "javascript" / "node_modules").symlink_to(NODE_MODULES)
    (folder / "given.json").write_text(json.dumps(rows))
    return subprocess.run(
        [str(NODE), "predict.mjs", "../given.json"],
        cwd=folder / "javascript",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@kinds
def test_the_python_example_answers_what_the_service_answers(
    unpacked: Path, task: Task, algorithm: Algorithm
) -> None:
    of = pipeline(task, algorithm)
    rows = [*rows_of_every_kind(), *example_rows(of.signature)]

    answers = python_example(unpacked).Model(unpacked).predict(rows)

    assert answers == served(of, rows)


@needs_node
@kinds
def test_the_javascript_example_answers_what_the_service_answers(
    unpacked: Path, task: Task, algorithm: Algorithm
) -> None:
    of = pipeline(task, algorithm)
    rows = [*rows_of_every_kind(), *example_rows(of.signature)]

    done = node_example(unpacked, {"rows": rows})

    assert done.returncode == 0, done.stderr
    same(json.loads(done.stdout)["predictions"], served(of, rows), of.fit.target_scale)


@pytest.mark.parametrize("wrong", WRONG, ids=[str(w) for w in WRONG])
def test_what_the_service_refuses_the_python_example_refuses(
    tmp_path: Path, wrong: dict[str, Any]
) -> None:
    of = pipeline(*PIPELINES[0])
    row = rows_of_every_kind(1)[0] | wrong
    example = python_example(unpack(of, tmp_path))

    assert post(serve(of.loaded), json.dumps({"rows": [row]}).encode()).status == 422
    with pytest.raises(ValueError, match="row 0"):
        example.Model(tmp_path / "edge").predict([row])


@needs_node
def test_what_the_service_refuses_the_javascript_example_refuses(tmp_path: Path) -> None:
    folder = unpack(pipeline(*PIPELINES[0]), tmp_path)
    good = rows_of_every_kind(1)[0]
    # One process asks for all of them: starting one takes longer than everything else.
    (folder / "javascript" / "each.mjs").write_text(
        'import { readFile } from "node:fs/promises";\n'
        'import * as ort from "onnxruntime-web";\n'
        'import { load } from "./millrace.mjs";\n'
        "ort.env.wasm.numThreads = 1;\n"
        "const read = (name) => readFile(new URL(`../${name}`, import.meta.url));\n"
        'const model = await load({ ort, manifest: JSON.parse(await read("manifest.json")),\n'
        '  signature: await read("signature.json"), onnx: await read("model.onnx") });\n'
        'for (const row of JSON.parse(await read("given.json"))) {\n'
        '  await model.predict([row]).then(() => console.log("taken"),\n'
        "    (error) => console.log(error.message));\n"
        "}\n"
    )
    shutil.move(folder / "javascript" / "each.mjs", folder / "javascript" / "predict.mjs")

    done = node_example(folder, [good, *(good | wrong for wrong in WRONG)])

    first, *rest = done.stdout.splitlines()
    assert first == "taken", done.stderr
    assert len(rest) == len(WRONG)
    assert all(line.startswith("row 0: ") for line in rest), rest


@pytest.mark.parametrize("name", ["model.onnx", "signature.json"])
def test_the_examples_refuse_files_that_were_changed(tmp_path: Path, name: str) -> None:
    folder = unpack(pipeline(*PIPELINES[0]), tmp_path)
    body = (folder / name).read_bytes()
    (folder / name).write_bytes(body.replace(b"city", b"town") if name[0] == "s" else body[:-1])

    with pytest.raises(ValueError, match=f"{name} is not the file that was exported"):
        python_example(folder).Model(folder)
    if NODE is not None and NODE_MODULES.is_dir():
        done = node_example(folder, [])
        assert f"{name} is not the file that was exported" in done.stderr


def test_the_python_example_needs_onnxruntime_and_numpy_alone() -> None:
    tree = ast.parse((EDGE / "python" / "predict.py").read_text())
    names = {
        alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {
        (node.module or "").partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
    }

    assert names - sys.stdlib_module_names == {"numpy", "onnxruntime"}
    required = (EDGE / "python" / "requirements.txt").read_text().split()
    assert {line.partition(">")[0] for line in required} == {"numpy", "onnxruntime"}


def test_the_javascript_example_names_the_version_that_is_tested() -> None:
    example = json.loads((EDGE / "javascript" / "package.json").read_text())
    tested = json.loads((NODE_MODULES.parent / "package.json").read_text())

    assert example["dependencies"].items() <= tested["devDependencies"].items()


def test_every_file_of_the_examples_is_exported() -> None:
    found = {str(p.relative_to(EDGE)) for p in EDGE.rglob("*") if p.is_file()}

    assert {name for name in found if "__pycache__" not in name} == set(EXAMPLES)


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()

"""Puts together what one Lambda function ships: its dependencies, its code and `millrace`.

Called by infra/build/Makefile for `sam build`. The dependencies are installed for Lambda's
platform, whatever this machine is, then trimmed and compiled to bytecode; the resulting tree is
kept under .millrace/build-cache by the hash of everything that decides its content, so that only
a changed requirement file costs an installation. The code is copied fresh every time.

Nothing time- or path-dependent enters an artifact: an unchanged function keeps its checksum and
is not deployed again.
"""

import argparse
import compileall
import hashlib
import os
import py_compile
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FUNCTIONS = ROOT / "functions"
CACHE = ROOT / ".millrace" / "build-cache"

PYTHON_VERSION = "3.13"
# Lambda's python3.13 runs on Amazon Linux 2023, whose glibc is 2.34.
PLATFORM = "x86_64-manylinux_2_28"

# What no function needs at run time. Globs on the path inside the tree; a folder goes whole.
# tests/infra/test_artifacts.py runs a whole training and a prediction through the trimmed trees,
# and fails on a rule that no longer matches anything. Two things look idle and are not:
# onnxruntime's providers_shared library and numpy.typing. The *.libs folders are never stripped:
# that broke SciPy's OpenBLAS.
TRIM: tuple[str, ...] = (
    # Packages' own tests: 30 MB in scipy, scikit-learn and numpy together.
    "**/tests",
    "joblib/test",
    "numpy/_core/_simd.*.so",
    "onnx/backend/test",
    # For compilers and type checkers.
    "**/*.pyi",
    "**/*.pyx",
    "**/*.pxd",
    "**/*.pxi",
    "**/*.h",
    "**/*.cc",
    "**/*.cpp",
    "**/*.c",
    "**/*.f90",
    "**/*.f",
    "**/*.tp",
    "**/*.a",
    "**/*.proto",
    "**/meson.build",
    "numpy/_core/include",
    # Scripts: a function has no command line.
    "bin",
    # Installers' notes; METADATA, entry points and licences stay.
    "*.dist-info/RECORD",
    "*.dist-info/INSTALLER",
    "*.dist-info/REQUESTED",
    "*.dist-info/sboms",
    # The Python binding links the runtime statically and never opens this library.
    "onnxruntime/capi/libonnxruntime.so*",
    # Tools for making and shrinking models; inference uses none of them.
    "onnxruntime/datasets",
    "onnxruntime/quantization",
    "onnxruntime/tools",
    "onnxruntime/transformers",
    # A second engine, in Python, and test inputs for the first.
    "onnx/fuzz",
    "onnx/reference",
    # Rooms of SciPy and scikit-learn that neither of them enters on our way: SciPy loads them on
    # first use, and scikit-learn uses them for clustering, loading of sample data and plots.
    "scipy/cluster",
    "scipy/datasets",
    "scipy/differentiate",
    "scipy/fftpack",
    "scipy/io",
    "scipy/odr",
    "scipy/signal",
    "sklearn/datasets",
    # Powertools' own API browser; ours is FastAPI's.
    "aws_lambda_powertools/event_handler/openapi/swagger_ui/swagger-ui*",
    # For making bindings; `cryptography` needs only the compiled `_cffi_backend` beside them.
    "cffi",
    "pycparser",
    # libyaml's binding: `yaml.safe_load` is pure Python either way.
    "yaml/_yaml.*.so",
)

# Never part of the code, wherever it is copied from.
IGNORED = shutil.ignore_patterns(
    "__pycache__", "*.pyc", ".*", "requirements.in", "requirements.txt", "*.md"
)


# The part of `millrace` that runs on premises alone, on uvicorn, which no function has.
SERVER = ROOT / "shared" / "millrace" / "server"


class BuildError(Exception):
    """The artifact cannot be built; the message says why."""


def function_names() -> list[str]:
    """Every function of the deployment, by folder."""
    return sorted(path.parent.name for path in FUNCTIONS.glob("*/requirements.txt"))


def tree_key(function: str) -> str:
    """A name for the dependency tree, from all that decides its content."""
    locked = (FUNCTIONS / function / "requirements.txt").read_text("utf-8").splitlines()
    pins = "\n".join(line for line in locked if not line.lstrip().startswith("#"))
    digest = hashlib.sha256()
    for part in (
        pins.encode(),
        Path(__file__).read_bytes(),
        sys.version.encode(),
    ):
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.hexdigest()[:24]


def trimmed(tree: Path) -> Iterator[tuple[str, Path]]:
    """Pairs each path to leave out with the rule that says so."""
    for rule in TRIM:
        for path in sorted(tree.glob(rule)):
            yield rule, path


def compile_tree(tree: Path, *, prefix: str = "", workers: int = 1) -> bool:
    """Compiles every module below `tree`; the bytecode names paths relative to the artifact.

    Unchecked: Lambda's file times differ from ours, and a checked file would be compiled anew at
    every cold start. Python puts the real path into the code when it loads it.
    """
    return compileall.compile_dir(
        tree,
        maxlevels=64,
        stripdir=str(tree),
        prependdir=prefix or None,
        quiet=2,
        force=True,
        workers=workers,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )


def install(function: str, tree: Path) -> None:
    """Installs the function's locked dependencies into `tree`, for Lambda's platform."""
    command = [
        str(ROOT / ".venv/bin/uv"),
        "pip",
        "install",
        "--quiet",
        f"--python={sys.executable}",
        f"--python-version={PYTHON_VERSION}",
        f"--python-platform={PLATFORM}",
        "--only-binary=:all:",
        "--no-deps",
        "--require-hashes",
        f"--target={tree}",
        f"--requirements={FUNCTIONS / function / 'requirements.txt'}",
    ]
    try:
        subprocess.run(command, check=True, cwd=ROOT)
    except FileNotFoundError as exc:
        raise BuildError(f"{command[0]} is missing: run `make setup` first") from exc
    except subprocess.CalledProcessError as exc:
        raise BuildError(
            f"installing the dependencies of {function} ended with exit code {exc.returncode}"
        ) from exc


def dependency_tree(function: str) -> Path:
    """The function's installed, trimmed and compiled dependencies; made once per content."""
    ready = CACHE / tree_key(function)
    if ready.is_dir():
        return ready / "tree"
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{function}-", dir=CACHE) as scratch:
        entry = Path(scratch) / "entry"
        tree = entry / "tree"
        install(function, tree)
        applied = set()
        for rule, path in list(trimmed(tree)):
            applied.add(rule)
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        (tree / ".lock").unlink(missing_ok=True)
        (entry / "rules").write_text("\n".join(sorted(applied)), encoding="utf-8")
        # A module that does not compile (a template, another Python's syntax) only loads slower.
        compile_tree(tree, workers=os.cpu_count() or 1)
        try:
            entry.rename(ready)
        except OSError:
            if not ready.is_dir():
                raise
            # Another build of the same requirements was quicker; its tree is the same.
    return ready / "tree"


def applied_rules(function: str) -> set[str]:
    """The trim rules that found something in the function's dependencies."""
    return set((dependency_tree(function).parent / "rules").read_text("utf-8").splitlines())


def link_or_copy(source: str, target: str) -> None:
    """Hard-links a file where the file system can, and copies it otherwise."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def ignored(folder: str, names: list[str]) -> set[str]:
    """The entries of a folder of code that no artifact gets."""
    outside = {name for name in names if Path(folder, name) == SERVER}
    return IGNORED(folder, names) | outside


def copy_code(source: Path, target: Path, prefix: str = "") -> None:
    """Copies a folder's code and compiles it."""
    with tempfile.TemporaryDirectory() as scratch:
        staged = Path(scratch) / "code"
        shutil.copytree(source, staged, ignore=ignored)
        if not compile_tree(staged, prefix=prefix):
            raise BuildError(f"{source.relative_to(ROOT)} holds a module that does not compile")
        shutil.copytree(staged, target, dirs_exist_ok=True)


def build(function: str, artifact: Path) -> None:
    """Builds one function's artifact into an empty or missing folder."""
    if function not in function_names():
        raise BuildError(
            f"there is no function {function!r} with a requirements.txt; "
            f"known are {', '.join(function_names())}"
        )
    if not (FUNCTIONS / function / "handler.py").is_file():
        raise BuildError(f"functions/{function}/handler.py is missing")
    if artifact.exists() and any(artifact.iterdir()):
        raise BuildError(f"{artifact} is not empty")
    shutil.copytree(
        dependency_tree(function), artifact, copy_function=link_or_copy, dirs_exist_ok=True
    )
    copy_code(ROOT / "shared" / "millrace", artifact / "millrace", "millrace")
    copy_code(FUNCTIONS / function, artifact)


def forget_stale_trees() -> None:
    """Removes the dependency trees that no function's requirements lead to any more."""
    current = {tree_key(function) for function in function_names()}
    for path in CACHE.glob("[!.]*"):
        if path.name not in current:
            # Another function's build may be removing the same one.
            shutil.rmtree(path, ignore_errors=True)


def main() -> int:
    """Builds the artifact named on the command line."""
    parser = argparse.ArgumentParser(description="Build one function's artifact.")
    parser.add_argument("function", help="the folder's name below functions/")
    parser.add_argument("artifact", type=Path, help="the folder to fill")
    arguments = parser.parse_args()
    if sys.version_info[:2] != (3, 13):
        print(f"needs Python {PYTHON_VERSION}, ran on {sys.version.split()[0]}", file=sys.stderr)
        return 1
    try:
        build(arguments.function, arguments.artifact)
    except BuildError as exc:
        print(f"cannot build {arguments.function}: {exc}", file=sys.stderr)
        return 1
    forget_stale_trees()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

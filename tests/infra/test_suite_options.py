"""What `--engine` and its companions accept and refuse, asked as a person would."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SIGNED = "test_a_request_without_a_signature_is_refused"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def person(tmp_path: Path) -> dict[str, str]:
    """The environment of somebody without any AWS settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "MAKE", "MFLAGS"))}
    return kept | {"HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"}


@pytest.fixture
def suite(person: dict[str, str]) -> Run:
    """Runs pytest with options of the e2e tests."""

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
        return subprocess.run(
            [*command, *arguments],
            cwd=ROOT,
            env=person | more,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        (["--engine", "aws"], {}, "name it with --stack NAME"),
        (["--engine", "aws", "--stack", "s"], {}, "found none: set AWS_PROFILE"),
        (
            ["--engine", "aws", "--stack", "s"],
            {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"},
            "no AWS region is set: pass --region",
        ),
        (["--engine", "aws", "--stack", "s", "--runtime", "docker"], {}, "--runtime belongs to"),
        (["--stack", "s"], {}, "--stack belongs to --engine aws"),
    ],
    ids=["no stack", "no credentials", "no region", "a runtime", "a stack and no aws"],
)
def test_a_run_that_cannot_be_is_refused_with_what_to_do(
    suite: Run, arguments: list[str], settings: dict[str, str], said: str
) -> None:
    done = suite(__file__, *arguments, **settings)

    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_make_test_aws_wants_the_name_of_a_stack(person: dict[str, str]) -> None:
    # The environments are there already; `-o setup` keeps make from looking after them.
    done = subprocess.run(
        ["make", "-o", "setup", "-o", "setup-ci", "test-aws"],
        cwd=ROOT,
        env=person,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode != 0
    assert "name it with STACK=name" in done.stderr


def test_a_skip_names_the_engine_and_what_it_lacks(suite: Run) -> None:
    done = suite("tests/e2e/test_bad_input.py", "-k", SIGNED)

    assert done.returncode == pytest.ExitCode.OK
    assert "1 skipped" in done.stdout
    assert "MiniStack is not declared to do: signatures" in done.stdout


@pytest.mark.parametrize(
    ("engine", "collected"), [("ministack", True), ("localstack", False)], ids=str
)
def test_an_engines_own_tests_run_for_it_alone(suite: Run, engine: str, collected: bool) -> None:
    done = suite("tests/e2e", "--engine", engine, "--collect-only", "-q")

    assert done.returncode == pytest.ExitCode.OK
    assert ("conformance/test_events.py" in done.stdout) is collected
    assert "test_pipeline.py" in done.stdout

"""How an engine is started: which program, with which settings, and where.

Standard library only: every verb of the command line imports this module.
"""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from millrace.errors import ConfigurationError
from millrace_cli import docker
from millrace_cli.engines import Engine

LOCAL_REGION = "us-east-1"
LOCAL_ACCOUNT = "000000000000"
TOOLS_VARIABLE = "MILLRACE_TOOLS"
WORKERS_PER_FUNCTION = 2
UNSUPPORTED = (
    "AWS::ApplicationAutoScaling::ScalableTarget,AWS::CloudWatch::Dashboard,"
    "AWS::Logs::QueryDefinition,AWS::WAFv2::WebACL,AWS::WAFv2::WebACLAssociation"
)
"""Types that LocalStack passes over, since it would refuse a template that has them behind a condition."""
LOCALSTACK_LIBRARIES = Path("usr", "lib", "localstack")
"""Below its root, what comes with LocalStack: the index of AWS's APIs (``infra/localstack/index``)."""

Runtime = Literal["process", "docker"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One start of an engine.

    Attributes:
        project: The checkout.
        folder: The cloud's folder.
        engine: What is started.
        runtime: As a process, or in Docker.
        port: Where it will listen on 127.0.0.1.
        wait_scale: What share of their length Step Functions' waits last.
        calls: Folder in which function processes record their AWS calls.
    """

    project: Path
    folder: Path
    engine: Engine
    runtime: Runtime
    port: int
    wait_scale: float
    calls: Path | None = None


def tools_folder(project: Path) -> Path:
    """Where ``make setup`` put the tools: ``$MILLRACE_TOOLS``, else ``<project>/.tools``."""
    chosen = os.environ.get(TOOLS_VARIABLE)
    return Path(chosen) if chosen else project / ".tools"


def choose_runtime(engine: Engine, wanted: Runtime | None) -> tuple[Runtime, str]:
    """What an engine runs on, and why, as a sentence's end.

    Raises:
        ConfigurationError: What was wanted cannot be had.
    """
    if not engine.containers:
        if wanted == "docker":
            raise ConfigurationError(
                f"{engine.title} runs as a process only: leave out --runtime docker"
            )
        return "process", f"{engine.title} needs no Docker"
    if wanted == "process":
        return "process", "it was asked for"
    missing = docker.why_not()
    if wanted == "docker" and missing:
        raise ConfigurationError(
            f"Docker was asked for, but {missing}; mend that, or say --runtime process"
        )
    if missing:
        return "process", missing
    return "docker", "it was asked for" if wanted else "a Docker engine answers"


def command(start: Start) -> list[str]:
    """The program to start.

    Raises:
        ConfigurationError: Something needed is missing.
    """
    module = Path(*start.engine.host.split(".")).with_suffix(".py")
    if not (start.project / module).exists():
        raise ConfigurationError(
            f"{start.project} is not a Millrace checkout: {module.parent} is missing"
        )
    if start.runtime == "docker":
        return [sys.executable, "-m", "infra.localstack.container"]
    return [str(_interpreter(start, start.engine.tools)), "-m", start.engine.host]


def environment(start: Start) -> dict[str, str]:
    """All the engine's process gets: nothing of the user's AWS settings can reach it."""
    kept = ["HOME", "LANG", "LC_ALL", "PATH", "TZ", "EMBEDDED_CLOUD_WITHOUT"]
    if start.runtime == "docker":
        kept += [name for name in os.environ if name.startswith("DOCKER_")]
    return (
        {k: os.environ[k] for k in kept if k in os.environ}
        | {
            "PYTHONPATH": str(start.project),
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(start.folder / "tmp"),
        }
        | _settings(start)
    )


def prepare_folder(start: Start) -> None:
    """Makes the folders that the engine writes to; what it would not read again is removed."""
    if not start.engine.keeps_state:
        for name in ("root", "tmp"):
            shutil.rmtree(start.folder / name, ignore_errors=True)
    names = {"ministack": ("state", "s3"), "localstack": ("root",)}[start.engine.name]
    for name in (*names, "functions", "tmp"):
        (start.folder / name).mkdir(parents=True, exist_ok=True)
    built = tools_folder(start.project).absolute() / start.engine.tools / LOCALSTACK_LIBRARIES
    if start.runtime == "process" and built.is_dir():
        link = start.folder / "root" / LOCALSTACK_LIBRARIES
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(built)


def _settings(start: Start) -> dict[str, str]:
    if start.runtime == "docker":
        if start.calls is not None:
            raise ConfigurationError(
                "calls of functions in containers are not recorded: say --runtime process"
            )
        return {
            "MILLRACE_CLOUD_PORT": str(start.port),
            "MILLRACE_CLOUD_WAIT_SCALE": str(start.wait_scale),
            "MILLRACE_COMPOSE_PROJECT": f"millrace-{start.port}",
            "MILLRACE_DOCKER_SOCKET": docker.socket_path(),
        }
    own = _of_ministack if start.engine.name == "ministack" else _of_localstack
    settings = own(start) | {
        "MILLRACE_CLOUD_CODE": str(start.project / ".millrace" / "code"),
        "MILLRACE_CLOUD_SCRATCH": str(start.folder / "functions"),
        "MILLRACE_CLOUD_RUNTIME": str(_interpreter(start, "runtime")),
        "MILLRACE_CLOUD_WORKERS": str(WORKERS_PER_FUNCTION),
    }
    if start.calls is not None:
        settings["MILLRACE_CLOUD_CALLS"] = str(start.calls.absolute())
    return settings


def _of_ministack(start: Start) -> dict[str, str]:
    return {
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(start.port),
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        "LAMBDA_EXECUTOR": "local",
        "LOG_LEVEL": "INFO",
        "MINISTACK_ACCOUNT_ID": LOCAL_ACCOUNT,
        "MINISTACK_REGION": LOCAL_REGION,
        "PERSIST_STATE": "1",
        "STATE_DIR": str(start.folder / "state"),
        "S3_PERSIST": "1",
        "S3_DATA_DIR": str(start.folder / "s3"),
        "SFN_WAIT_SCALE": str(start.wait_scale),
    }


def _of_localstack(start: Start) -> dict[str, str]:
    return {
        "GATEWAY_LISTEN": f"127.0.0.1:{start.port}",
        # It would write below /var, /etc and the home folder, and take itself for a container.
        "FILESYSTEM_ROOT": str(start.folder / "root"),
        "HOME": str(start.folder / "root"),
        "OVERRIDE_IN_DOCKER": "0",
        # Nothing is fetched, told or answered beyond this machine.
        "DISABLE_EVENTS": "1",
        "DNS_ADDRESS": "0",
        "SKIP_SSL_CERT_DOWNLOAD": "1",
        # A type that it cannot make is an error, not a resource that is not there.
        "CFN_IGNORE_UNSUPPORTED_RESOURCE_TYPES": "0",
        # Refused even where a condition leaves them out.
        "CFN_IGNORE_UNSUPPORTED_TYPE_CREATE": UNSUPPORTED,
        "CFN_IGNORE_UNSUPPORTED_TYPE_UPDATE": UNSUPPORTED,
        "LAMBDA_RUNTIME_EXECUTOR": "process",
        "PROVIDER_OVERRIDE_DYNAMODB": "moto",
        "PROVIDER_OVERRIDE_DYNAMODBSTREAMS": "moto",
        # Seconds; on AWS a failed event is tried again after one minute, and two later.
        "LAMBDA_RETRY_BASE_DELAY": "1",
        "SQS_CLOUDWATCH_METRICS_REPORT_INTERVAL": "2",
        "MILLRACE_CLOUD_WAIT_SCALE": str(start.wait_scale),
    }


def _interpreter(start: Start, tool: str) -> Path:
    # Not resolved: a virtual environment's python is a link, and it is the link that matters.
    python = tools_folder(start.project).absolute() / tool / "bin" / "python"
    if not python.exists():
        target = start.engine.setup if tool == start.engine.tools else "make setup"
        raise ConfigurationError(f"{python} is missing: run `{target}`")
    return python

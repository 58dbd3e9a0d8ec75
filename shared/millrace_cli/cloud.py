"""The embedded cloud's life: start, stop, state, logs, reset.

The cloud is one emulator of AWS (``engines.py``) in one ordinary process per project, bound to
127.0.0.1. Only one runs at a time. What it keeps lies below ``<project>/.millrace``, in a folder per
engine (``cloud`` for MiniStack, ``localstack`` for LocalStack)::

    cloud.json    which process runs, and where it answers (absent when none does)
    cloud.log     its log; cloud.log.1 is the one of the start before
    port          the port of the last start, taken again when it is free
    state/, s3/   what MiniStack saves; LocalStack keeps nothing over a stop
    root/         what LocalStack writes while it runs
    functions/    temporary folders of the Lambda functions

Beside them, ``code`` holds unpacked artifacts, by content, for every cloud of the project, and
``cloud.lock`` is held while one starts or stops.

Standard library only: every verb of the command line imports this module.
"""

import contextlib
import fcntl
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from millrace.errors import ConfigurationError, ServiceUnavailableError
from millrace_cli import hosts
from millrace_cli.engines import DEFAULT_ENGINE, ENGINES, Engine
from millrace_cli.hosts import (
    LOCAL_ACCOUNT,
    LOCAL_REGION,
    TOOLS_VARIABLE,
    Runtime,
    Start,
    tools_folder,
)

__all__ = [
    "LOCAL_ACCOUNT",
    "LOCAL_REGION",
    "TOOLS_VARIABLE",
    "CloudInfo",
    "cloud_folder",
    "down",
    "ephemeral",
    "forget_killed",
    "healthy",
    "killed",
    "logs",
    "reset",
    "status",
    "tools_folder",
    "up",
]

DEFAULT_PORT = 4566
START_SECONDS: Mapping[Runtime, float] = {"process": 120.0, "docker": 900.0}
"""An image may have to be fetched first."""
STOP_SECONDS = 45.0
ANSWER_SECONDS = 10.0
POLL_SECONDS = 0.05
TAIL_LINES = 30

WAIT_SCALE = 0.1
"""Step Functions waits and retry pauses last a tenth of what the machine says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudInfo:
    """A running embedded cloud.

    Attributes:
        pid: Its process.
        started: The process's start time as the system tells it, so that a recycled process id
            is never taken for it.
        port: Where it listens on 127.0.0.1.
        endpoint: ``AWS_ENDPOINT_URL`` for it.
        folder: Its folder, with log and saved state.
        engine: Which emulator it is.
        runtime: Whether the engine is that process, or runs in Docker.
        why: Why that runtime, as a sentence's end.
    """

    pid: int
    started: str
    port: int
    endpoint: str
    folder: Path
    engine: Engine = DEFAULT_ENGINE
    runtime: Runtime = "process"
    why: str = ""

    @property
    def log_file(self) -> Path:
        """The log of this start."""
        return self.folder / "cloud.log"

    @property
    def title(self) -> str:
        """Engine and runtime in words."""
        return f"{self.engine.title} {'in Docker' if self.runtime == 'docker' else 'as a process'}"

    def environment(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """``base`` (default: this process's environment) with every AWS setting pointing here."""
        kept = {k: v for k, v in (base or os.environ).items() if not k.startswith("AWS_")}
        return kept | {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": LOCAL_REGION,
            "AWS_REGION": LOCAL_REGION,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
            "SAM_CLI_TELEMETRY": "0",
            # `sam deploy` looks for progress every 5 s by default; here all is done in one.
            "SAM_CLI_POLL_DELAY": "0.2",
        }


def cloud_folder(project: Path, engine: Engine = DEFAULT_ENGINE) -> Path:
    """The folder of a project's embedded cloud."""
    return project.resolve() / ".millrace" / engine.folder


def up(
    project: Path,
    *,
    port: int | None = None,
    engine: Engine | None = None,
    runtime: Runtime | None = None,
) -> CloudInfo:
    """Starts the project's embedded cloud and waits until it answers; one that runs is kept.

    Args:
        project: The checkout.
        port: Port to listen on. Default: the last one, else 4566, else any free one.
        engine: Which emulator. Default: the one that runs, else MiniStack.
        runtime: As a process or in Docker. Default: what is there.

    Raises:
        ConfigurationError: Something needed is missing, the port is taken, another engine runs, or
            the cloud ended while starting; the message ends with the tail of its log.
        ServiceUnavailableError: It did not answer in time.
    """
    with _locked(project):
        running = status(project)
        if running is not None:
            _refuse_another(running, port, engine, runtime)
            _await_answer_of_running(running)
            return running
        forget_killed(project)
        chosen = engine or DEFAULT_ENGINE
        on, why = hosts.choose_runtime(chosen, runtime)
        folder = cloud_folder(project, chosen)
        start = Start(
            project=project.resolve(),
            folder=folder,
            engine=chosen,
            runtime=on,
            port=port if port is not None else _choose_port(folder),
            wait_scale=WAIT_SCALE,
        )
        return _start(start, why)


def down(project: Path) -> CloudInfo | None:
    """Stops the project's embedded cloud, after it has saved its state when it keeps one.

    Returns:
        What ran; None when none did.
    """
    with _locked(project):
        running = status(project)
        if running is not None:
            _stop(running)
        return running


def status(project: Path) -> CloudInfo | None:
    """The project's running embedded cloud, or None."""
    for engine in ENGINES.values():
        running = _running(cloud_folder(project, engine), engine)
        if running is not None:
            return running
    return None


def killed(project: Path) -> Engine | None:
    """The engine of an embedded cloud that was started, never stopped, and is gone."""
    if status(project) is not None:
        return None
    left = (e for e in ENGINES.values() if (cloud_folder(project, e) / "cloud.json").exists())
    return next(left, None)


def forget_killed(project: Path) -> None:
    """Forgets clouds that ended without being stopped."""
    for engine in ENGINES.values():
        folder = cloud_folder(project, engine)
        if _running(folder, engine) is None:
            (folder / "cloud.json").unlink(missing_ok=True)


def healthy(info: CloudInfo, *, timeout: float = 2.0) -> bool:
    """Whether a running cloud answers."""
    connection = http.client.HTTPConnection("127.0.0.1", info.port, timeout=timeout)
    try:
        connection.request("GET", info.engine.health)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def logs(project: Path, *, lines: int = 100, follow: bool = False) -> Iterator[str]:
    """The last lines of the log; with ``follow`` also what comes, until the cloud stops.

    The log is the running cloud's, else that of the one started last.

    Raises:
        ConfigurationError: The cloud was never started.
    """
    log = _log_of(project)
    if log is None:
        raise ConfigurationError("there is no log: start the cloud first (millrace local up)")
    with log.open(encoding="utf-8", errors="replace") as stream:
        yield from (line.rstrip("\n") for line in stream.readlines()[-lines:])
        while follow:
            line = stream.readline()
            if line:
                yield line.rstrip("\n")
            elif status(project) is None:
                return
            else:
                time.sleep(0.2)


def reset(project: Path) -> list[Engine]:
    """Stops the project's embedded cloud and deletes everything it kept.

    Returns:
        The engines whose clouds are gone: the one that ran, else every one that left something.
    """
    running = down(project)
    engines = [running.engine] if running else list(ENGINES.values())
    gone = [engine for engine in engines if cloud_folder(project, engine).exists()]
    for engine in gone:
        shutil.rmtree(cloud_folder(project, engine), ignore_errors=True)
    return gone


@contextlib.contextmanager
def ephemeral(
    project: Path,
    *,
    wait_scale: float = WAIT_SCALE,
    calls: Path | None = None,
    engine: Engine = DEFAULT_ENGINE,
    runtime: Runtime | None = None,
) -> Iterator[CloudInfo]:
    """A cloud of its own for a test run or a demo: free port, nothing kept, gone afterwards.

    It also ends when this process ends in any other way, killed included.

    Args:
        project: The checkout.
        wait_scale: What share of their length Step Functions' waits last.
        calls: Existing folder in which every function process records its AWS calls.
        engine: Which emulator.
        runtime: As a process or in Docker. Default: what is there.

    Raises:
        ConfigurationError: As ``up``.
        ServiceUnavailableError: As ``up``.
    """
    on, why = hosts.choose_runtime(engine, runtime)
    folder = Path(tempfile.mkdtemp(prefix="millrace-cloud-"))
    ours, theirs = os.pipe()
    try:
        start = Start(
            project=project.resolve(),
            folder=folder,
            engine=engine,
            runtime=on,
            port=_free_port(),
            wait_scale=wait_scale,
            calls=calls,
        )
        # The cloud holds the reading end and sees it close when this process is gone.
        info = _start(start, why, lifeline=ours)
        try:
            yield info
        finally:
            _stop(info)
    finally:
        os.close(ours)
        os.close(theirs)
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(project: Path) -> Iterator[None]:
    folder = project.resolve() / ".millrace"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "cloud.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _running(folder: Path, engine: Engine) -> CloudInfo | None:
    try:
        found = json.loads((folder / "cloud.json").read_text())
        info = CloudInfo(**found | {"folder": folder, "engine": engine})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as exc:
        raise ConfigurationError(
            f"{folder / 'cloud.json'} is not readable: delete it once no cloud runs"
        ) from exc
    return info if _started(info.pid) == info.started else None


def _refuse_another(
    running: CloudInfo, port: int | None, engine: Engine | None, runtime: Runtime | None
) -> None:
    """Refuses a start that asks for something else than what runs."""
    other: str | None = None
    if engine not in (None, running.engine):
        other = f"{running.title} already runs at {running.endpoint}, not {engine.title}"
    elif runtime not in (None, running.runtime):
        other = f"{running.title} already runs at {running.endpoint}"
    elif port not in (None, running.port):
        other = f"the embedded cloud already runs on port {running.port}, not {port}"
    if other is not None:
        raise ConfigurationError(
            f"{other}, and only one runs at a time: stop it first (millrace local down)"
        )


def _await_answer_of_running(info: CloudInfo) -> None:
    """Gives one that another command left half-started, or that hangs, a last chance."""
    deadline = time.monotonic() + ANSWER_SECONDS
    while not healthy(info):
        if time.monotonic() > deadline:
            raise ServiceUnavailableError(
                f"{info.title} runs (process {info.pid}) but does not answer on port {info.port}: "
                f"stop it (millrace local down) and start it again; its log ends:\n"
                f"{_tail(info.log_file)}"
            )
        time.sleep(POLL_SECONDS)


def _log_of(project: Path) -> Path | None:
    running = status(project)
    if running is not None:
        return running.log_file
    found = [cloud_folder(project, engine) / "cloud.log" for engine in ENGINES.values()]
    return max(
        (log for log in found if log.exists()), key=lambda log: log.stat().st_mtime, default=None
    )


def _start(start: Start, why: str, *, lifeline: int | None = None) -> CloudInfo:
    folder, port = start.folder, start.port
    command = hosts.command(start)
    if not _is_free(port):
        raise ConfigurationError(f"port {port} is taken on 127.0.0.1: choose another with --port")
    environment = hosts.environment(start)
    if lifeline is not None:
        environment["MILLRACE_CLOUD_LIFELINE"] = str(lifeline)
    hosts.prepare_folder(start)
    pid = _spawn(command, environment, folder, lifeline)
    info = CloudInfo(
        pid=pid,
        started=_started(pid) or "",
        port=port,
        endpoint=f"http://127.0.0.1:{port}",
        folder=folder,
        engine=start.engine,
        runtime=start.runtime,
        why=why,
    )
    try:
        # Before it answers: a start that is killed leaves no process that nobody knows of.
        _write_record(info)
        _await_health(info)
    except BaseException:
        _kill(info)
        _await_end(info, STOP_SECONDS)
        (folder / "cloud.json").unlink(missing_ok=True)
        raise
    (folder / "port").write_text(str(port))
    return info


def _write_record(info: CloudInfo) -> None:
    fields = ("pid", "started", "port", "endpoint", "runtime", "why")
    record = info.folder / "cloud.json.new"
    record.write_text(json.dumps({name: getattr(info, name) for name in fields}))
    record.replace(info.folder / "cloud.json")


def _spawn(
    command: list[str], environment: dict[str, str], folder: Path, lifeline: int | None
) -> int:
    """Starts a process in a session of its own that outlives this one, logging to the folder."""
    log = folder / "cloud.log"
    if log.exists():
        log.replace(folder / "cloud.log.1")
    write = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    if lifeline is not None:
        os.set_inheritable(lifeline, True)
    return os.posix_spawn(
        command[0],
        command,
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), write, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )


def _await_health(info: CloudInfo) -> None:
    seconds = START_SECONDS[info.runtime]
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if _started(info.pid) is None:
            raise ConfigurationError(
                f"{info.engine.title} ended while starting; its log ends:\n{_tail(info.log_file)}"
            )
        if healthy(info):
            return
        time.sleep(POLL_SECONDS)
    raise ServiceUnavailableError(
        f"{info.engine.title} did not answer on port {info.port} within {seconds:.0f} s; "
        f"its log ends:\n{_tail(info.log_file)}"
    )


def _stop(info: CloudInfo) -> None:
    """Asks the process to save and end; kills it with its group when it does not in time."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(info.pid, signal.SIGTERM)
    if not _await_end(info, STOP_SECONDS):
        _kill(info)
        _await_end(info, STOP_SECONDS)
        (info.folder / "cloud.json").unlink(missing_ok=True)
        raise ServiceUnavailableError(
            f"the embedded cloud did not stop within {STOP_SECONDS:.0f} s and was killed: what "
            f"changed since it started may be lost; its log ends:\n{_tail(info.log_file)}"
        )
    (info.folder / "cloud.json").unlink(missing_ok=True)


def _await_end(info: CloudInfo, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while _started(info.pid) == info.started:
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _kill(info: CloudInfo) -> None:
    # Function processes have groups of their own and die with their parent.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(info.pid, signal.SIGKILL)


def _started(pid: int) -> str | None:
    """When a process started, as an opaque text; None when it is gone (a zombie is gone)."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # Collects it when it is this process's own child.
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        state, ticks_since_boot = fields[0], fields[19]
        return None if state in "ZX" else ticks_since_boot
    found = subprocess.run(
        ["/bin/ps", "-o", "state=,lstart=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
    )
    state, _, when = found.stdout.strip().partition(" ")
    return None if found.returncode != 0 or state.startswith("Z") else when.strip()


def _choose_port(folder: Path) -> int:
    with contextlib.suppress(FileNotFoundError, ValueError):
        last = int((folder / "port").read_text())
        if _is_free(last):
            return last
    return DEFAULT_PORT if _is_free(DEFAULT_PORT) else _free_port()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _tail(log: Path) -> str:
    found = log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
    return "\n".join(found)

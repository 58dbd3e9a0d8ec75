"""The embedded cloud's life: start, stop, state, logs, reset.

The cloud is one ordinary process per project (``infra/local/host.py``), bound to 127.0.0.1. What
it keeps lies under ``<project>/.millrace/cloud``::

    cloud.json    which process runs, and where it answers (absent when none does)
    cloud.log     its log; cloud.log.1 is the one of the start before
    port          the port of the last start, taken again when it is free
    state/        what MiniStack saves on a clean stop
    s3/           objects, written as they come
    functions/    temporary folders of the Lambda functions
    lock          held while starting or stopping

Beside it, ``<project>/.millrace/code`` holds unpacked artifacts, by content, for every cloud of the
project.

Standard library only: every verb of the command line imports this module.
"""

import contextlib
import dataclasses
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

LOCAL_REGION = "us-east-1"
LOCAL_ACCOUNT = "000000000000"
DEFAULT_PORT = 4566
TOOLS_VARIABLE = "MILLRACE_TOOLS"

START_SECONDS = 60.0
STOP_SECONDS = 30.0
POLL_SECONDS = 0.05
TAIL_LINES = 30

WAIT_SCALE = 0.1
"""Step Functions waits and retry pauses last a tenth of what the machine says."""
WORKERS_PER_FUNCTION = 2


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
    """

    pid: int
    started: str
    port: int
    endpoint: str
    folder: Path

    @property
    def log_file(self) -> Path:
        """The log of this start."""
        return self.folder / "cloud.log"

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


def tools_folder(project: Path) -> Path:
    """Where ``make setup`` put the tools: ``$MILLRACE_TOOLS``, else ``<project>/.tools``."""
    chosen = os.environ.get(TOOLS_VARIABLE)
    return Path(chosen) if chosen else project / ".tools"


def cloud_folder(project: Path) -> Path:
    """The folder of a project's embedded cloud."""
    return project.resolve() / ".millrace" / "cloud"


def up(project: Path, *, port: int | None = None) -> CloudInfo:
    """Starts the project's embedded cloud and waits until it answers; one that runs is kept.

    Args:
        project: The checkout.
        port: Port to listen on. Default: the last one, else 4566, else any free one.

    Raises:
        ConfigurationError: Something needed is missing, the port is taken, or the cloud ended
            while starting; the message ends with the tail of its log.
        ServiceUnavailableError: It did not answer in time.
    """
    folder = cloud_folder(project)
    with _locked(folder):
        running = _running(folder)
        if running is not None:
            if port not in (None, running.port):
                raise ConfigurationError(
                    f"the embedded cloud already runs on port {running.port}, not {port}: "
                    "stop it first (millrace local down)"
                )
            return running
        chosen = port if port is not None else _choose_port(folder)
        return _start(project.resolve(), folder, chosen)


def down(project: Path) -> bool:
    """Stops the project's embedded cloud after it has saved its state; False when none ran."""
    folder = cloud_folder(project)
    with _locked(folder):
        running = _running(folder)
        if running is None:
            return False
        _stop(running)
        return True


def status(project: Path) -> CloudInfo | None:
    """The project's running embedded cloud, or None."""
    return _running(cloud_folder(project))


def healthy(info: CloudInfo, *, timeout: float = 2.0) -> bool:
    """Whether a running cloud answers."""
    connection = http.client.HTTPConnection("127.0.0.1", info.port, timeout=timeout)
    try:
        connection.request("GET", "/_ministack/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def logs(project: Path, *, lines: int = 100, follow: bool = False) -> Iterator[str]:
    """The last lines of the log; with ``follow`` also what comes, until the cloud stops.

    Raises:
        ConfigurationError: The cloud was never started.
    """
    folder = cloud_folder(project)
    log = folder / "cloud.log"
    if not log.exists():
        raise ConfigurationError(f"no log at {log}: start the cloud first (millrace local up)")
    with log.open(encoding="utf-8", errors="replace") as stream:
        yield from (line.rstrip("\n") for line in stream.readlines()[-lines:])
        while follow:
            line = stream.readline()
            if line:
                yield line.rstrip("\n")
            elif _running(folder) is None:
                return
            else:
                time.sleep(0.2)


def reset(project: Path) -> None:
    """Stops the project's embedded cloud and deletes everything it kept."""
    folder = cloud_folder(project)
    down(project)
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def ephemeral(
    project: Path, *, wait_scale: float = WAIT_SCALE, calls: Path | None = None
) -> Iterator[CloudInfo]:
    """A cloud of its own for a test run or a demo: free port, nothing kept, gone afterwards.

    It also ends when this process ends in any other way, killed included.

    Args:
        project: The checkout.
        wait_scale: What share of their length Step Functions' waits last.
        calls: Existing folder in which every function process records its AWS calls.

    Raises:
        ConfigurationError: As ``up``.
        ServiceUnavailableError: As ``up``.
    """
    folder = Path(tempfile.mkdtemp(prefix="millrace-cloud-"))
    ours, theirs = os.pipe()
    try:
        # The cloud holds the reading end and sees it close when this process is gone.
        info = _start(
            project.resolve(),
            folder,
            _free_port(),
            lifeline=ours,
            wait_scale=wait_scale,
            calls=calls,
        )
        try:
            yield info
        finally:
            _stop(info)
    finally:
        os.close(ours)
        os.close(theirs)
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _running(folder: Path) -> CloudInfo | None:
    try:
        found = json.loads((folder / "cloud.json").read_text())
        info = CloudInfo(**found | {"folder": folder})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as exc:
        raise ConfigurationError(
            f"{folder / 'cloud.json'} is not readable: delete it once no cloud runs"
        ) from exc
    return info if _started(info.pid) == info.started else None


def _start(
    project: Path,
    folder: Path,
    port: int,
    *,
    lifeline: int | None = None,
    wait_scale: float = WAIT_SCALE,
    calls: Path | None = None,
) -> CloudInfo:
    command = [str(_interpreter(project, "cloud")), "-m", "infra.local.host"]
    if not (project / "infra" / "local" / "host.py").exists():
        raise ConfigurationError(f"{project} is not a Millrace checkout: infra/local is missing")
    if not _is_free(port):
        raise ConfigurationError(f"port {port} is taken on 127.0.0.1: choose another with --port")
    environment = _environment(project, folder, port, wait_scale)
    if lifeline is not None:
        environment["MILLRACE_CLOUD_LIFELINE"] = str(lifeline)
    if calls is not None:
        environment["MILLRACE_CLOUD_CALLS"] = str(calls.absolute())
    for name in ("state", "s3", "functions", "tmp"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    pid = _spawn(command, environment, folder, lifeline)
    info = CloudInfo(
        pid=pid,
        started=_started(pid) or "",
        port=port,
        endpoint=f"http://127.0.0.1:{port}",
        folder=folder,
    )
    try:
        _await_health(info)
    except BaseException:
        _kill(info)
        _await_end(info, STOP_SECONDS)
        raise
    record = folder / "cloud.json.new"
    record.write_text(json.dumps(dataclasses.asdict(info), default=str))
    record.replace(folder / "cloud.json")
    (folder / "port").write_text(str(port))
    return info


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


def _environment(project: Path, folder: Path, port: int, wait_scale: float) -> dict[str, str]:
    """All the cloud's process gets: nothing of the user's AWS settings can reach it."""
    kept = ("HOME", "LANG", "LC_ALL", "PATH", "TZ", "EMBEDDED_CLOUD_WITHOUT")
    return {k: os.environ[k] for k in kept if k in os.environ} | {
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        "LAMBDA_EXECUTOR": "local",
        "LOG_LEVEL": "INFO",
        "MINISTACK_ACCOUNT_ID": LOCAL_ACCOUNT,
        "MINISTACK_REGION": LOCAL_REGION,
        "PERSIST_STATE": "1",
        "STATE_DIR": str(folder / "state"),
        "S3_PERSIST": "1",
        "S3_DATA_DIR": str(folder / "s3"),
        "SFN_WAIT_SCALE": str(wait_scale),
        "TMPDIR": str(folder / "tmp"),
        "PYTHONPATH": str(project),
        "PYTHONUNBUFFERED": "1",
        "MILLRACE_CLOUD_CODE": str(project / ".millrace" / "code"),
        "MILLRACE_CLOUD_SCRATCH": str(folder / "functions"),
        "MILLRACE_CLOUD_RUNTIME": str(_interpreter(project, "runtime")),
        "MILLRACE_CLOUD_WORKERS": str(WORKERS_PER_FUNCTION),
    }


def _interpreter(project: Path, tool: str) -> Path:
    # Not resolved: a virtual environment's python is a link, and it is the link that matters.
    python = tools_folder(project).absolute() / tool / "bin" / "python"
    if not python.exists():
        raise ConfigurationError(f"{python} is missing: run `make setup`")
    return python


def _await_health(info: CloudInfo) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if _started(info.pid) is None:
            raise ConfigurationError(
                f"the embedded cloud ended while starting; its log ends:\n{_tail(info.log_file)}"
            )
        if healthy(info):
            return
        time.sleep(POLL_SECONDS)
    raise ServiceUnavailableError(
        f"the embedded cloud did not answer on port {info.port} within {START_SECONDS:.0f} s; "
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

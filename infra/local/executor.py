"""Runs Python functions on AWS's own runtime interface client, one process per environment.

Lambda's runtime API is a small HTTP protocol: a process long-polls ``/next`` for an event and
posts ``/response`` or ``/error``. This module serves that protocol to ``awslambdaric``, so that
errors keep their names, what a handler prints is log and never reply, and a function sees only
the environment Lambda would give it. It knows nothing of the emulator that calls it.

Limits, on purpose: an environment serves one invocation at a time; a function has at most
``EnvironmentPool.limit`` of them and further invocations wait for a free one, where Lambda would
start more (this is a laptop).
"""

import base64
import contextlib
import fcntl
import hashlib
import io
import json
import os
import queue
import select
import shutil
import signal
import struct
import subprocess
import tempfile
import termios
import threading
import time
import zipfile
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Self

BOOTSTRAP = Path(__file__).with_name("bootstrap.py")

API_PREFIX = "/2018-06-01/runtime"
INIT_SECONDS = 60.0
"""Lambda gives init 10 s, then once more under the function's timeout; two busy cores need more."""
IDLE_SECONDS = 300.0
"""An idle environment beyond a function's first is stopped after this long."""
STOP_SECONDS = 2.0
CODE_FOLDERS = 24
CODE_SECONDS = 86_400.0
LOG_BYTES = 1_048_576
"""Log kept for one invocation; the oldest bytes go first."""

Archive = Callable[[], bytes]
"""Gives a function's code as a zip file."""

SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
RECORD_VARIABLE = "MILLRACE_RECORD_CALLS"
"""Tells ``bootstrap.py`` to record, and where; it takes it out before the function's code runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """What an environment is made from; two equal values can share one.

    Attributes:
        name: Function name.
        arn: Function ARN without qualifier.
        version: ``$LATEST`` or a number.
        handler: ``module.function``.
        code_sha256: Base64 digest of the archive, as Lambda reports it.
        timeout: Seconds an invocation may take.
        memory: Megabytes, told to the function and not enforced.
        region: Region of the function.
        environment: Everything the process gets besides what Lambda sets.
    """

    name: str
    arn: str
    version: str
    handler: str
    code_sha256: str
    timeout: float
    memory: int
    region: str
    environment: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """One event on its way to a function."""

    request_id: str
    arn: str
    payload: bytes
    trace_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came of an invocation.

    Attributes:
        body: The handler's result, or Lambda's error object with ``errorType``.
        failed: Whether ``body`` is an error.
        log: What the process printed meanwhile.
    """

    body: object
    failed: bool
    log: str


class CodeStore:
    """Unpacked archives on disk, once per content; shared by the clouds of a project.

    Args:
        root: Folder it owns, with one folder per digest.
        limit: Archives kept unpacked; the longest unused go first.
    """

    def __init__(self, root: Path, limit: int = CODE_FOLDERS) -> None:
        self._root = root
        self._limit = limit
        self._guard = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}

    def folder(self, digest: str, archive: Archive) -> Path:
        """The folder with an archive's files, unpacked when it is not there yet.

        Args:
            digest: SHA-256 of the archive, as Lambda reports it (Base64).
            archive: Gives the archive, and is asked only when it is not there yet.
        """
        name = base64.b64decode(digest).hex()
        target = self._root / name
        with self._lock(name):
            if not target.is_dir():
                self._make_room()
                self._fill(target, name, archive())
            os.utime(target)
        return target

    def _lock(self, name: str) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(name, threading.Lock())

    def _fill(self, target: Path, name: str, archive: bytes) -> None:
        if hashlib.sha256(archive).hexdigest() != name:
            raise ValueError(f"expected an archive with sha256 {name}, got another")
        self._root.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=self._root))
        try:
            _unpack(archive, partial)
            partial.rename(target)
        except OSError:
            if not target.is_dir():  # Else another cloud was faster.
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _make_room(self) -> None:
        """Deletes what no cloud used for long, and never what this one did."""
        with self._guard:
            used = set(self._locks)
        folders = [one for one in self._root.glob("*/") if not one.name.startswith(".")]
        folders.sort(key=lambda one: one.stat().st_mtime)
        for old in folders[: max(0, len(folders) + 1 - self._limit)]:
            if old.name not in used and time.time() - old.stat().st_mtime > CODE_SECONDS:
                shutil.rmtree(old, ignore_errors=True)


def _unpack(archive: bytes, target: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(archive)) as source:
        for entry in source.infolist():
            # extract() drops absolute paths and ".." parts by itself.
            written = source.extract(entry, target)
            if not entry.is_dir():
                mode = (entry.external_attr >> 16) & 0o777
                Path(written).chmod(mode or 0o644)
                stamp = time.mktime((*entry.date_time, 0, 0, -1))
                os.utime(written, (stamp, stamp))


class LogPipe:
    """Collects what a process prints, with nothing lost between the print and the reply.

    The runtime writes its log before it posts its reply. So when the reply is here the bytes
    are in the pipe or already taken, and ``take`` reads the pipe empty under the pump's lock
    instead of waiting for a quiet moment.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._fd = stream.fileno()
        os.set_blocking(self._fd, False)
        self._lock = threading.Lock()
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._thread = threading.Thread(target=self._pump, daemon=True, name="function-log")
        self._thread.start()

    def _pump(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN | select.POLLHUP)
        while True:
            poll.poll()
            with self._lock:
                if not self._read():
                    self._stream.close()
                    return

    def _read(self) -> bool:
        """Reads once; False at the end of the stream."""
        if self._stream.closed:
            return False
        try:
            chunk = os.read(self._fd, 65_536)
        except BlockingIOError:
            return True
        if not chunk:
            return False
        self._chunks.append(chunk)
        self._size += len(chunk)
        while self._size > LOG_BYTES and len(self._chunks) > 1:
            self._size -= len(self._chunks.popleft())
        return True

    def _waiting(self) -> int:
        if self._stream.closed:
            return 0
        size = struct.unpack("i", fcntl.ioctl(self._fd, termios.FIONREAD, b"\0" * 4))[0]
        return int(size)

    def take(self) -> str:
        """Everything printed since the last call."""
        with self._lock:
            while self._waiting() and self._read():
                continue
            text = b"".join(self._chunks).decode("utf-8", errors="replace")
            self._chunks.clear()
            self._size = 0
        return text

    def finish(self) -> str:
        """Everything printed up to the end of the process; call after it has ended."""
        self._thread.join(timeout=STOP_SECONDS)
        return self.take()


@dataclass(frozen=True, slots=True)
class _Ready:
    """The process polled for its first event."""


@dataclass(frozen=True, slots=True)
class _Posted:
    """The process posted a response, an error or an init error."""

    kind: str
    request_id: str
    body: object


@dataclass(frozen=True, slots=True)
class _Exited:
    """The process ended."""

    code: int


class Environment:
    """One function process with its runtime API server.

    Args:
        function: What it runs.
        code: Folder of the unpacked archive.
        interpreter: Python with ``awslambdaric`` and ``boto3``.
        scratch: Parent of the environment's own temporary folder.
        spawner: Runs ``Popen`` on one long-lived thread: Linux's parent-death signal fires when
            the *thread* that forked ends.
        calls: Folder in which the process records its AWS calls; None for no record.
    """

    def __init__(
        self,
        *,
        function: Function,
        code: Path,
        interpreter: Path,
        scratch: Path,
        spawner: ThreadPoolExecutor,
        calls: Path | None = None,
    ) -> None:
        self.function = function
        self._calls = calls
        self.last_used = time.monotonic()
        self._code = code
        self._events: queue.Queue[Invocation | None] = queue.Queue()
        self._outcomes: queue.Queue[_Ready | _Posted | _Exited] = queue.Queue()
        self._deadline_ms = 0
        self._polled = False
        self._stopped = threading.Event()
        self._server = _RuntimeApi(self)
        threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.2},
            daemon=True,
            name=f"runtime-api-{function.name}",
        ).start()
        scratch.mkdir(parents=True, exist_ok=True)
        self._tmp = Path(tempfile.mkdtemp(prefix=f"{function.name}-", dir=scratch))
        self._process = spawner.submit(self._spawn, interpreter).result()
        if self._process.stdout is None:
            raise RuntimeError("a function process was started without a log pipe")
        self._log = LogPipe(self._process.stdout)
        threading.Thread(target=self._watch, daemon=True, name=f"exit-{function.name}").start()

    def _spawn(self, interpreter: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [str(interpreter), "-S", "-u", str(BOOTSTRAP), str(os.getpid())],
            cwd=self._code,
            env=self._environment(interpreter),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _environment(self, interpreter: Path) -> dict[str, str]:
        function = self.function
        stamp = time.strftime("%Y/%m/%d", time.gmtime())
        recording = {} if self._calls is None else {RECORD_VARIABLE: str(self._calls)}
        given = {k: v for k, v in function.environment if k != RECORD_VARIABLE}
        return (
            given
            | recording
            | {
                "AWS_EXECUTION_ENV": "AWS_Lambda_python3.13",
                "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory),
                "AWS_LAMBDA_FUNCTION_NAME": function.name,
                "AWS_LAMBDA_FUNCTION_VERSION": function.version,
                "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
                "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{function.name}",
                "AWS_LAMBDA_LOG_STREAM_NAME": f"{stamp}/[{function.version}]{os.urandom(16).hex()}",
                "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self._server.server_address[1]}",
                "AWS_REGION": function.region,
                "AWS_DEFAULT_REGION": function.region,
                "LAMBDA_RUNTIME_DIR": str(interpreter.parent.parent),
                "LAMBDA_TASK_ROOT": str(self._code),
                "LANG": "en_US.UTF-8",
                "PATH": SYSTEM_PATH,
                # Lambda's code folder is read-only: bytecode not in the artifact is not kept.
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTHONUTF8": "1",
                "TMPDIR": str(self._tmp),
                "TZ": ":UTC",
                "_HANDLER": function.handler,
            }
        )

    def _watch(self) -> None:
        self._outcomes.put(_Exited(self._process.wait()))

    def start(self) -> Reply | None:
        """Waits until the process asks for its first event; a Reply says why it never will."""
        try:
            outcome = self._outcomes.get(timeout=INIT_SECONDS)
        except queue.Empty:
            return self._failed("Sandbox.Timedout", f"init took more than {INIT_SECONDS:.0f} s")
        match outcome:
            case _Ready():
                return None
            case _Posted(body=body):
                self._wait_for_exit()
                return Reply(body=body, failed=True, log=self.stop())
            case _Exited(code=code):
                return self._failed(
                    "Runtime.ExitError", f"Runtime exited with error: exit status {code}"
                )

    def invoke(self, invocation: Invocation) -> Reply:
        """Runs one event; the environment is dead afterwards when the process died or overran."""
        self.last_used = time.monotonic()
        timeout = self.function.timeout
        self._deadline_ms = int((time.time() + timeout) * 1000)
        self._events.put(invocation)
        try:
            outcome = self._outcomes.get(timeout=timeout)
        except queue.Empty:
            return self._failed("Sandbox.Timedout", f"Task timed out after {timeout:.2f} seconds")
        self.last_used = time.monotonic()
        match outcome:
            case _Posted(kind=kind, body=body):
                return Reply(body=body, failed=kind == "error", log=self._log.take())
            case _Exited(code=code):
                return self._failed(
                    "Runtime.ExitError",
                    f"RequestId: {invocation.request_id} Error: Runtime exited with error: "
                    f"exit status {code}",
                )
            case _Ready():
                return self._failed("Runtime.Unknown", "the runtime asked for a second event")

    def _failed(self, error_type: str, message: str) -> Reply:
        log = self.stop()
        body = {"errorMessage": message, "errorType": error_type}
        return Reply(body=body, failed=True, log=f"{log}{message}\n")

    def _wait_for_exit(self) -> None:
        try:
            self._process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return

    @property
    def alive(self) -> bool:
        """Whether it can take another event."""
        return not self._stopped.is_set() and self._process.poll() is None

    def stop(self) -> str:
        """Kills the process with its children and frees everything; the rest of its log."""
        if self._stopped.is_set():
            return ""
        self._stopped.set()
        self._events.put(None)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        log = self._log.finish()
        self._server.shutdown()
        self._server.server_close()
        shutil.rmtree(self._tmp, ignore_errors=True)
        return log

    # Called by the runtime API's request threads.

    def next_event(self) -> tuple[Invocation, int] | None:
        """Blocks until there is an event; None when the environment stops."""
        if not self._polled:
            self._polled = True
            self._outcomes.put(_Ready())
        invocation = self._events.get()
        return None if invocation is None else (invocation, self._deadline_ms)

    def posted(self, kind: str, request_id: str, body: object) -> None:
        """Takes what the process posted."""
        self._outcomes.put(_Posted(kind, request_id, body))


class _RuntimeApi(ThreadingHTTPServer):
    """Lambda's runtime API for one environment, on a free loopback port."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        super().__init__(("127.0.0.1", 0), _RuntimeRequest)


class _RuntimeRequest(BaseHTTPRequestHandler):
    """``GET next``, ``POST {id}/response``, ``POST {id}/error``, ``POST init/error``."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _RuntimeApi

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Requests of the runtime API are nobody's log."""

    def do_GET(self) -> None:
        if self.path != f"{API_PREFIX}/invocation/next":
            self._answer(404)
            return
        taken = self.server.environment.next_event()
        if taken is None:
            self.close_connection = True
            self._answer(500)
            return
        invocation, deadline_ms = taken
        headers = {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": invocation.request_id,
            "Lambda-Runtime-Deadline-Ms": str(deadline_ms),
            "Lambda-Runtime-Invoked-Function-Arn": invocation.arn,
        }
        if invocation.trace_id:
            headers["Lambda-Runtime-Trace-Id"] = invocation.trace_id
        self._answer(200, invocation.payload, headers)

    def do_POST(self) -> None:
        raw = self._body()
        try:
            body = json.loads(raw)
        except ValueError:
            body = raw.decode("utf-8", errors="replace")
        environment = self.server.environment
        match self.path.removeprefix(f"{API_PREFIX}/").split("/"):
            case ["init", "error"]:
                environment.posted("error", "", body)
            case ["invocation", request_id, ("response" | "error") as kind]:
                environment.posted(kind, request_id, body)
            case _:
                self._answer(404)
                return
        self._answer(202, b'{"status":"OK"}')

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _answer(
        self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


class EnvironmentPool:
    """The environments of one function, kept warm, at most ``limit`` of them.

    An event that finds them all busy waits as long as starting another would take before it does
    start another: on two cores a cold start costs everybody more than a short queue.

    Args:
        limit: Most environments at a time.
        create: Makes an environment.
    """

    def __init__(self, limit: int, create: Callable[[], Environment]) -> None:
        self._slots = threading.Semaphore(limit)
        self._create = create
        self._changed = threading.Condition()
        self._idle: list[Environment] = []
        self._all: set[Environment] = set()
        self._warming = False
        self._closed = False
        self._start_seconds = 0.0

    def warm(self) -> None:
        """Starts the first environment ahead of need, as Lambda may.

        An event that comes meanwhile waits for it. A failure shows when it is needed.
        """
        with self._changed:
            if self._all or not self._slots.acquire(blocking=False):
                return
            self._warming = True
        try:
            environment, refused = self._new_environment()
            if refused is None:
                self._keep(environment)
        finally:
            with self._changed:
                self._warming = False
                self._changed.notify_all()
            self._slots.release()

    def run(self, invocation: Invocation, *, wait_seconds: float) -> Reply | None:
        """Runs one event; None when no environment came free in time."""
        if not self._slots.acquire(timeout=wait_seconds):
            return None
        try:
            environment = self._idle_environment()
            if environment is None:
                environment, refused = self._new_environment()
                if refused is not None:
                    return refused
            reply = environment.invoke(invocation)
            self._keep(environment)
            return reply
        finally:
            self._slots.release()

    def _idle_environment(self) -> Environment | None:
        """A warm environment, perhaps after a wait; None when a new one is worth its start."""
        began = time.monotonic()
        while True:
            with self._changed:
                while not self._idle:
                    patience = INIT_SECONDS if self._warming else self._start_seconds
                    remaining = began + patience - time.monotonic()
                    if remaining <= 0 or not (self._all or self._warming):
                        return None
                    self._changed.wait(remaining)
                environment = self._idle.pop()
            if environment.alive:
                return environment
            self._drop(environment)

    def _new_environment(self) -> tuple[Environment, Reply | None]:
        began = time.monotonic()
        environment = self._create()
        with self._changed:
            self._all.add(environment)
        refused = environment.start()
        if refused is not None:
            self._drop(environment)
        self._start_seconds = time.monotonic() - began
        return environment, refused

    def _keep(self, environment: Environment) -> None:
        with self._changed:
            keep = environment.alive and not self._closed
            if keep:
                self._idle.append(environment)
                self._changed.notify()
        if not keep:
            self._drop(environment)

    def _drop(self, environment: Environment) -> None:
        with self._changed:
            self._all.discard(environment)
            self._changed.notify_all()
        environment.stop()

    def trim(self, idle_seconds: float) -> None:
        """Stops environments idle for long, but for the one used last."""
        now = time.monotonic()
        with self._changed:
            old = [one for one in self._idle[:-1] if now - one.last_used > idle_seconds]
            self._idle = [one for one in self._idle if one not in old]
        for environment in old:
            self._drop(environment)

    def close(self, *, running: bool) -> None:
        """Stops the idle environments, and with ``running`` the busy ones too."""
        with self._changed:
            self._closed = True
            doomed = list(self._all if running else self._idle)
            self._idle = []
        for environment in doomed:
            self._drop(environment)


class Executor:
    """Every Python function of the embedded cloud.

    Args:
        interpreter: Python of the runtime: ``awslambdaric`` and ``boto3``, nothing else.
        code: Where unpacked code goes.
        scratch: Where the functions' temporary folders go; emptied first.
        limit: Most environments per function.
        calls: Folder in which every function process records its AWS calls; None for no record.
    """

    def __init__(
        self,
        *,
        interpreter: Path,
        code: Path,
        scratch: Path,
        limit: int,
        calls: Path | None = None,
    ) -> None:
        self._interpreter = interpreter
        self._calls = calls
        self._scratch = scratch
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._store = CodeStore(code)
        self._limit = limit
        self._lock = threading.Lock()
        self._pools: dict[tuple[str, str], tuple[Function, EnvironmentPool]] = {}
        self._spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="function-spawner")
        self._closed = threading.Event()
        threading.Thread(target=self._trim, daemon=True, name="function-trimmer").start()

    @classmethod
    def of_environment(cls) -> Self:
        """The executor that the cloud's settings (``MILLRACE_CLOUD_*``) ask for."""
        calls = os.environ.get("MILLRACE_CLOUD_CALLS")
        return cls(
            interpreter=Path(os.environ["MILLRACE_CLOUD_RUNTIME"]),
            code=Path(os.environ["MILLRACE_CLOUD_CODE"]),
            scratch=Path(os.environ["MILLRACE_CLOUD_SCRATCH"]),
            limit=int(os.environ["MILLRACE_CLOUD_WORKERS"]),
            calls=None if calls is None else Path(calls),
        )

    def run(self, function: Function, archive: Archive, invocation: Invocation) -> Reply | None:
        """Runs one event on a warm or a new environment; None says throttled."""
        pool = self._pool(function, archive)
        return pool.run(invocation, wait_seconds=max(function.timeout, 60.0))

    def warm(self, function: Function, archive: Archive) -> None:
        """Starts a function's first environment ahead of need, once per state of the function."""
        with self._lock:
            known = self._pools.get((function.arn, function.version))
        if known is None or known[0] != function:
            self._pool(function, archive).warm()

    def forget(self, function: Function) -> None:
        """Stops the environments of a function that is gone, but for those at work."""
        key = (function.arn, function.version)
        with self._lock:
            known = self._pools.get(key)
            if known is None or known[0] != function:
                return
            del self._pools[key]
        known[1].close(running=False)

    def _pool(self, function: Function, archive: Archive) -> EnvironmentPool:
        key = (function.arn, function.version)
        with self._lock:
            known = self._pools.get(key)
            if known is not None and known[0] == function:
                return known[1]
            if known is not None:
                known[1].close(running=False)
            pool = EnvironmentPool(
                self._limit,
                lambda: Environment(
                    function=function,
                    code=self._store.folder(function.code_sha256, archive),
                    interpreter=self._interpreter,
                    scratch=self._scratch,
                    spawner=self._spawner,
                    calls=self._calls,
                ),
            )
            self._pools[key] = (function, pool)
            return pool

    def _trim(self) -> None:
        while not self._closed.wait(30.0):
            with self._lock:
                pools = [pool for _, pool in self._pools.values()]
            for pool in pools:
                pool.trim(IDLE_SECONDS)

    def close(self) -> None:
        """Kills every function process."""
        self._closed.set()
        with self._lock:
            pools = [pool for _, pool in self._pools.values()]
            self._pools.clear()
        for pool in pools:
            pool.close(running=True)
        self._spawner.shutdown(wait=False)

"""Runs LocalStack's Lambda functions as processes, on the executor that both engines share.

LocalStack asks a *runtime executor* to start, use and stop one environment at a time, and keeps
the pool of them itself. Here such an environment is only a ticket: the processes, their number and
their life are ``infra.local.executor``'s, so that a function behaves the same on both engines.

It is no subclass of LocalStack's ``RuntimeExecutor``, whose module the development environment
does not have; ``gaps.py`` checks at the start that none of its methods is missing.
"""

import io
import json
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from infra.local.executor import Archive, Executor, Function, Invocation, Reply

RESERVED = frozenset({"AWS_LAMBDA_RUNTIME_API", "_HANDLER", "LAMBDA_TASK_ROOT"})


class UnsupportedFunctionError(ValueError):
    """A function that cannot run as a process."""


class Throttled(Exception):  # noqa: N818 - what happened, in Lambda's word; nothing is wrong
    """Every environment of a function stayed busy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What functions need of the engine.

    Attributes:
        endpoint: ``AWS_ENDPOINT_URL`` of the functions.
        credentials: Credentials of a role, by its ARN, the region and the function's name.
    """

    endpoint: str
    credentials: Callable[[str, str, str], Mapping[str, str]]


class Functions:
    """Every function of the engine.

    Args:
        executor: What runs them.
        services: What they need of the engine.
    """

    def __init__(self, executor: Executor, services: Services) -> None:
        self._executor = executor
        self._services = services
        self._lock = threading.Lock()
        self._known: dict[tuple[str, ...], Function] = {}
        self._warmer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="function-warmer")

    def prepare(self, version: Any) -> None:
        """Starts the first environment of a version ahead of need, on a thread of its own.

        Raises:
            UnsupportedFunctionError: It cannot run as a process.
        """
        refuse_unsupported(version)
        self._warmer.submit(self._executor.warm, self._function(version), _archive(version))

    def forget(self, version: Any) -> None:
        """Stops what runs of a version that is gone."""
        with self._lock:
            function = self._known.pop(_key(version), None)
        if function is not None:
            self._executor.forget(function)

    def invoke(self, version: Any, payload: Mapping[str, str]) -> tuple[Reply, str]:
        """Runs one event; the reply, and the log as Lambda frames it.

        Raises:
            Throttled: No environment came free in time.
        """
        function = self._function(version)
        invocation = Invocation(
            request_id=payload["invoke-id"],
            arn=payload["invoked-function-arn"],
            payload=payload["payload"].encode(),
            trace_id=payload.get("trace-id"),
        )
        started = time.monotonic()
        reply = self._executor.run(function, _archive(version), invocation)
        elapsed = (time.monotonic() - started) * 1000
        if reply is None:
            raise Throttled(f"Rate Exceeded: every environment of {function.name} stayed busy")
        return reply, _framed(function, invocation, reply, elapsed)

    def _function(self, version: Any) -> Function:
        """What a version is made from, the same value as long as the version is the same.

        A role's credentials differ each time they are asked for, and two functions that differ
        do not share a process.
        """
        key = _key(version)
        with self._lock:
            known = self._known.get(key)
        if known is not None:
            return known
        made = self._made(version)
        with self._lock:
            return self._known.setdefault(key, made)

    def _made(self, version: Any) -> Function:
        identity, config = version.id, version.config
        variables = {k: str(v) for k, v in (config.environment or {}).items() if k not in RESERVED}
        environment = variables | dict(
            self._services.credentials(config.role, identity.region, identity.function_name)
        )
        environment["AWS_ENDPOINT_URL"] = self._services.endpoint
        return Function(
            name=identity.function_name,
            arn=identity.unqualified_arn(),
            version=identity.qualifier,
            handler=config.handler,
            code_sha256=config.code.code_sha256,
            timeout=float(config.timeout),
            memory=int(config.memory_size),
            region=identity.region,
            environment=tuple(sorted(environment.items())),
        )


def refuse_unsupported(version: Any) -> None:
    """Refuses what only Docker could run.

    Raises:
        UnsupportedFunctionError: It is not a zip of Python without layers.
    """
    config, name = version.config, version.id.function_name
    advice = "run LocalStack in Docker (millrace local up --engine localstack --runtime docker)"
    runtime = config.runtime or "a container image"
    if not str(runtime).startswith("python") or config.code is None:
        raise UnsupportedFunctionError(
            f"{name} runs on {runtime}, and without Docker functions are Python zips: {advice}"
        )
    if config.layers:
        raise UnsupportedFunctionError(f"{name} has layers, which need Docker here: {advice}")


def runtime_executor(
    functions: Functions,
    result: Callable[..., Any],
    throttled: Callable[[str], Exception],
) -> Any:
    """The class that LocalStack makes environments of.

    Args:
        functions: What runs them.
        result: LocalStack's ``InvocationResult``.
        throttled: LocalStack's error for a throttled invocation.
    """

    class ProcessExecutor:
        """One environment as LocalStack sees it."""

        def __init__(self, id: str, function_version: Any) -> None:  # noqa: A002 - LocalStack's name
            self.id = id
            self.function_version = function_version

        def start(self, env_vars: dict[str, str]) -> None:
            """Nothing starts before an event needs it, or ``prepare_version`` foresees it."""

        def stop(self) -> None:
            """Environments are stopped with their version, or when long idle."""

        def get_address(self) -> str:
            return "127.0.0.1"

        get_endpoint_from_executor = get_address

        def get_runtime_endpoint(self) -> str:
            return "http://127.0.0.1"

        def get_logs(self) -> str:
            return ""

        def invoke(self, payload: dict[str, str]) -> Any:
            try:
                reply, log = functions.invoke(self.function_version, payload)
            except Throttled as exc:
                raise throttled(str(exc)) from exc
            body = json.dumps(reply.body, ensure_ascii=False).encode()
            return result(payload["invoke-id"], body, is_error=reply.failed, logs=log)

        @classmethod
        def prepare_version(cls, function_version: Any) -> None:
            functions.prepare(function_version)

        @classmethod
        def cleanup_version(cls, function_version: Any) -> None:
            functions.forget(function_version)

        @classmethod
        def validate_environment(cls) -> bool:
            return True

    return ProcessExecutor


def _key(version: Any) -> tuple[str, ...]:
    config = version.config
    return version.id.qualified_arn(), str(config.internal_revision), str(config.code.code_sha256)


def _archive(version: Any) -> Archive:
    """Reads the version's zip from LocalStack's own bucket, when it is asked."""

    def read() -> bytes:
        target = io.BytesIO()
        version.config.code._download_archive_to_file(target)
        return target.getvalue()

    return read


def _framed(function: Function, invocation: Invocation, reply: Reply, elapsed: float) -> str:
    """The log of an invocation between Lambda's own lines."""
    request = f"RequestId: {invocation.request_id}"
    log = reply.log if not reply.log or reply.log.endswith("\n") else f"{reply.log}\n"
    return (
        f"START {request} Version: {function.version}\n{log}END {request}\n"
        f"REPORT {request}\tDuration: {elapsed:.2f} ms\tMemory Size: {function.memory} MB\n"
    )

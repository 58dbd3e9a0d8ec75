"""Every place where the embedded cloud reaches into MiniStack, and nothing else does.

Written against MiniStack 1.5.33. A name that is gone stops the launcher with a sentence that
says which; a gap that an upgrade closes makes the named test of ``tests/e2e/conformance`` pass
without the patch (run it with ``MILLRACE_CLOUD_WITHOUT=<gap>``).

======== ================================== =============================================
gap      name replaced                      why
======== ================================== =============================================
runtime  lambda_svc._execute_function_warm  its worker calls handlers by a protocol of its
                                            own: every error becomes
                                            ``Runtime.HandlerError``, so Retry and Catch on
                                            a named error never match; INFO logs are lost;
                                            the host's environment leaks in; its own
                                            interpreter's packages hide missing ones; a
                                            line of JSON printed to stdout is the reply
======== ================================== =============================================

Called, not replaced: ``cloudwatch.record_metric`` (embedded metrics found in logs).
"""

import importlib
import json
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

from infra.local.executor import Executor, Function, Invocation
from infra.local.metrics import embedded_metrics

WITHOUT = "MILLRACE_CLOUD_WITHOUT"
RESERVED = frozenset({"AWS_LAMBDA_RUNTIME_API", "_HANDLER", "LAMBDA_TASK_ROOT"})


class UnknownMiniStackError(RuntimeError):
    """MiniStack is not the one the patches were written for."""


def close_gaps(executor: Executor, endpoint: str) -> None:
    """Applies every patch that is not switched off.

    Raises:
        UnknownMiniStackError: A name to replace is not there.
    """
    without = set(filter(None, os.environ.get(WITHOUT, "").split(",")))
    if "runtime" not in without:
        _run_python_functions(executor, endpoint)


def _replace(module: ModuleType, name: str, new: Callable[[Any], Any]) -> None:
    """Replaces ``module.name`` by ``new(old)``."""
    if not hasattr(module, name):
        raise UnknownMiniStackError(
            f"{module.__name__} has no {name}: the gaps are known for the pinned version only"
        )
    setattr(module, name, new(getattr(module, name)))


def _run_python_functions(executor: Executor, endpoint: str) -> None:
    lambda_svc = importlib.import_module("ministack.services.lambda_svc")
    lambda_runtime = importlib.import_module("ministack.core.lambda_runtime")
    cloudwatch = importlib.import_module("ministack.services.cloudwatch")

    def run(record: dict[str, Any], event: object, request_id: str) -> dict[str, Any]:
        config: dict[str, Any] = record.get("config") or record
        credentials: dict[str, str] = lambda_runtime.execution_credentials(config)
        function = _function_of(config, endpoint, credentials)
        invocation = Invocation(
            request_id=request_id,
            arn=config["FunctionArn"],
            payload=json.dumps(event, ensure_ascii=False).encode(),
        )
        reply = executor.run(function, record["code_zip"], invocation)
        if reply is None:
            return {"throttle": True, "error": True, "log": "", "body": _throttled(function.name)}
        for metric in embedded_metrics(reply.log):
            cloudwatch.record_metric(
                metric.namespace, metric.name, metric.value, metric.unit, dict(metric.dimensions)
            )
        result: dict[str, Any] = {"body": reply.body, "log": reply.log}
        return result | {"error": True} if reply.failed else result

    def choose(original: Callable[..., Any]) -> Callable[..., Any]:
        def execute(record: dict[str, Any], event: object, request_id: str) -> Any:
            config = record.get("config") or record
            if str(config.get("Runtime", "")).startswith("python") and record.get("code_zip"):
                return run(record, event, request_id)
            return original(record, event, request_id)

        return execute

    _replace(lambda_svc, "_execute_function_warm", choose)


def _throttled(name: str) -> dict[str, str]:
    return {
        "__type": "TooManyRequestsException",
        "Reason": "ReservedFunctionConcurrentInvocationLimitExceeded",
        "message": f"Rate Exceeded: every environment of {name} stayed busy",
        "retryAfterSeconds": "1",
    }


def _function_of(config: dict[str, Any], endpoint: str, credentials: dict[str, str]) -> Function:
    arn = ":".join(str(config["FunctionArn"]).split(":")[:7])
    variables: dict[str, str] = (config.get("Environment") or {}).get("Variables") or {}
    environment = {k: str(v) for k, v in variables.items() if k not in RESERVED}
    environment |= {k: v for k, v in credentials.items() if v}
    environment["AWS_ENDPOINT_URL"] = endpoint
    return Function(
        name=config["FunctionName"],
        arn=arn,
        version=config.get("Version", "$LATEST"),
        handler=config["Handler"],
        code_sha256=config["CodeSha256"],
        timeout=float(config.get("Timeout", 3)),
        memory=int(config.get("MemorySize", 128)),
        region=arn.split(":")[3],
        environment=tuple(sorted(environment.items())),
    )

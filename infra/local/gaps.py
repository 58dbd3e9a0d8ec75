"""Every place where the embedded cloud reaches into MiniStack, and nothing else does.

Written against MiniStack 1.5.33. A name that is gone stops the launcher with a sentence that
says which; a gap that an upgrade closes makes the named test of ``tests/e2e/conformance`` pass
without the patch (run it with ``EMBEDDED_CLOUD_WITHOUT=<gap>``).

========== ========================================== ===================================
gap        name replaced                              why
========== ========================================== ===================================
runtime    lambda_svc._execute_function_warm          its worker calls handlers by a
                                                      protocol of its own: every error
                                                      becomes ``Runtime.HandlerError``, so
                                                      Retry and Catch on a named error never
                                                      match; INFO logs are lost; the host's
                                                      environment leaks in; its own packages
                                                      hide missing ones; JSON printed to
                                                      stdout is taken for the reply
metrics    lambda_svc._emit_lambda_metrics,           ``AWS/Lambda`` metrics are recorded
           lambda_svc._execute_function_dispatch      for the Invoke API only, not for
                                                      invocations by Step Functions and
                                                      EventBridge
states     stepfunctions._emit_execution_status_event there are no ``AWS/States`` metrics
gateway    apigateway_v1.handle_execute               there are no ``AWS/ApiGateway`` metrics
api-key-id apigateway_v1._check_api_key,              a function is not told which API key was
           ``_build_lambda_event_v1``                 used
problems   apigateway_v1._import_rest_api             an OpenAPI body's gateway responses are
                                                      dropped
binary     apigateway_v1._import_rest_api,            an OpenAPI body's binary media types are
           ``_media_type_matches``                    dropped; and ``*/*`` is no request without
                                                      ``Content-Type``, no answer to one without
                                                      ``Accept``
queues     (reads sqs._queues)                        there are no ``AWS/SQS`` metrics
alarms     cloudwatch._evaluate_alarm                 alarms ignore dimensions, periods and
                                                      missing data, and look only when a
                                                      client puts a metric
version-id s3._fire_s3_event,                         "Object Created" events of a
           eventbridge._dispatch_event                versioned bucket lack
                                                      ``detail.object.version-id``
part       s3._get_object                             a part that is asked of an object's
                                                      version is the whole version, so that a
                                                      large file is put together wrongly
retry      eventbridge._invoke_target,                a rule invokes a function once and
           eventbridge._dispatch_to_lambda            forgets it: no retries, no on-failure
                                                      destination, and no dead letter when
                                                      there is no such function
lines      cloudwatch_logs                            a log subscription with a JSON pattern is
           ._subscription_pattern_matches,            sent nothing, and what its function fails
           lambda_svc                                 is gone: no retry, no dead letter
           ._execute_function_with_config_scope
history    stepfunctions._add_event,                  states inside a Map leave no events,
           ``_run_sub_machine``, ``_execute_task``,   events have no ``previousEventId``, and
           ``_execute_pass``, ``_execute_choice``,    two that come at once share an id
           ``_execute_wait``
start-once stepfunctions._start_execution             starting a running execution again by
                                                      name and input is refused instead of
                                                      answered as the first time
callbacks  stepfunctions._execute_task,               a state that waits for its token waits
           ``_invoke_with_callback``,                 for ever: ``TimeoutSecondsPath`` is not
           ``_call_lambda``                           read, and an error of its function is
                                                      passed over
restart    stepfunctions.load_persisted_state         an execution that a stop interrupted is
                                                      failed at the next start, and nobody is
                                                      told
asl-yaml   provisioners._sfn_definition               a state machine's definition file is
                                                      read as JSON only, and every execution
                                                      of one in YAML fails
ttl        provisioners._RESOURCE_HANDLERS            CloudFormation drops a table's
                                                      ``TimeToLiveSpecification``
alarm-math provisioners._cw_metric_alarm_record       CloudFormation refuses alarms on
                                                      metric math
queries    provisioners._RESOURCE_HANDLERS            CloudFormation knows no saved queries of
                                                      the logs
========== ========================================== ===================================

Shown by, in ``tests/e2e/conformance``: ``test_runtime`` and ``test_states`` (runtime),
``test_metrics`` (metrics, states, gateway, queues, alarms, alarm-math), ``test_events`` (version-id,
retry), ``test_logs`` (lines), ``test_states`` (history, start-once, callbacks, asl-yaml), ``test_lifecycle``
(restart), ``test_storage`` (part, ttl), ``test_api`` (binary, api-key-id, problems).

Called or read, not replaced: ``cloudwatch.record_metric`` (embedded metrics found in logs),
``cloudwatch._metrics``, ``_dims_key``, ``_evaluate_all_alarms`` and ``_set_alarm_state``,
``lambda_svc._functions``, ``lambda_runtime.execution_credentials``,
``lambda_svc.invoke_async_with_retry``,
``_get_func_record_for_ref`` and ``_execution_record_for_config``, ``eventbridge._dispatch_to_sqs``,
``arn.parse_arn``, ``dynamodb._update_ttl``.
"""

import http.client
import importlib
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from http import HTTPStatus
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from infra.local import filters
from infra.local.alarms import Points, judge
from infra.local.executor import Archive, Executor, Function, Invocation
from infra.local.metrics import embedded_metrics
from infra.local.periodic import every

logger = logging.getLogger(__name__)

WITHOUT = "EMBEDDED_CLOUD_WITHOUT"
RESERVED = frozenset({"AWS_LAMBDA_RUNTIME_API", "_HANDLER", "LAMBDA_TASK_ROOT"})


class UnknownMiniStackError(RuntimeError):
    """MiniStack is not the one the patches were written for."""


def close_gaps(executor: Executor, endpoint: str) -> None:
    """Applies every patch that is not switched off.

    Raises:
        UnknownMiniStackError: A name to replace is not there.
    """
    patches: dict[str, Callable[[], None]] = {
        "runtime": lambda: _run_python_functions(executor, endpoint),
        "metrics": _count_invocations,
        "states": _count_executions,
        "gateway": _count_requests,
        "api-key-id": _name_api_keys,
        "problems": _word_errors_of_the_gateway,
        "binary": _carry_bytes,
        "queues": _measure_queues,
        "version-id": _name_object_versions,
        "part": _give_parts_of_versions,
        "retry": _retry_events,
        "lines": _deliver_lines,
        "history": _write_whole_history,
        "start-once": _start_once,
        "callbacks": _wait_for_answers,
        "restart": lambda: _tell_of_interrupted_executions(endpoint),
        "asl-yaml": _read_definitions_in_yaml,
        "ttl": _expire_items,
        "alarms": _evaluate_alarms,
        "alarm-math": _accept_alarms_on_math,
        "queries": _accept_saved_queries,
    }
    without = set(filter(None, os.environ.get(WITHOUT, "").split(",")))
    for unknown in without - patches.keys():
        raise UnknownMiniStackError(f"{WITHOUT} names {unknown}; gaps are: {', '.join(patches)}")
    for name, apply in patches.items():
        if name not in without:
            apply()


def _replace(module: ModuleType, name: str, new: Callable[[Any], Any]) -> None:
    """Replaces ``module.name`` by ``new(old)``."""
    if not hasattr(module, name):
        raise UnknownMiniStackError(
            f"{module.__name__} has no {name}: the gaps are known for the pinned version only"
        )
    setattr(module, name, new(getattr(module, name)))


def _service(name: str) -> ModuleType:
    return importlib.import_module(f"ministack.services.{name}")


def _run_python_functions(executor: Executor, endpoint: str) -> None:
    lambda_svc = _service("lambda_svc")
    cloudwatch = _service("cloudwatch")
    lambda_runtime = importlib.import_module("ministack.core.lambda_runtime")

    def run(record: dict[str, Any], event: object, request_id: str) -> dict[str, Any]:
        config: dict[str, Any] = record.get("config") or record
        credentials: dict[str, str] = lambda_runtime.execution_credentials(config)
        function = _function_of(config, endpoint, credentials)
        invocation = Invocation(
            request_id=request_id,
            arn=config["FunctionArn"],
            payload=json.dumps(event, ensure_ascii=False).encode(),
        )
        reply = executor.run(function, _archive_of(record), invocation)
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

    def warm() -> None:
        """Lambda starts some environments ahead of need; here the first of every function."""
        for record in list(lambda_svc._functions.values()):
            config = record["config"]
            runs_here = str(config.get("Runtime", "")).startswith("python")
            if runs_here and record.get("code_zip") and config.get("State") == "Active":
                credentials = lambda_runtime.execution_credentials(config)
                executor.warm(_function_of(config, endpoint, credentials), _archive_of(record))

    every(WARM_SECONDS, warm)


def _archive_of(record: dict[str, Any]) -> Archive:
    return lambda: bytes(record["code_zip"])


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


def _count_invocations() -> None:
    lambda_svc = _service("lambda_svc")
    cloudwatch = _service("cloudwatch")
    emit: Callable[..., None] = lambda_svc._emit_lambda_metrics

    def of_invoke_api(_original: Callable[..., Any]) -> Callable[..., Any]:
        def nothing(function_name: str, **values: object) -> None:
            """The invocation itself counts, by whatever it was caused; see ``counted``."""

        return nothing

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def execute(record: dict[str, Any], config: dict[str, Any], *rest: Any) -> Any:
            started = time.monotonic()
            result = original(record, config, *rest)
            emit(
                config["FunctionName"],
                duration_ms=(time.monotonic() - started) * 1000,
                error=bool(result.get("error")),
                throttle=bool(result.get("throttle")),
            )
            cloudwatch._evaluate_all_alarms()
            return result

        return execute

    _replace(lambda_svc, "_emit_lambda_metrics", of_invoke_api)
    _replace(lambda_svc, "_execute_function_dispatch", counted)


ALARM_SECONDS = 2.0
WARM_SECONDS = 0.5
ENDINGS = {
    "SUCCEEDED": "ExecutionsSucceeded",
    "FAILED": "ExecutionsFailed",
    "TIMED_OUT": "ExecutionsTimedOut",
    "ABORTED": "ExecutionsAborted",
}


def _count_executions() -> None:
    cloudwatch = _service("cloudwatch")

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def emit(execution: dict[str, Any]) -> Any:
            machine = {"StateMachineArn": str(execution.get("stateMachineArn"))}
            status = str(execution.get("status"))
            if status == "RUNNING":
                cloudwatch.record_metric("AWS/States", "ExecutionsStarted", 1, "Count", machine)
            for ending, metric in ENDINGS.items():
                if status in ENDINGS:
                    cloudwatch.record_metric(
                        "AWS/States", metric, float(status == ending), "Count", machine
                    )
            result = original(execution)
            cloudwatch._evaluate_all_alarms()
            return result

        return emit

    _replace(_service("stepfunctions"), "_emit_execution_status_event", counted)


def _count_requests() -> None:
    cloudwatch = _service("cloudwatch")
    gateway = _service("apigateway_v1")

    def counted(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def execute(api_id: str, stage: str, *rest: Any) -> Any:
            started = time.monotonic()
            answer = await original(api_id, stage, *rest)
            elapsed = (time.monotonic() - started) * 1000
            name = str((gateway._rest_apis.get(api_id) or {}).get("name", api_id))
            dimensions = {"ApiName": name, "Stage": stage}
            status = int(answer[0])
            for metric, value, unit in (
                ("Count", 1.0, "Count"),
                ("4XXError", float(400 <= status < 500), "Count"),
                ("5XXError", float(status >= 500), "Count"),
                ("Latency", elapsed, "Milliseconds"),
            ):
                cloudwatch.record_metric("AWS/ApiGateway", metric, value, unit, dimensions)
            return answer

        return execute

    _replace(gateway, "handle_execute", counted)


def _carry_bytes() -> None:
    gateway = _service("apigateway_v1")

    def importing(original: Callable[..., str]) -> Callable[..., str]:
        def load(spec: dict[str, Any], base_data: dict[str, Any] | None = None) -> str:
            binary = spec.get("x-amazon-apigateway-binary-media-types") or []
            return original(spec, {**(base_data or {}), "binaryMediaTypes": binary})

        return load

    def matching(original: Callable[..., bool]) -> Callable[..., bool]:
        def matches(media_type: str | None, binary_media_types: list[str]) -> bool:
            return "*/*" in (binary_media_types or ()) or original(media_type, binary_media_types)

        return matches

    _replace(gateway, "_import_rest_api", importing)
    _replace(gateway, "_media_type_matches", matching)


def _name_api_keys() -> None:
    """The event of a request with an API key says which key it was."""
    gateway = _service("apigateway_v1")
    asking: ContextVar[dict[str, Any] | None] = ContextVar("asking", default=None)

    def noted(original: Callable[..., Any]) -> Callable[..., Any]:
        def check(*args: Any) -> Any:
            error, key = original(*args)
            asking.set(key)
            return error, key

        return check

    def named(original: Callable[..., Any]) -> Callable[..., Any]:
        def build(*args: Any, **options: Any) -> Any:
            event = original(*args, **options)
            key = asking.get()
            if key is not None:
                identity = {"apiKey": key["value"], "apiKeyId": key["id"]}
                event["requestContext"]["identity"].update(identity)
            return event

        return build

    _replace(gateway, "_check_api_key", noted)
    _replace(gateway, "_build_lambda_event_v1", named)


def _word_errors_of_the_gateway() -> None:
    gateway = _service("apigateway_v1")

    def importing(original: Callable[..., str]) -> Callable[..., str]:
        def load(spec: dict[str, Any], base_data: dict[str, Any] | None = None) -> str:
            api_id = original(spec, base_data)
            given = spec.get("x-amazon-apigateway-gateway-responses") or {}
            for kind, response in given.items():
                gateway._put_gateway_response(api_id, kind, response)
            return api_id

        return load

    _replace(gateway, "_import_rest_api", importing)


def _measure_queues() -> None:
    cloudwatch = _service("cloudwatch")
    sqs = _service("sqs")
    known: dict[str, tuple[float, float]] = {}

    def measure() -> None:
        now = time.time()
        for queue in list(sqs._queues.values()):
            name = str(queue["name"])
            visible = float(sum(m["visible_at"] <= now for m in list(queue["messages"])))
            at, value = known.get(name, (0.0, -1.0))
            # CloudWatch has one value a minute; a change is recorded at once.
            if value != visible or now - at >= 60:
                known[name] = (now, visible)
                cloudwatch.record_metric(
                    "AWS/SQS",
                    "ApproximateNumberOfMessagesVisible",
                    visible,
                    "Count",
                    {"QueueName": name},
                )

    every(ALARM_SECONDS, measure)


def _name_object_versions() -> None:
    version: ContextVar[str | None] = ContextVar("version", default=None)

    def remembering(original: Callable[..., Any]) -> Callable[..., Any]:
        def fire(*positional: Any, **named: Any) -> None:
            token = version.set(named.get("version_id"))
            try:
                original(*positional, **named)
            finally:
                version.reset(token)

        return fire

    def naming(original: Callable[..., Any]) -> Callable[..., Any]:
        def dispatch(event: dict[str, Any], view: object = None) -> Any:
            known = version.get()
            if known is None or event.get("Source") != "aws.s3":
                return original(event, view)
            detail = json.loads(event["Detail"])
            detail["object"].setdefault("version-id", known)
            # The matcher's view of the event is made from it when none is given.
            return original(event | {"Detail": json.dumps(detail)})

        return dispatch

    _replace(_service("s3"), "_fire_s3_event", remembering)
    _replace(_service("eventbridge"), "_dispatch_event", naming)


def _give_parts_of_versions() -> None:
    s3 = _service("s3")

    def in_parts(original: Callable[..., Any]) -> Callable[..., Any]:
        def get(bucket: str, key: str, headers: dict[str, str], query: Any = None) -> Any:
            status, answered, body = original(bucket, key, headers, query)
            asked = headers.get("range", "")
            if status != HTTPStatus.OK or not asked or not s3._qp(query or {}, "versionId", ""):
                return status, answered, body
            part: tuple[int, int] | None = s3._parse_range(asked, len(body))
            if part is None:
                return status, answered, body
            start, end = part
            # A checksum is of the whole object: boto3 refuses it beside a part.
            kept = {k: v for k, v in answered.items() if "checksum" not in k.lower()}
            kept["Content-Range"] = f"bytes {start}-{end}/{len(body)}"
            kept["Content-Length"] = str(end - start + 1)
            return HTTPStatus.PARTIAL_CONTENT.value, kept, body[start : end + 1]

        return get

    _replace(s3, "_get_object", in_parts)


def _retry_events() -> None:
    eventbridge = _service("eventbridge")
    lambda_svc = _service("lambda_svc")
    parse_arn: Callable[[str], Any] = importlib.import_module("ministack.core.arn").parse_arn
    dead_letters: ContextVar[str | None] = ContextVar("dead_letters", default=None)

    def remembering(original: Callable[..., Any]) -> Callable[..., Any]:
        def invoke(target: dict[str, Any], *rest: Any) -> None:
            token = dead_letters.set((target.get("DeadLetterConfig") or {}).get("Arn"))
            try:
                original(target, *rest)
            finally:
                dead_letters.reset(token)

        return invoke

    def retrying(original: Callable[..., Any]) -> Callable[..., Any]:
        def dispatch(arn: str, payload: str) -> None:
            record, config, _ = lambda_svc._get_func_record_for_ref(arn)
            queue = dead_letters.get()
            if record and config:
                execution = lambda_svc._execution_record_for_config(record, config)
                lambda_svc.invoke_async_with_retry(execution, json.loads(payload))
            elif queue:
                eventbridge._dispatch_to_sqs(parse_arn(queue), payload)
            else:
                original(arn, payload)

        return dispatch

    _replace(eventbridge, "_invoke_target", remembering)
    _replace(eventbridge, "_dispatch_to_lambda", retrying)


def _deliver_lines() -> None:
    lambda_svc = _service("lambda_svc")

    def matching(_original: Callable[..., bool]) -> Callable[..., bool]:
        return filters.matches

    def retrying(original: Callable[..., Any]) -> Callable[..., Any]:
        def execute(record: dict[str, Any], event: Any) -> Any:
            if isinstance(event, dict) and event.keys() == {"awslogs"}:
                # A subscription waits for no answer; nobody else sends such an event.
                lambda_svc.invoke_async_with_retry(record, event)
                return {}
            return original(record, event)

        return execute

    _replace(_service("cloudwatch_logs"), "_subscription_pattern_matches", matching)
    _replace(lambda_svc, "_execute_function_with_config_scope", retrying)


def _write_whole_history() -> None:
    stepfunctions = _service("stepfunctions")
    lock = threading.Lock()
    # Each iteration runs in a copy of its parent's context: a chain of events per branch.
    last: ContextVar[int] = ContextVar("last", default=0)

    def chained(original: Callable[..., Any]) -> Callable[..., Any]:
        def add(execution: dict[str, Any], kind: str, details: dict[str, Any] | None = None) -> Any:
            with lock:
                event = original(execution, kind, details)
                event["previousEventId"] = last.get() or event["id"] - 1
                last.set(event["id"])
            return event

        return add

    def iterated(original: Callable[..., Any]) -> Callable[..., Any]:
        def run(
            states: object, start: str, payload: object, execution: dict[str, Any], ctx: Any
        ) -> Any:
            item = (ctx.get("Map") or {}).get("Item")
            if item is None:
                return original(states, start, payload, execution, ctx)
            details = {"name": ctx["State"]["Name"], "index": item["Index"]}

            def note(what: str) -> None:
                field = f"mapIteration{what}EventDetails"
                stepfunctions._add_event(execution, f"MapIteration{what}", {field: details})

            note("Started")
            try:
                result = original(states, start, payload, execution, ctx)
            except Exception:
                note("Failed")
                raise
            note("Succeeded")
            return result

        return run

    def noted(kind: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def replacement(original: Callable[..., Any]) -> Callable[..., Any]:
            # A Task is given its execution before the context; the others are not.
            def execute(state: dict[str, Any], payload: object, *rest: Any) -> Any:
                ctx = rest[-1] or {}
                execution = stepfunctions._executions.get((ctx.get("Execution") or {}).get("Id"))
                if execution is None or "Map" not in ctx:
                    return original(state, payload, *rest)
                name = ctx["State"]["Name"]
                entered = {"name": name, "input": json.dumps(payload)}
                stepfunctions._add_event(
                    execution, f"{kind}StateEntered", {"stateEnteredEventDetails": entered}
                )
                output, following = original(state, payload, *rest)
                exited = {"name": name, "output": json.dumps(output)}
                stepfunctions._add_event(
                    execution, f"{kind}StateExited", {"stateExitedEventDetails": exited}
                )
                return output, following

            return execute

        return replacement

    _replace(stepfunctions, "_add_event", chained)
    _replace(stepfunctions, "_run_sub_machine", iterated)
    for kind in ("Task", "Pass", "Choice", "Wait"):
        _replace(stepfunctions, f"_execute_{kind.lower()}", noted(kind))


def _start_once() -> None:
    stepfunctions = _service("stepfunctions")

    def once(original: Callable[..., Any]) -> Callable[..., Any]:
        def start(request: dict[str, Any]) -> Any:
            answer = original(request)
            if answer[0] != HTTPStatus.BAD_REQUEST or not request.get("name"):
                return answer
            machine = str(request.get("stateMachineArn", ""))
            arn = f"{machine.replace(':stateMachine:', ':execution:')}:{request['name']}"
            known = stepfunctions._executions.get(arn)
            same = known is not None and known["input"] == request.get("input", "{}")
            if not same or known["status"] != "RUNNING":
                return answer
            return stepfunctions.json_response(
                {"executionArn": arn, "startDate": known["startDate"]}
            )

        return start

    _replace(stepfunctions, "_start_execution", once)


def _wait_for_answers() -> None:
    stepfunctions = _service("stepfunctions")
    scale = float(os.environ["SFN_WAIT_SCALE"])
    waiting: ContextVar[str | None] = ContextVar("waiting", default=None)

    def timed(original: Callable[..., Any]) -> Callable[..., Any]:
        def execute(state: dict[str, Any], payload: Any, *rest: Any) -> Any:
            path = state.get("TimeoutSecondsPath")
            if path is not None:
                seconds = stepfunctions._resolve_path(path, payload)
                # A person's answer is waited for as any wait is: scaled.
                state = {**state, "TimeoutSeconds": float(seconds) * scale}
            return original(state, payload, *rest)

        return execute

    def awaited(original: Callable[..., Any]) -> Callable[..., Any]:
        def invoke(resource: str, data: Any, token: str, state: dict[str, Any]) -> Any:
            before = waiting.set(token)
            try:
                return original(resource, data, token, state)
            finally:
                waiting.reset(before)

        return invoke

    def told(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(function: Any, event: object) -> Any:
            try:
                return original(function, event)
            except stepfunctions._ExecutionError as exc:
                info = stepfunctions._task_tokens.get(waiting.get() or "")
                if info is not None:
                    info["error"] = {"Error": exc.error, "Cause": exc.cause}
                    info["event"].set()
                raise

        return call

    _replace(stepfunctions, "_execute_task", timed)
    _replace(stepfunctions, "_invoke_with_callback", awaited)
    _replace(stepfunctions, "_call_lambda", told)


START_SECONDS = 60.0


def _tell_of_interrupted_executions(endpoint: str) -> None:
    stepfunctions = _service("stepfunctions")

    def told(original: Callable[..., Any]) -> Callable[..., Any]:
        def load(data: dict[str, Any] | None) -> None:
            executions = (data or {}).get("executions")
            stored = list(executions.all_values()) if executions is not None else []
            interrupted = [one for one in stored if one.get("status") == "RUNNING"]
            original(data)

            def tell() -> None:
                # Rules and functions are restored after this module, and before it answers.
                deadline = time.monotonic() + START_SECONDS
                while not _answers(endpoint):
                    if time.monotonic() > deadline:
                        logger.error(
                            "nobody was told of %d interrupted executions: no answer within %d s",
                            len(interrupted),
                            START_SECONDS,
                        )
                        return
                    time.sleep(0.1)
                for execution in interrupted:
                    stepfunctions._emit_execution_status_event(execution)

            if interrupted:
                threading.Thread(target=tell, daemon=True, name="interrupted-executions").start()

        return load

    _replace(stepfunctions, "load_persisted_state", told)


def _answers(endpoint: str) -> bool:
    connection = http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=2)
    try:
        connection.request("GET", "/_ministack/health")
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _read_definitions_in_yaml() -> None:
    yaml = importlib.import_module("yaml")

    def reading(original: Callable[..., str]) -> Callable[..., str]:
        def definition(properties: dict[str, Any]) -> str:
            plain = {k: v for k, v in properties.items() if k != "DefinitionSubstitutions"}
            # JSON is YAML. CloudFormation makes JSON of it first and substitutes in that.
            text = json.dumps(yaml.safe_load(original(plain)))
            for name, value in (properties.get("DefinitionSubstitutions") or {}).items():
                text = text.replace(f"${{{name}}}", json.dumps(str(value))[1:-1])
            return text

        return definition

    _replace(_service("cloudformation.provisioners"), "_sfn_definition", reading)


def _expire_items() -> None:
    dynamodb = _service("dynamodb")
    handlers = _service("cloudformation.provisioners")._RESOURCE_HANDLERS["AWS::DynamoDB::Table"]

    def expiring(original: Callable[..., Any], position: int) -> Callable[..., Any]:
        def provision(*arguments: Any, **named: Any) -> Any:
            table, attributes = original(*arguments, **named)
            wanted = arguments[position].get("TimeToLiveSpecification")
            if wanted:
                enabled = str(wanted.get("Enabled")).lower() == "true"
                specification = wanted | {"Enabled": enabled}
                dynamodb._update_ttl({"TableName": table, "TimeToLiveSpecification": specification})
            return table, attributes

        return provision

    # The properties are the second argument of create, and the third of update, after the old.
    handlers["create"] = expiring(handlers["create"], 1)
    handlers["update"] = expiring(handlers["update"], 2)


def _evaluate_alarms() -> None:
    cloudwatch = _service("cloudwatch")
    # As all waiting is scaled: an alarm that looks back five minutes is quiet after half of one.
    period_scale = float(os.environ["SFN_WAIT_SCALE"])

    def points(namespace: str, name: str, dimensions: Mapping[str, str]) -> Points:
        key = (namespace, name, cloudwatch._dims_key(dict(dimensions)))
        return [(p["Timestamp"], p["Value"]) for p in list(cloudwatch._metrics.get(key) or ())]

    def better(_original: Callable[..., Any]) -> Callable[..., Any]:
        def evaluate(alarm: dict[str, Any]) -> None:
            verdict = judge(alarm, points, time.time(), period_scale=period_scale)
            if verdict.state != alarm["StateValue"]:
                change = {
                    "AlarmName": alarm["AlarmName"],
                    "StateValue": verdict.state,
                    "StateReason": verdict.reason,
                }
                cloudwatch._set_alarm_state({}, change, is_cbor=False, is_json=True)

        return evaluate

    _replace(cloudwatch, "_evaluate_alarm", better)

    every(ALARM_SECONDS, cloudwatch._evaluate_all_alarms)


def _accept_alarms_on_math() -> None:
    def accepting(original: Callable[..., Any]) -> Callable[..., Any]:
        def record(name: str, properties: dict[str, Any]) -> dict[str, Any]:
            queries = properties.get("Metrics")
            if not queries:
                return dict(original(name, properties))
            alarm = dict(
                original(
                    name,
                    {k: v for k, v in properties.items() if k != "Metrics"}
                    | {"MetricName": "-", "Namespace": "-"},
                )
            )
            for single in ("MetricName", "Namespace", "Statistic", "ExtendedStatistic", "Period"):
                del alarm[single]
            return alarm | {"Metrics": [_typed(query) for query in queries]}

        return record

    _replace(_service("cloudformation.provisioners"), "_cw_metric_alarm_record", accepting)


def _accept_saved_queries() -> None:
    """Saved queries of the logs are taken and forgotten: no engine's console would show them."""
    handlers = _service("cloudformation.provisioners")._RESOURCE_HANDLERS
    if "AWS::Logs::QueryDefinition" in handlers:
        raise UnknownMiniStackError("MiniStack knows saved queries now: the gap is closed")

    def create(name: str, _properties: dict[str, Any], stack: str) -> tuple[str, dict[str, Any]]:
        identifier = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{stack}/{name}"))
        return identifier, {"QueryDefinitionId": identifier}

    def update(
        identifier: str, _before: dict[str, Any], _after: dict[str, Any], _stack: str
    ) -> tuple[str, dict[str, Any]]:
        return identifier, {"QueryDefinitionId": identifier}

    def delete(_identifier: str, _properties: dict[str, Any]) -> None:
        return None

    handlers["AWS::Logs::QueryDefinition"] = {"create": create, "update": update, "delete": delete}


def _typed(query: dict[str, Any]) -> dict[str, Any]:
    """A metric query with the types of the API; a template may hold numbers and booleans as text."""
    typed = dict(query)
    if "ReturnData" in typed:
        typed["ReturnData"] = str(typed["ReturnData"]).lower() == "true"
    if "MetricStat" in typed:
        typed["MetricStat"] = typed["MetricStat"] | {"Period": int(typed["MetricStat"]["Period"])}
    return typed

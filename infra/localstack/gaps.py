"""Every place where the embedded cloud reaches into LocalStack, and nothing else does.

Written against LocalStack 4.14.0. A name that is gone stops the launcher with a sentence that says
which; a gap that an upgrade closes makes the named test of ``tests/localstack`` pass without the
patch (run it with ``EMBEDDED_CLOUD_WITHOUT=<gap>``).

=========== ========================================= ===================================
gap         name replaced                             why
=========== ========================================= ===================================
functions   (a plug-in: lambda runtime executor)      the stock executor needs Docker
tables      (a plug-in: dynamodb, dynamodbstreams)    the stock provider downloads a Java
                                                      archive
copies      (moto) Table.__deepcopy__,                a transaction copies the whole table and
            DynamoDBBackend.update_item               all that was ever written to it, so that
                                                      each takes longer than the one before
downloads   PackageInstaller.install                  a service that needs a program fetches it
                                                      when it is first used
catalog     RemoteCatalogLoader.get_remote_catalog,   what LocalStack supports is asked of a
            AwsCatalogRuntimePlugin                   server of its maker, and without an answer
            .get_cloudformation_resource_status       no resource type is supported
settle      (cloudformation) provider                 SAM CLI looks at once at the stack of its own
            .start_worker_thread                      bucket, and when that is not yet finished
                                                      again after 15 s
metrics     version_manager.LambdaVersionManager      ``AWS/Lambda`` lacks ``Duration`` and
            .invoke                                   ``Throttles``; embedded metrics in logs
                                                      are not extracted
states      execution.Execution                       there are no ``AWS/States`` metrics
            .publish_execution_status_change_event
gateway     gateway.RestApiGateway.__init__           there are no ``AWS/ApiGateway`` metrics
authorizers gateway.RestApiGateway.__init__           Lambda authorizers are stored, never asked
binary      aws.mime_type_matches_binary_media_types  an answer in bytes goes out as base64, though
                                                      all media types are binary
api-name    ApiGatewayRestApiProvider.create          a REST API is not named by the title of its
                                                      OpenAPI body
batches     CloudwatchDatabase.add_metric_data        each metric of a call is stored by itself:
                                                      beside busy threads hundreds take a
                                                      minute, and alarms look past them
alarms      AlarmScheduler.schedule_metric_alarm      an alarm is looked at once per
                                                      evaluation range, and one on metric math
                                                      or a percentile never
equals      ChangeSetModelPreproc.visit_node_     a condition that compares a parameter of type
            intrinsic_function_fn_equals              Number with a text never holds
updates     (CloudFormation) providers.update         a stack's update leaves most resources as
                                                      they were, and says that it changed them
object-key  EventBridgeNotifier                       the key in an upload's event is encoded as
            ._get_event_payload                       for a URL
dead-letter TargetSender.process_event                an event that its target refuses is gone:
                                                      no dead letter
lines       (logs) provider.get_pattern_matcher,      a log subscription is sent every line,
            provider.connect_to,                      whatever its pattern; its function is
            MotoLogGroup                              waited for, and what it fails is gone; a
            .describe_subscription_filters            stream of a group that has one cannot be
                                                      made, and its first lines are lost
stop        Environment.set_error,                    what a stop interrupts counts as a failure
            BaseExecutionWorkerCommunication          of the execution, and nobody is told who
            ._reflect_execution_status                stopped it, or why
early-stop  ExecutionWorker.start, .stop,             an execution that was started a moment
            ._get_evaluation_environment              ago cannot be stopped, nor its history read
waits       WaitFunction._wait_interval,              waits and retry pauses of state machines
            retrier_decl.time                         last as long as on AWS
asl-yaml    StepFunctionsStateMachineProvider         a definition file is read as JSON only
            ._get_definition
=========== ========================================= ===================================

In a container the first four are LocalStack's own: it has Docker and Java there.
"""

import copy
import importlib
import json
import logging
import os
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

from infra.local import filters
from infra.local.alarms import Points, evaluation_range, judge
from infra.local.executor import Executor
from infra.local.metrics import MetricValue, embedded_metrics
from infra.local.periodic import every
from infra.localstack import providers
from infra.localstack.authorizers import (
    Authorizers,
    FailedError,
    ForbiddenError,
    Question,
    UnauthorizedError,
)
from infra.localstack.functions import Functions, Services, runtime_executor
from infra.localstack.updates import (
    delete_deployment,
    stage_once,
    stage_unless_taken_over,
    updates,
)

logger = logging.getLogger(__name__)

WITHOUT = "EMBEDDED_CLOUD_WITHOUT"
WAIT_SCALE = "MILLRACE_CLOUD_WAIT_SCALE"
EXECUTOR = "process"
ALARM_SECONDS = 2.0
METRIC_SECONDS = 2.0
"""What a metric's time may be off, which is kept in whole seconds."""
SETTLE_SECONDS = 2.0
METRIC_BATCH = 500
FIRST_STATE_SECONDS = 20.0
ENDINGS = {
    "SUCCEEDED": "ExecutionsSucceeded",
    "FAILED": "ExecutionsFailed",
    "TIMED_OUT": "ExecutionsTimedOut",
    "ABORTED": "ExecutionsAborted",
}

Record = Callable[[str, list[MetricValue]], None]


class UnknownLocalStackError(RuntimeError):
    """LocalStack is not the one the patches were written for."""


def close_gaps(executor: Executor | None, endpoint: str) -> None:
    """Applies every patch that is not switched off.

    Args:
        executor: Runs the functions as processes; None where LocalStack has Docker for them.
        endpoint: Where LocalStack answers.

    Raises:
        UnknownLocalStackError: A name to replace is not there.
    """
    record = _recorder()
    scale = float(os.environ.get(WAIT_SCALE, "1"))
    patches: dict[str, Callable[[], None]] = {
        "catalog": _know_what_is_there,
        "settle": _settle_before_answering,
        "metrics": lambda: _measure_invocations(record),
        "states": lambda: _count_executions(record),
        "gateway": lambda: _count_requests(record),
        "authorizers": _ask_authorizers,
        "binary": _carry_bytes,
        "api-name": _name_apis_by_title,
        "batches": _store_metrics_together,
        "alarms": lambda: _evaluate_alarms(scale),
        "waits": lambda: _shorten_waits(scale),
        "equals": _compare_as_texts,
        "updates": _change_resources,
        "object-key": _name_objects_plainly,
        "dead-letter": _keep_undeliverable_events,
        "lines": _deliver_lines,
        "stop": _let_stopped_executions_be,
        "early-stop": _begin_executions_at_once,
        "asl-yaml": _read_definitions_in_yaml,
    }
    if executor is not None:
        patches["functions"] = lambda: _run_python_functions(executor, endpoint)
        patches["tables"] = _keep_tables_in_python
        patches["copies"] = _copy_what_transactions_change
        patches["downloads"] = _fetch_nothing
    without = set(filter(None, os.environ.get(WITHOUT, "").split(",")))
    for unknown in without - patches.keys():
        raise UnknownLocalStackError(f"{WITHOUT} names {unknown}; gaps are: {', '.join(patches)}")
    for name, apply in patches.items():
        if name not in without:
            apply()


def _module(name: str) -> Any:
    return importlib.import_module(f"localstack.{name}")


def _attribute(owner: Any, name: str) -> Any:
    if not hasattr(owner, name):
        raise UnknownLocalStackError(
            f"{owner.__name__} has no {name}: the gaps are known for the pinned version only"
        )
    return getattr(owner, name)


def _replace(owner: Any, name: str, new: Callable[[Any], Any]) -> None:
    """Replaces ``owner.name`` by ``new(old)``."""
    setattr(owner, name, new(_attribute(owner, name)))


class _WithOurs:
    """Finds a namespace's plug-ins as before, and ours."""

    def __init__(self, finder: Any, ours: list[Any]) -> None:
        self._finder = finder
        self._ours = ours

    def find_plugins(self) -> list[Any]:
        return [*self._finder.find_plugins(), *self._ours]


def _add_plugins(manager: Any, specifications: list[Any]) -> None:
    manager.finder = _WithOurs(_attribute(manager, "finder"), specifications)


def _run_python_functions(executor: Executor, endpoint: str) -> None:
    invocation = "services.lambda_.invocation"
    stock = _module(f"{invocation}.runtime_executor")
    models = _module(f"{invocation}.lambda_models")
    throttled = _attribute(_module("aws.api.lambda_"), "TooManyRequestsException")
    plugin = _attribute(_module(f"{invocation}.plugins"), "RuntimeExecutorPlugin")
    specification = importlib.import_module("plux").PluginSpec

    functions = Functions(executor, Services(endpoint=endpoint, credentials=_credentials))
    ours = runtime_executor(functions, _attribute(models, "InvocationResult"), throttled)
    lacking = _attribute(stock, "RuntimeExecutor").__abstractmethods__ - set(dir(ours))
    if lacking:
        raise UnknownLocalStackError(f"a runtime executor has to have {', '.join(lacking)}")

    def load(_self: object) -> Any:
        return ours

    process = type("ProcessRuntimeExecutorPlugin", (plugin,), {"name": EXECUTOR, "load": load})
    _add_plugins(
        _attribute(stock, "EXECUTOR_PLUGIN_MANAGER"),
        [specification(plugin.namespace, EXECUTOR, process)],
    )


def _credentials(role: str, region: str, function: str) -> Mapping[str, str]:
    """A session of a function's role, as Lambda gives it to the function."""
    sts = _connect(region).sts.request_metadata(service_principal="lambda")
    given = sts.assume_role(RoleArn=role, RoleSessionName=function, DurationSeconds=43_200)
    session = given["Credentials"]
    return {
        "AWS_ACCESS_KEY_ID": session["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": session["SecretAccessKey"],
        "AWS_SESSION_TOKEN": session["SessionToken"],
    }


def _connect(region: str) -> Any:
    return _module("aws.connect").connect_to(region_name=region)


def _keep_tables_in_python() -> None:
    plugins = _module("services.plugins")
    manager = _attribute(plugins, "SERVICE_PLUGINS").plugin_manager
    _add_plugins(manager, list(providers.specifications()))


def _copy_what_transactions_change() -> None:
    """Has moto keep a table for a failing transaction without copying its items.

    Items are then never to be changed where they stand, which only an update does.
    """
    models = importlib.import_module("moto.dynamodb.models")
    table_type = importlib.import_module("moto.dynamodb.models.table").Table

    def kept(table: Any, _memo: object) -> Any:
        made = copy.copy(table)
        made.items = copy.copy(table.items)
        for hash_key, of_hash in table.items.items():
            if isinstance(of_hash, dict):
                made.items[hash_key] = dict(of_hash)
        if table.stream_shard is not None:
            made.stream_shard = copy.copy(table.stream_shard)
            made.stream_shard.table = made
            made.stream_shard.items = list(table.stream_shard.items)
        return made

    def updating(original: Callable[..., Any]) -> Callable[..., Any]:
        def update_item(self: Any, table_name: str, key: Any, *rest: Any, **named: Any) -> Any:
            table = self.get_table(table_name)
            hash_key, range_key = self.get_keys_value(table, key)
            item = table.get_item(hash_key, range_key)
            if item is not None:
                of_hash = table.items if range_key is None else table.items[hash_key]
                of_hash[hash_key if range_key is None else range_key] = copy.deepcopy(item)
            return original(self, table_name, key, *rest, **named)

        return update_item

    table_type.__deepcopy__ = kept
    _replace(_attribute(models, "DynamoDBBackend"), "update_item", updating)


def _fetch_nothing() -> None:
    packages = _module("packages.api")
    refusal = _attribute(packages, "PackageException")

    def refusing(original: Callable[..., None]) -> Callable[..., None]:
        def install(self: Any, target: Any = None) -> None:
            if not self.is_installed():
                raise refusal(
                    f"{self.name} {self.version} would have to be fetched, and the embedded cloud "
                    "fetches nothing: the service that needs it cannot be used here"
                )
            original(self, target)

        return install

    _replace(_attribute(packages, "PackageInstaller"), "install", refusing)


def _know_what_is_there() -> None:
    loader = _module("utils.catalog.catalog_loader")
    refusal = _attribute(loader, "AwsCatalogLoaderException")
    common = _module("utils.catalog.common")
    available = _attribute(common, "CloudFormationResourcesSupportAtRuntime").AVAILABLE
    unknown = _attribute(common, "CloudFormationResourcesSupportInLatest").NOT_SUPPORTED

    def without_asking(_original: object) -> Callable[..., None]:
        def ask(_self: object) -> None:
            raise refusal("nothing is asked beyond this machine")

        return ask

    def looking(_original: object) -> Callable[..., Any]:
        def status(self: Any, resource: str, *_rest: Any, **_named: Any) -> Any:
            there = self._get_cfn_resources_available_at_runtime()
            return available if resource in there else unknown

        return status

    _replace(_attribute(loader, "RemoteCatalogLoader"), "get_remote_catalog", without_asking)
    plugin = _attribute(_module("utils.catalog.catalog"), "AwsCatalogRuntimePlugin")
    _replace(plugin, "get_cloudformation_resource_status", looking)


def _settle_before_answering() -> None:
    """A small stack is finished when the call that starts it is answered; a large one goes on."""

    def settling(original: Callable[..., Any]) -> Callable[..., Any]:
        def start(*arguments: Any, **named: Any) -> Any:
            thread = original(*arguments, **named)
            thread.join(SETTLE_SECONDS)
            return thread

        return start

    _replace(_module("services.cloudformation.v2.provider"), "start_worker_thread", settling)


def _recorder() -> Record:
    """Takes metrics to CloudWatch beside the work that made them, all that wait in one call."""
    worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="metric-recorder")
    waiting: SimpleQueue[tuple[str, float, MetricValue]] = SimpleQueue()

    def put() -> None:
        data: defaultdict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        while not waiting.empty():  # nobody else takes from it
            region, at, value = waiting.get()
            data[region, value.namespace].append(_datum(value, at))
        for (region, namespace), metrics in data.items():
            try:
                cloudwatch = _connect(region).cloudwatch
                for start in range(0, len(metrics), METRIC_BATCH):
                    batch = metrics[start : start + METRIC_BATCH]
                    cloudwatch.put_metric_data(Namespace=namespace, MetricData=batch)
            except Exception:
                logger.exception("metrics of %s were not recorded", namespace)

    def record(region: str, values: list[MetricValue]) -> None:
        at = time.time()
        for value in values:
            waiting.put((region, at, value))
        worker.submit(put)

    return record


def _datum(metric: MetricValue, at: float) -> dict[str, Any]:
    return {
        "MetricName": metric.name,
        "Value": metric.value,
        "Unit": metric.unit,
        "Timestamp": at,
        "Dimensions": [{"Name": name, "Value": value} for name, value in metric.dimensions],
    }


def _count(namespace: str, dimensions: Mapping[str, str], **values: float) -> list[MetricValue]:
    ordered = tuple(sorted(dimensions.items()))
    return [
        MetricValue(namespace=namespace, name=name, value=value, unit="Count", dimensions=ordered)
        for name, value in values.items()
    ]


def _measure_invocations(record: Record) -> None:
    versions = _attribute(
        _module("services.lambda_.invocation.version_manager"), "LambdaVersionManager"
    )
    throttled = _attribute(_module("aws.api.lambda_"), "TooManyRequestsException")

    def measured(original: Callable[..., Any]) -> Callable[..., Any]:
        def invoke(self: Any, *, invocation: Any) -> Any:
            function = self.function_version.id
            dimensions = {"FunctionName": str(function.function_name)}
            started = time.monotonic()
            try:
                result = original(self, invocation=invocation)
            except throttled:
                record(function.region, _count("AWS/Lambda", dimensions, Throttles=1.0))
                raise
            duration = MetricValue(
                namespace="AWS/Lambda",
                name="Duration",
                value=(time.monotonic() - started) * 1000,
                unit="Milliseconds",
                dimensions=tuple(dimensions.items()),
            )
            record(function.region, [duration, *embedded_metrics(result.logs or "")])
            return result

        return invoke

    _replace(versions, "invoke", measured)


def _count_executions(record: Record) -> None:
    execution = _attribute(_module("services.stepfunctions.backend.execution"), "Execution")

    def counted(original: Callable[[Any], None]) -> Callable[[Any], None]:
        def publish(self: Any) -> None:
            machine = {"StateMachineArn": str(self.state_machine.arn)}
            status = str(self.exec_status)
            if status == "RUNNING":
                values = {"ExecutionsStarted": 1.0}
            else:
                values = {name: float(status == ending) for ending, name in ENDINGS.items()}
            record(self.region_name, _count("AWS/States", machine, **values))
            original(self)

        return publish

    _replace(execution, "publish_execution_status_change_event", counted)


def _count_requests(record: Record) -> None:
    gateway = _attribute(
        _module("services.apigateway.next_gen.execute_api.gateway"), "RestApiGateway"
    )

    def count(_chain: object, context: Any, response: Any) -> None:
        if context.deployment is None:
            return
        name = str(context.deployment.rest_api.rest_api.get("name", context.api_id))
        status = int(response.status_code)
        values = {
            "Count": 1.0,
            "4XXError": float(HTTPStatus(status).is_client_error),
            "5XXError": float(HTTPStatus(status).is_server_error),
        }
        dimensions = {"ApiName": name, "Stage": str(context.stage)}
        record(str(context.region), _count("AWS/ApiGateway", dimensions, **values))

    def counting(original: Callable[..., None]) -> Callable[..., None]:
        def initialise(self: Any, *arguments: Any, **named: Any) -> None:
            original(self, *arguments, **named)
            self.response_handlers.append(count)

        return initialise

    _replace(gateway, "__init__", counting)


def _ask_authorizers() -> None:
    """Between finding the route and looking at API keys, as on AWS."""
    place = "services.apigateway.next_gen.execute_api"
    gateway = _attribute(_module(f"{place}.gateway"), "RestApiGateway")
    handlers = _module(f"{place}.handlers")
    errors = _module(f"{place}.gateway_response")
    connect_to = _attribute(_module("aws.connect"), "connect_to")
    refusals = {
        UnauthorizedError: (_attribute(errors, "UnauthorizedError"), "Unauthorized"),
        ForbiddenError: (
            _attribute(errors, "AccessDeniedError"),
            "User is not authorized to access this resource",
        ),
        FailedError: (_attribute(errors, "AuthorizerFailureError"), None),
    }

    def invoke(arn: str, event: dict[str, Any]) -> tuple[Any, bool]:
        account, region = arn.split(":")[4], arn.split(":")[3]
        client = connect_to(region_name=region, aws_access_key_id=account).lambda_
        answer = client.invoke(FunctionName=arn, Payload=json.dumps(event))
        return json.loads(answer["Payload"].read()), "FunctionError" in answer

    authorizers = Authorizers(invoke)

    def ask(_chain: object, context: Any, _response: Any) -> None:
        method = context.resource_method
        if str(method.get("authorizationType")).upper() != "CUSTOM":
            return
        request = context.invocation_request
        known = context.deployment.rest_api.authorizers
        stage = f"{context.region}:{context.account_id}:{context.api_id}/{context.stage}"
        question = Question(
            authorizer=known.get(method.get("authorizerId"), {}),
            arn=f"arn:aws:execute-api:{stage}/{request['http_method']}{request['path']}",
            headers=request["headers"],
            place=stage,
        )
        try:
            said = authorizers.context(question)
        except tuple(refusals) as exc:
            refusal, message = refusals[type(exc)]
            raise refusal(message) from exc
        context.context_variables["authorizer"] = said

    def asking(original: Callable[..., None]) -> Callable[..., None]:
        def initialise(self: Any, *arguments: Any, **named: Any) -> None:
            original(self, *arguments, **named)
            keys = self.request_handlers.index(handlers.api_key_validation_handler)
            self.request_handlers.insert(keys, ask)

        return initialise

    _replace(gateway, "__init__", asking)


def _carry_bytes() -> None:
    """``*/*`` among the binary media types is every request, one that names no type included."""

    def matching(original: Callable[..., bool]) -> Callable[..., bool]:
        def matches(mime_type: str | None, binary_media_types: list[str]) -> bool:
            return "*/*" in (binary_media_types or ()) or original(mime_type, binary_media_types)

        return matches

    _replace(
        _module("services.apigateway.next_gen.execute_api.integrations.aws"),
        "mime_type_matches_binary_media_types",
        matching,
    )


def _name_apis_by_title() -> None:
    provider = _attribute(
        _module("services.apigateway.resource_providers.aws_apigateway_restapi"),
        "ApiGatewayRestApiProvider",
    )

    def titled(original: Callable[..., Any]) -> Callable[..., Any]:
        def create(self: Any, request: Any) -> Any:
            model = request.desired_state
            body = model.get("Body")
            if not model.get("Name") and isinstance(body, dict):
                model["Name"] = str(body.get("info", {}).get("title", "")) or None
            return original(self, request)

        return create

    _replace(provider, "create", titled)


def _change_resources() -> None:
    for place, update in updates().items():
        module, _, name = place.partition(":")
        _replace(_attribute(_module(f"services.{module}"), name), "update", _always(update))
    gateway = "services.apigateway.resource_providers"
    deployments = _attribute(
        _module(f"{gateway}.aws_apigateway_deployment"), "ApiGatewayDeploymentProvider"
    )
    _replace(deployments, "delete", _always(delete_deployment))
    stages = _attribute(_module(f"{gateway}.aws_apigateway_stage"), "ApiGatewayStageProvider")
    _replace(stages, "create", stage_once)
    _replace(stages, "delete", stage_unless_taken_over)


def _always(new: Any) -> Callable[[Any], Any]:
    def replacement(_original: object) -> Any:
        return new

    return replacement


def _name_objects_plainly() -> None:
    notifier = _attribute(_module("services.s3.notifications"), "EventBridgeNotifier")

    def plainly(original: Callable[..., dict[str, Any]]) -> Any:
        def payload(ctx: Any, config_id: Any = None) -> dict[str, Any]:
            entry = original(ctx, config_id)
            detail = json.loads(entry["Detail"])
            detail["object"]["key"] = unquote(detail["object"]["key"])
            return entry | {"Detail": json.dumps(detail)}

        return staticmethod(payload)

    _replace(notifier, "_get_event_payload", plainly)


def _keep_undeliverable_events() -> None:
    sender = _attribute(_module("services.events.target"), "TargetSender")

    def kept(original: Callable[..., None]) -> Callable[..., None]:
        def process(self: Any, event: Any, trace_header: Any) -> None:
            queue = (self.target.get("DeadLetterConfig") or {}).get("Arn")
            plain = {key: value for key, value in event.items() if key != "event-bus-name"}
            letter = json.dumps(plain, default=str)
            try:
                original(self, event, trace_header)
            except Exception:
                if queue is None:
                    raise
                logger.info("%s refused an event, which goes to %s", self.target["Arn"], queue)
                *_, region, _account, name = queue.split(":")
                sqs = _connect(region).sqs
                url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
                sqs.send_message(QueueUrl=url, MessageBody=letter)

        return process

    _replace(sender, "process_event", kept)


class _WithoutWaiting:
    """A client, or what leads to one, whose invocations are not waited for."""

    def __init__(self, of: Any) -> None:
        self._of = of

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._of, name)
        return (
            partial(found, InvocationType="Event") if name == "invoke" else _WithoutWaiting(found)
        )

    def __call__(self, *positional: Any, **named: Any) -> Any:
        return _WithoutWaiting(self._of(*positional, **named))


class _Described(list[Any]):
    """Filters that can be asked for by place, as LocalStack does, and one by one, as moto does."""

    def __getitem__(self, place: Any) -> Any:
        return super().__getitem__(place).to_json()


def _deliver_lines() -> None:
    provider = _module("services.logs.provider")

    def matching(_original: object) -> Callable[[str], Callable[[str, Any], bool]]:
        def matcher(_pattern: str) -> Callable[[str, Any], bool]:
            return lambda pattern, event: filters.matches(pattern, event["message"])

        return matcher

    _replace(provider, "get_pattern_matcher", matching)

    def described(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda group: _Described(original(group))

    _replace(provider, "connect_to", _WithoutWaiting)
    group = _attribute(provider, "MotoLogGroup")
    _replace(group, "describe_subscription_filters", described)


def _let_stopped_executions_be() -> None:
    asl = "services.stepfunctions.asl.eval"
    stopped = _attribute(_module(f"{asl}.program_state"), "ProgramStopped")
    environment = _attribute(_module(f"{asl}.environment"), "Environment")
    reflection = _attribute(
        _module("services.stepfunctions.backend.execution"), "BaseExecutionWorkerCommunication"
    )

    def unless_stopped(original: Callable[..., None]) -> Callable[..., None]:
        def set_error(self: Any, error: Any) -> None:
            if not isinstance(self._program_state, stopped):
                original(self, error)

        return set_error

    def telling(original: Callable[[Any], None]) -> Callable[[Any], None]:
        def reflect(self: Any) -> None:
            original(self)
            state = self.execution.exec_worker.env.program_state()
            if isinstance(state, stopped):
                self.execution.error, self.execution.cause = state.error, state.cause

        return reflect

    _replace(environment, "set_error", unless_stopped)
    _replace(reflection, "_reflect_execution_status", telling)


def _begin_executions_at_once() -> None:
    worker = _attribute(
        _module("services.stepfunctions.backend.execution_worker"), "ExecutionWorker"
    )

    def once(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def environment(self: Any) -> Any:
            return self.env if self.env is not None else original(self)

        return environment

    def ready(original: Callable[[Any], None]) -> Callable[[Any], None]:
        def start(self: Any) -> None:
            # The thread makes it only after it has parsed the definition.
            self.env = self._get_evaluation_environment()
            original(self)

        return start

    def begun(original: Callable[..., None]) -> Callable[..., None]:
        def stop(self: Any, *positional: Any, **named: Any) -> None:
            # What has not come to its first state ignores a stop.
            deadline = time.monotonic() + FIRST_STATE_SECONDS
            while self.env.program_state() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            original(self, *positional, **named)

        return stop

    _replace(worker, "_get_evaluation_environment", once)
    _replace(worker, "start", ready)
    _replace(worker, "stop", begun)


def _store_metrics_together() -> None:
    helper = _module("services.cloudwatch.cloudwatch_database_helper")
    database = _attribute(helper, "CloudwatchDatabase")

    def together(original: Callable[..., None]) -> Callable[..., None]:
        def add(
            self: Any, account_id: str, region: str, namespace: str, metric_data: list[Any]
        ) -> None:
            single = [one for one in metric_data if one.get("Value") is not None]
            rows = [
                (
                    account_id,
                    region,
                    one["MetricName"],
                    namespace,
                    int(one["Timestamp"].timestamp() if one.get("Timestamp") else time.time()),
                    self._get_ordered_dimensions_with_separator(one.get("Dimensions")),
                    one.get("Unit"),
                    one.get("StorageResolution"),
                    one["Value"],
                )
                for one in single
            ]
            with self.DATABASE_LOCK, sqlite3.connect(self.METRICS_DB) as stored:
                stored.executemany(
                    "INSERT INTO SINGLE_METRICS (account_id, region, metric_name, namespace, "
                    "timestamp, dimensions, unit, storage_resolution, value) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    rows,
                )
            others = [one for one in metric_data if one.get("Value") is None]
            original(self, account_id, region, namespace, others)

        return add

    _attribute(database, "_get_ordered_dimensions_with_separator")
    _replace(database, "add_metric_data", together)


def _evaluate_alarms(period_scale: float) -> None:
    scheduler = _attribute(_module("services.cloudwatch.alarm_scheduler"), "AlarmScheduler")
    stores = _attribute(_module("services.cloudwatch.models"), "cloudwatch_stores")
    database = _attribute(
        _module("services.cloudwatch.cloudwatch_database_helper"), "CloudwatchDatabase"
    )

    def ours(_original: object) -> Callable[..., None]:
        def schedule(_self: object, alarm_arn: str) -> None:
            """All alarms are looked at together."""

        return schedule

    _replace(scheduler, "schedule_metric_alarm", ours)

    def look() -> None:
        for account, bundle in list(stores.items()):
            for region, store in list(bundle.items()):
                alarms = [
                    one.alarm for one in list(store.alarms.values()) if "AlarmRule" not in one.alarm
                ]
                if alarms:
                    with sqlite3.connect(database.METRICS_DB_READ_ONLY, uri=True) as stored:
                        _judge(alarms, stored, account, region, period_scale)

    every(ALARM_SECONDS, look)


def _judge(
    alarms: list[dict[str, Any]],
    stored: sqlite3.Connection,
    account: str,
    region: str,
    period_scale: float,
) -> None:
    def points(since: float, namespace: str, name: str, dimensions: Mapping[str, str]) -> Points:
        # As CloudwatchDatabase writes them.
        written = "".join(f"{key}={value}\t" for key, value in sorted(dimensions.items()))
        return stored.execute(
            "SELECT timestamp, value FROM SINGLE_METRICS WHERE account_id = ? AND region = ? "
            "AND namespace = ? AND metric_name = ? AND coalesce(dimensions, '') = ? "
            "AND timestamp >= ?",
            (account, region, namespace, name, written, since),
        ).fetchall()

    cloudwatch = _connect(region).cloudwatch
    for alarm in alarms:
        now = time.time()
        since = now - evaluation_range(alarm) * period_scale - METRIC_SECONDS
        try:
            verdict = judge(alarm, partial(points, since), now, period_scale=period_scale)
            if verdict.state != alarm["StateValue"]:
                cloudwatch.set_alarm_state(
                    AlarmName=alarm["AlarmName"],
                    StateValue=verdict.state,
                    StateReason=verdict.reason,
                )
        except Exception:  # one alarm that fails keeps no other waiting
            logger.exception("alarm %s was not judged", alarm["AlarmName"])


def _shorten_waits(scale: float) -> None:
    asl = "services.stepfunctions.asl.component"
    wait = _attribute(
        _module(f"{asl}.state.state_wait.wait_function.wait_function"), "WaitFunction"
    )

    def shorter(_original: object) -> Callable[..., None]:
        def interval(_self: object, env: Any, wait_seconds: float) -> None:
            deadline = time.monotonic() + wait_seconds * scale
            while env.is_running() and (left := deadline - time.monotonic()) > 0:
                env.program_state_event.wait(left)

        return interval

    _replace(wait, "_wait_interval", shorter)

    def scaled(original: Any) -> SimpleNamespace:
        return SimpleNamespace(sleep=lambda seconds: original.sleep(seconds * scale))

    _replace(_module(f"{asl}.common.retry.retrier_decl"), "time", scaled)


def _compare_as_texts() -> None:
    """CloudFormation's parameters are texts, numbers too; here the latter become numbers."""
    module = _module("services.cloudformation.engine.v2.change_set_model_preproc")

    def comparing(original: Callable[..., Any]) -> Callable[..., Any]:
        def visit(self: Any, node: Any) -> Any:
            arguments = self.visit(node.arguments)
            if not isinstance(arguments.after, list) or len(arguments.after) != 2:
                return original(self, node)
            return self._cached_apply(
                scope=node.scope,
                arguments_delta=arguments,
                resolver=lambda pair: str(pair[0]) == str(pair[1]),
            )

        return visit

    _replace(
        _attribute(module, "ChangeSetModelPreproc"),
        "visit_node_intrinsic_function_fn_equals",
        comparing,
    )


def _read_definitions_in_yaml() -> None:
    provider = _attribute(
        _module("services.stepfunctions.resource_providers.aws_stepfunctions_statemachine"),
        "StepFunctionsStateMachineProvider",
    )
    yaml = importlib.import_module("yaml")

    def reading(original: Callable[..., str | None]) -> Callable[..., str | None]:
        def definition(self: Any, model: dict[str, Any], s3_client: Any) -> str | None:
            plain = {k: v for k, v in model.items() if k != "DefinitionSubstitutions"}
            written = original(self, plain, s3_client)
            if written is None:
                return None
            # JSON is YAML. CloudFormation makes JSON of it first and substitutes in that.
            text = json.dumps(yaml.safe_load(written))
            for name, value in (model.get("DefinitionSubstitutions") or {}).items():
                text = text.replace(f"${{{name}}}", json.dumps(str(value))[1:-1])
            return text

        return definition

    _replace(provider, "_get_definition", reading)

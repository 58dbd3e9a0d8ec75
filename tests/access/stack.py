"""The policies of one deployment, and what AWS's own services ask for on its behalf.

The template is resolved with the deployment's parameters and the names it really got, so that what is
judged is what was deployed.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from tests.access.needs import TLS, Place
from tests.access.policies import Policies, Reader, Request, Statement
from tests.infra.access import plain
from tests.infra.deployment import Resolver, as_list, statements

PLACEHOLDER = re.compile(r"\$\{([\w:]+)(?:\.(\w+))?\}")

LAMBDA = "lambda.amazonaws.com"
STATES = "states.amazonaws.com"
EVENTS = "events.amazonaws.com"
GATEWAY = "apigateway.amazonaws.com"
ALARMS = "cloudwatch.amazonaws.com"
LOGS = "logs.amazonaws.com"

LOG_DELIVERY = (
    "logs:CreateLogDelivery",
    "logs:GetLogDelivery",
    "logs:UpdateLogDelivery",
    "logs:DeleteLogDelivery",
    "logs:ListLogDeliveries",
    "logs:PutResourcePolicy",
    "logs:DescribeResourcePolicies",
    "logs:DescribeLogGroups",
)
"""What Step Functions asks for to log; from "Using CloudWatch Logs to log execution history"."""
LAMBDA_TRACES = ("xray:PutTraceSegments", "xray:PutTelemetryRecords")
"""From "Visualize Lambda function invocations using AWS X-Ray"."""
STATES_TRACES = (*LAMBDA_TRACES, "xray:GetSamplingRules", "xray:GetSamplingTargets")
"""From "Creating an IAM policy for X-Ray" of Step Functions."""


@dataclass(frozen=True)
class Stack:
    """A deployed template.

    Attributes:
        place: Account, region and customer key.
        name: Name of the stack.
        parameters: Those that differ from the defaults, or all.
        physical: Logical id to physical id.
    """

    place: Place
    name: str
    parameters: Mapping[str, str]
    physical: Mapping[str, str]

    @classmethod
    def described(cls, name: str, cloudformation: Any) -> "Stack":
        """A stack as CloudFormation describes it.

        Args:
            name: Its name.
            cloudformation: boto3 client.
        """
        [stack] = cloudformation.describe_stacks(StackName=name)["Stacks"]
        _, partition, _, region, account, _ = stack["StackId"].split(":", 5)
        found = cloudformation.describe_stack_resources(StackName=name)["StackResources"]
        given = {p["ParameterKey"]: p["ParameterValue"] for p in stack.get("Parameters", ())}
        return cls(
            place=Place(account, region, partition, given.get("KmsKeyArn") or None),
            name=name,
            parameters=given,
            physical={r["LogicalResourceId"]: r["PhysicalResourceId"] for r in found},
        )

    def supposing(self, **parameters: str) -> "Stack":
        """The same deployment, had it been given other parameters."""
        changed = {**self.parameters, **parameters}
        place = replace(self.place, key=changed.get("KmsKeyArn") or None)
        return replace(self, place=place, parameters=changed)

    @cached_property
    def resources(self) -> dict[str, dict[str, Any]]:
        """Every resource of the template under these parameters; names still logical."""
        return Resolver(**self.parameters).resources()

    def of(self, kind: str) -> dict[str, dict[str, Any]]:
        """Properties of the resources of a type."""
        return {n: r["Properties"] for n, r in self.resources.items() if r["Type"] == kind}

    def put_in(self, text: str) -> str:
        """A text with the deployment's names in the place of logical ones."""
        return PLACEHOLDER.sub(lambda m: self._value(m[1], m[2]), text)

    def arn(self, name: str) -> str:
        """ARN of a resource by its logical name."""
        return self._value(name, "Arn")

    def _value(self, name: str, attribute: str | None) -> str:
        place = self.place
        pseudo = {
            "AWS::Partition": place.partition,
            "AWS::Region": place.region,
            "AWS::AccountId": place.account,
            "AWS::StackName": self.name,
        }
        if name in pseudo:
            return pseudo[name]
        kind, physical = self.resources[name]["Type"], self.physical[name]
        if attribute is None:
            return physical
        arns = {
            "AWS::S3::Bucket": place.bucket(physical),
            "AWS::DynamoDB::Table": place.arn("dynamodb", f"table/{physical}"),
            "AWS::SQS::Queue": place.arn("sqs", physical.rsplit("/", 1)[-1]),
            # With the asterisk, as GetAtt gives it.
            "AWS::Logs::LogGroup": place.arn("logs", f"log-group:{physical}:*"),
            "AWS::Lambda::Function": place.arn("lambda", f"function:{physical}"),
            "AWS::Events::Rule": place.arn("events", f"rule/{physical}"),
            "AWS::KMS::Key": place.arn("kms", f"key/{physical}"),
            "AWS::IAM::Role": f"arn:{place.partition}:iam::{place.account}:role/{physical}",
            "AWS::StepFunctions::StateMachine": physical,
        }
        if attribute == "Arn" and kind in arns:
            return arns[kind]
        if (attribute, kind) == ("Name", "AWS::StepFunctions::StateMachine"):
            return physical.rsplit(":", 1)[1]
        raise NotImplementedError(f"{attribute} of {kind} is not known to tests/access/stack.py")

    def _logical(self, reference: str) -> str:
        """``${TrainRole.Arn}`` as ``TrainRole``."""
        found = PLACEHOLDER.fullmatch(reference)
        if found is None:
            raise NotImplementedError(f"expected a reference to a resource, got {reference}")
        return found[1]

    # ── Policies ────────────────────────────────────────────────────────────────────────────────

    @cached_property
    def policies(self) -> Policies:
        """Of roles, of who may take them, of buckets, queues, topics and functions."""
        reader = Reader(self.put_in, plain)
        return Policies([*self._of_roles(reader), *self._of_resources(reader)])

    def _of_roles(self, reader: Reader) -> Iterator[Statement]:
        for name, role in self.resources.items():
            if role["Type"] != "AWS::IAM::Role":
                continue
            for number, one in enumerate(statements(role), 1):
                yield reader.statement(name, one, number)
            for one in role["Properties"]["AssumeRolePolicyDocument"]["Statement"]:
                trust = {"Sid": "trust", "Resource": f"${{{name}.Arn}}", **one}
                yield reader.statement(name, trust)

    def _of_resources(self, reader: Reader) -> Iterator[Statement]:
        for kind in ("AWS::S3::BucketPolicy", "AWS::SQS::QueuePolicy", "AWS::SNS::TopicPolicy"):
            for name, properties in self.of(kind).items():
                for number, one in enumerate(properties["PolicyDocument"]["Statement"], 1):
                    yield reader.statement(name, one, number)
        for name, permission in self.of("AWS::Lambda::Permission").items():
            function = self._logical(permission["FunctionName"])
            document = {
                "Sid": "permission",
                "Effect": "Allow",
                "Principal": {"Service": permission["Principal"]},
                "Action": permission["Action"],
                "Resource": f"${{{function}.Arn}}",
            }
            if "SourceArn" in permission:
                # What CloudFormation makes of it.
                document["Condition"] = {"ArnLike": {"aws:SourceArn": permission["SourceArn"]}}
            yield reader.statement(name, document)

    # ── Who asks ────────────────────────────────────────────────────────────────────────────────

    @cached_property
    def roles(self) -> dict[str, str]:
        """Physical name of a function to the logical name of its role."""
        return {
            self.physical[name]: self._logical(properties["Role"])
            for name, properties in self.of("AWS::Lambda::Function").items()
        }

    def by_configuration(self) -> dict[Request, str]:
        """What AWS's services will ask for because of how the deployment is set up, and why."""
        return dict(
            [
                *self._roles_taken(),
                *self._events(),
                *self._subscriptions(),
                *self._api_calls(),
                *self._alarms(),
                *self._dead_letters(),
                *self._traces_and_logs(),
            ]
        )

    def _roles_taken(self) -> Iterator[tuple[Request, str]]:
        account = (("aws:sourceaccount", (self.place.account,)),)
        for name, properties in self.of("AWS::Lambda::Function").items():
            role = self._logical(properties["Role"])
            yield Request(LAMBDA, "sts:AssumeRole", self.arn(role), account), f"{name} runs"
        for name, properties in self.of("AWS::StepFunctions::StateMachine").items():
            role = self._logical(properties["RoleArn"])
            yield Request(STATES, "sts:AssumeRole", self.arn(role), account), f"{name} runs"

    def _from(self, arn: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
        return (
            TLS[0],
            ("aws:sourceaccount", (self.place.account,)),
            ("aws:sourcearn", (arn,)),
        )

    def _events(self) -> Iterator[tuple[Request, str]]:
        for name, rule in self.of("AWS::Events::Rule").items():
            source = self._from(self.arn(name))
            for target in rule["Targets"]:
                function = self.put_in(target["Arn"])
                yield Request(EVENTS, "lambda:InvokeFunction", function, source), f"{name} fires"
                letters = target.get("DeadLetterConfig")
                if letters:
                    queue = self.put_in(letters["Arn"])
                    why = f"{name} cannot deliver"
                    yield Request(EVENTS, "sqs:SendMessage", queue, source), why

    def _subscriptions(self) -> Iterator[tuple[Request, str]]:
        for name, subscription in self.of("AWS::Logs::SubscriptionFilter").items():
            group = self._logical(subscription["LogGroupName"])
            function = self.put_in(subscription["DestinationArn"])
            source = self._from(self.arn(group))
            yield Request(LOGS, "lambda:InvokeFunction", function, source), f"{name} delivers"

    def _api_calls(self) -> Iterator[tuple[Request, str]]:
        for name, api in self.of("AWS::ApiGateway::RestApi").items():
            for path, methods in api["Body"]["paths"].items():
                for method, operation in methods.items():
                    if method == "parameters":
                        continue
                    integration = operation["x-amazon-apigateway-integration"]
                    if integration["type"] != "aws_proxy":
                        continue
                    uri = self.put_in(integration["uri"])
                    function = uri.split("/functions/")[1].removesuffix("/invocations")
                    for stage in self.of("AWS::ApiGateway::Stage").values():
                        source = self.place.arn(
                            "execute-api",
                            f"{self.physical[name]}/{stage['StageName']}/{method.upper()}{path}",
                        )
                        request = Request(
                            GATEWAY, "lambda:InvokeFunction", function, self._from(source)
                        )
                        yield request, f"{method.upper()} {path} is called"

    def _alarms(self) -> Iterator[tuple[Request, str]]:
        for name, alarm in self.of("AWS::CloudWatch::Alarm").items():
            for action in (*alarm.get("AlarmActions", ()), *alarm.get("OKActions", ())):
                source = self._from(self.place.arn("cloudwatch", f"alarm:{self.physical[name]}"))
                topic = self.put_in(action)
                yield Request(ALARMS, "sns:Publish", topic, source), f"{name} changes"

    def _dead_letters(self) -> Iterator[tuple[Request, str]]:
        """Lambda hands an event over with the function's own role."""
        for config in self.of("AWS::Lambda::EventInvokeConfig").values():
            function = self._logical(config["FunctionName"])
            role = self._logical(self.resources[function]["Properties"]["Role"])
            letters = (config.get("DestinationConfig") or {}).get("OnFailure")
            if not letters:
                continue
            queue = self.put_in(letters["Destination"])
            yield (
                Request(role, "sqs:SendMessage", queue, TLS[:1]),
                f"{function} failed an event for good",
            )

    def _traces_and_logs(self) -> Iterator[tuple[Request, str]]:
        for name, function in self.of("AWS::Lambda::Function").items():
            if function.get("TracingConfig", {}).get("Mode") == "Active":
                role = self._logical(function["Role"])
                for action in LAMBDA_TRACES:
                    yield Request(role, action, "*"), f"{name} is traced"
        for name, machine in self.of("AWS::StepFunctions::StateMachine").items():
            role = self._logical(machine["RoleArn"])
            if machine.get("LoggingConfiguration", {}).get("Level", "OFF") != "OFF":
                for action in LOG_DELIVERY:
                    yield Request(role, action, "*"), f"{name} is set up to log"
            if machine.get("TracingConfiguration", {}).get("Enabled"):
                for action in STATES_TRACES:
                    yield Request(role, action, "*"), f"{name} is traced"

    # ── What was seen ───────────────────────────────────────────────────────────────────────────

    def logged(self, streams: Mapping[str, Iterable[str]]) -> dict[Request, str]:
        """What Lambda asked for, with a function's role, to write the logs that are there.

        Args:
            streams: Physical name of a log group to the names of its streams.
        """
        found: dict[Request, str] = {}
        for name, function in self.of("AWS::Lambda::Function").items():
            group = self.put_in(function["LoggingConfig"]["LogGroup"])
            for stream in streams.get(group, ()):
                arn = self.place.arn("logs", f"log-group:{group}:log-stream:{stream}")
                for action in ("logs:CreateLogStream", "logs:PutLogEvents"):
                    request = Request(self._logical(function["Role"]), action, arn)
                    found[request] = f"{name} logged"
        return found

    def entered(
        self, machine: str, definition: Mapping[str, Any], states: Iterable[str]
    ) -> dict[Request, str]:
        """What Step Functions asked for to run the states that executions entered.

        Args:
            machine: Logical name of the machine.
            definition: The machine as deployed.
            states: Names of the states entered.
        """
        role = self._logical(self.of("AWS::StepFunctions::StateMachine")[machine]["RoleArn"])
        tasks = dict(_tasks(definition))
        seen = set(states)
        found: dict[Request, str] = {}
        for name, state in definition["States"].items():
            if name in seen and _is_distributed(state):
                # Its children are executions of their own, which no history of the parent shows.
                seen |= state["ItemProcessor"]["States"].keys()
                for action, resource in self._of_children(machine):
                    found[Request(role, action, resource)] = f"state {name} was entered"
        for state in seen & tasks.keys():
            found[Request(role, "lambda:InvokeFunction", tasks[state])] = (
                f"state {state} was entered"
            )
        return found

    def _of_children(self, machine: str) -> Iterator[tuple[str, str]]:
        """What a Distributed Map does with its child executions."""
        arn = self.physical[machine]
        children = arn.replace(":stateMachine:", ":execution:", 1) + ":*"
        yield "states:StartExecution", arn
        yield "states:DescribeExecution", children
        yield "states:StopExecution", children


def _is_distributed(state: Mapping[str, Any]) -> bool:
    processor = state.get("ItemProcessor") or {}
    return bool(processor.get("ProcessorConfig", {}).get("Mode") == "DISTRIBUTED")


def _tasks(machine: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and function of every Task, those inside a Map or a Parallel too."""
    for name, state in machine["States"].items():
        if state["Type"] == "Task":
            resource = state["Resource"]
            if resource.endswith(":lambda:invoke.waitForTaskToken"):
                resource = state["Parameters"]["FunctionName"]
            if ":lambda:" not in resource or ":function:" not in resource:
                raise NotImplementedError(f"{name}: rights of {state['Resource']} are not known")
            yield name, resource
        inner = state.get("ItemProcessor") or state.get("Iterator")
        for machine_inside in [inner] if inner else state.get("Branches", ()):
            yield from _tasks(machine_inside)


def attached(role: str, iam: Any) -> list[dict[str, Any]]:
    """Every inline statement of a role as IAM holds it, written alike.

    Args:
        role: Its physical name.
        iam: boto3 client.
    """
    found = []
    for policy in iam.list_role_policies(RoleName=role)["PolicyNames"]:
        document = iam.get_role_policy(RoleName=role, PolicyName=policy)["PolicyDocument"]
        held = json.loads(document) if isinstance(document, str) else document
        found += [alike(one) for one in held["Statement"]]
    return found


def alike(statement: Mapping[str, Any]) -> dict[str, Any]:
    """A statement with its actions and resources in order."""
    return {
        **statement,
        "Action": sorted(as_list(statement["Action"])),
        "Resource": sorted(as_list(statement["Resource"])),
    }

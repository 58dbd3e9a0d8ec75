"""The verbs `keys` and `policy`: API keys of a stack, and the IAM policies of its roles.

Keys are made with the caller's own AWS credentials, as the stack itself is: the API hands out none.
API Gateway keeps the key and its limits; what role it has stands in the registry's table, where the
functions read it.
"""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.table import Table as Columns
from rich.text import Text

from millrace.aws.dynamodb import ABSENT, DynamoTable, Put, Update
from millrace.aws.translate import translated
from millrace.errors import ConfigurationError, ConflictError, MillraceError, NotFoundError
from millrace.http.keys import key_item, key_record
from millrace.http.policies import policy_of
from millrace.http.roles import Authorizer, Role, read_roles, write_roles
from millrace_cli.console import JsonFlag, chosen, out, print_json, reported
from millrace_cli.target import Target

if TYPE_CHECKING:
    from mypy_boto3_apigateway.client import APIGatewayClient

app = typer.Typer(
    name="keys",
    help="API keys of a stack that is deployed with ApiAuthorizer=API_KEY.",
    no_args_is_help=True,
)
policies = typer.Typer()

_STAGE: Final = "live"
_PAGE: Final = 500

RoleOption = Annotated[
    list[Role], typer.Option("--role", help="What its holder is; repeatable: roles add up.")
]


class Period(StrEnum):
    """What a quota counts in."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as people see it; its value is not part of it.

    Attributes:
        id: API Gateway's id.
        name: What it is called: the client's name, or the role of a key that the template made.
        roles: What its holder is, empty when it opens nothing.
        made_by: ``template``, or ``command``.
        limits: Of its usage plan, in words.
    """

    id: str
    name: str
    roles: str
    made_by: str
    limits: str


class Keys:
    """The API keys of one deployment.

    Args:
        target: The deployment.
    """

    def __init__(self, target: Target) -> None:
        outputs = target.outputs
        if outputs.authorizer != Authorizer.API_KEY:
            raise ConfigurationError(
                f"stack {target.stack!r} is deployed with ApiAuthorizer={outputs.authorizer}: API keys "
                "open it only with API_KEY"
            )
        self._target = target
        self._raw = outputs.raw
        self._closing = ExitStack()
        self._gateway: APIGatewayClient = self._client("apigateway")
        dynamodb = self._client("dynamodb")
        self._table = DynamoTable(dynamodb, self._output("TableName"))

    def close(self) -> None:
        """Closes its connections."""
        self._closing.close()

    def create(
        self,
        name: str,
        roles: list[Role],
        *,
        rate: float | None = None,
        burst: int | None = None,
        quota: int | None = None,
        period: Period = Period.DAY,
    ) -> tuple[ApiKey, str]:
        """Makes a key.

        Args:
            name: Of its client, once per stack.
            roles: What its holder is.
            rate: Steady requests per second; by default its role's plan says.
            burst: Requests at once.
            quota: Requests per period.
            period: Of the quota.

        Returns:
            The key and its value.

        Raises:
            ConflictError: There is a key of this name.
        """
        if any(key.name == name for key in self.all()):
            raise ConflictError(
                f"there is a key {name!r} already: revoke it first, or name another"
            )
        with translated(f"create API key {name}"):
            made = self._gateway.create_api_key(
                name=self._full(name),
                description=f"{self._target.stack}: {write_roles(roles)}",
                enabled=True,
            )
        identifier, plan = made["id"], None
        try:
            record = key_record(roles=roles, name=name, actor=self._actor(), at=datetime.now(UTC))
            self._table.transact(
                [Put("the key's record", key_item(identifier), record, ABSENT)],
                f"record the roles of key {name}",
            )
            if rate is None and burst is None and quota is None:
                whose = "Predictor" if roles == [Role.PREDICTOR] else "Staff"
                joined = self._output(f"{whose}UsagePlanId")
            else:
                joined = plan = self._plan(name, rate, burst, quota, period)
            with translated(f"join API key {name} to its usage plan"):
                self._gateway.create_usage_plan_key(
                    usagePlanId=joined, keyId=identifier, keyType="API_KEY"
                )
        except MillraceError:
            # What is half made opens nothing; it is taken away again for tidiness.
            with translated(f"delete API key {name}"):
                self._gateway.delete_api_key(apiKey=identifier)
                if plan is not None:
                    self._gateway.delete_usage_plan(usagePlanId=plan)
            raise
        key = next(k for k in self.all() if k.id == identifier)
        return key, made["value"]

    def all(self) -> list[ApiKey]:
        """Every key that some usage plan lets into this API, the template's first."""
        found: list[ApiKey] = []
        made = self._made()
        for plan in self._plans():
            for key in self._joined(plan["id"]):
                role = made.get(key["id"])
                if role is None:
                    item = self._table.get(key_item(key["id"])) or {}
                    name = str(item.get("name") or key["name"])
                    roles = write_roles(read_roles(str(item.get("roles", "")).split()))
                else:
                    name = roles = role
                by = "command" if role is None else "template"
                found.append(ApiKey(key["id"], name, roles, by, _limits(plan)))
        return sorted(found, key=lambda k: (k.made_by == "command", k.name))

    def named(self, name: str) -> ApiKey:
        """The key with this name or id.

        Raises:
            NotFoundError: There is none.
        """
        for key in self.all():
            if name in (key.name, key.id):
                return key
        raise NotFoundError(f"there is no key {name!r}: `millrace keys list` shows them")

    def value(self, key: ApiKey) -> str:
        """What its holder sends."""
        with translated(f"read API key {key.name}"):
            return self._gateway.get_api_key(apiKey=key.id, includeValue=True)["value"]

    def revoke(self, key: ApiKey) -> None:
        """Deletes a key; it is refused from then on.

        Raises:
            ConflictError: The template made it.
        """
        if key.made_by == "template":
            raise ConflictError(
                f"key {key.name} belongs to the template, which would miss it: make your clients keys "
                "of their own and tell nobody this one"
            )
        plans = self._plans()
        own = [p["id"] for p in plans if p.get("name") == self._full(key.name)]
        joined = [p["id"] for p in plans if any(k["id"] == key.id for k in self._joined(p["id"]))]
        with translated(f"delete API key {key.name}"):
            for plan in joined:
                self._gateway.delete_usage_plan_key(usagePlanId=plan, keyId=key.id)
            self._gateway.delete_api_key(apiKey=key.id)
            for plan in own:
                api = f"{self._output('ApiId')}:{_STAGE}"
                self._gateway.update_usage_plan(
                    usagePlanId=plan,
                    patchOperations=[{"op": "remove", "path": "/apiStages", "value": api}],
                )
                self._gateway.delete_usage_plan(usagePlanId=plan)
        taken = {
            "roles": "",
            "revoked_at": datetime.now(UTC).isoformat(),
            "revoked_by": self._actor(),
        }
        self._table.transact(
            [Update("the key's record", key_item(key.id), taken)],
            f"take the roles of key {key.name}",
        )

    def _output(self, name: str) -> str:
        """An output of the stack.

        Raises:
            ConfigurationError: The stack is of an older template.
        """
        if name not in self._raw:
            raise ConfigurationError(
                f"stack {self._target.stack!r} has no output {name}: deploy the present template"
            )
        return self._raw[name]

    def _plan(
        self, name: str, rate: float | None, burst: int | None, quota: int | None, period: Period
    ) -> str:
        """A usage plan for one key alone."""
        request: dict[str, Any] = {
            "name": self._full(name),
            "description": f"{self._target.stack}: limits of {name} alone",
            "apiStages": [{"apiId": self._output("ApiId"), "stage": _STAGE}],
        }
        if rate is not None or burst is not None:
            steady = rate if rate is not None else float(burst or 1)
            request["throttle"] = {
                "rateLimit": steady,
                "burstLimit": burst if burst is not None else max(1, round(2 * steady)),
            }
        if quota is not None:
            request["quota"] = {"limit": quota, "period": period.value.upper()}
        with translated(f"create the usage plan of {name}"):
            return self._gateway.create_usage_plan(**request)["id"]

    def _plans(self) -> list[Any]:
        with translated("list usage plans"):
            return [
                plan
                for page in self._gateway.get_paginator("get_usage_plans").paginate(
                    PaginationConfig={"PageSize": _PAGE}
                )
                for plan in page["items"]
                if any(s.get("apiId") == self._output("ApiId") for s in plan.get("apiStages", ()))
            ]

    def _joined(self, plan: str) -> Iterator[Any]:
        with translated(f"list the keys of usage plan {plan}"):
            pages = self._gateway.get_paginator("get_usage_plan_keys").paginate(
                usagePlanId=plan, PaginationConfig={"PageSize": _PAGE}
            )
            for page in pages:
                yield from page["items"]

    def _made(self) -> dict[str, str]:
        """Keys of the template and their roles, by id."""
        outputs = {
            role: "ApiKeyId" if role is Role.ADMIN else f"{role.capitalize()}ApiKeyId"
            for role in Role
        }
        return {self._output(output): role.value for role, output in outputs.items()}

    def _full(self, name: str) -> str:
        return f"{self._target.stack}-{name}"

    def _actor(self) -> str:
        with translated("ask who I am"):
            return str(self._client("sts").get_caller_identity()["Arn"])

    def _client(self, service: Any) -> Any:
        client = self._target.session.client(
            service, endpoint_url=self._target.endpoint_url, region_name=self._target.region
        )
        return self._closing.enter_context(closing(client))


def _limits(plan: Any) -> str:
    throttle, quota = plan.get("throttle") or {}, plan.get("quota") or {}
    words = []
    if throttle:
        words.append(f"{throttle.get('rateLimit', 0):g}/s, {throttle.get('burstLimit')} at once")
    if quota:
        words.append(f"{quota['limit']:,} a {str(quota.get('period', '')).lower()}")
    return "; ".join(words) or "the stage's alone"


def _open(context: typer.Context) -> Keys:
    target = chosen(context).target()
    keys = Keys(target)
    context.call_on_close(target.close)
    context.call_on_close(keys.close)
    return keys


@app.command(epilog="Example: millrace keys create shop --role predictor --rate 5 --quota 10000")
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the client that gets it.")],
    role: RoleOption,
    rate: Annotated[
        float | None,
        typer.Option("--rate", min=0.01, help="Steady requests per second; default: its role's."),
    ] = None,
    burst: Annotated[
        int | None,
        typer.Option("--burst", min=1, help="Requests at once; default: twice the rate."),
    ] = None,
    quota: Annotated[
        int | None, typer.Option("--quota", min=1, help="Requests per period.")
    ] = None,
    period: Annotated[Period, typer.Option("--period", help="Period of the quota.")] = Period.DAY,
    as_json: JsonFlag = False,
) -> None:
    """Make an API key for a client, with a role and limits of its own."""
    with reported(as_json):
        key, value = _open(context).create(
            name, role, rate=rate, burst=burst, quota=quota, period=period
        )
    if as_json:
        print_json({**asdict(key), "value": value})
        return
    out.print(Text(f"key {key.name} ({key.id}): {key.roles}; {key.limits}"))
    out.print(Text.assemble(("send it as x-api-key: ", "dim"), value), soft_wrap=True)


@app.command("list", epilog="Example: millrace keys list --json")
def list_keys(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Show every key that opens the API, with its role and limits; no values."""
    with reported(as_json):
        found = _open(context).all()
    if as_json:
        print_json([asdict(key) for key in found])
        return
    table = Columns("name", "roles", "limits", "made by", "id", box=None, header_style="bold")
    for key in found:
        table.add_row(key.name, key.roles or "[red]none[/]", key.limits, key.made_by, key.id)
    out.print(table)


@app.command(epilog="Example: export MILLRACE_API_KEY=$(millrace keys show viewer)")
def show(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(help="Name or id of the key; of the template's, the role.")
    ],
    as_json: JsonFlag = False,
) -> None:
    """Print the value of a key."""
    with reported(as_json):
        keys = _open(context)
        key = keys.named(name)
        value = keys.value(key)
    if as_json:
        print_json({**asdict(key), "value": value})
    else:
        out.print(Text(value), soft_wrap=True)


@app.command(epilog="Example: millrace keys revoke shop")
def revoke(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name or id of the key.")],
    as_json: JsonFlag = False,
) -> None:
    """Delete a key: whoever sends it is refused from then on."""
    with reported(as_json):
        keys = _open(context)
        key = keys.named(name)
        keys.revoke(key)
    if as_json:
        print_json({**asdict(key), "revoked": True})
    else:
        out.print(Text(f"key {key.name} ({key.id}) is revoked"))


@policies.command(epilog="Example: millrace policy viewer > viewer.json")
def policy(
    context: typer.Context,
    role: Annotated[Role, typer.Argument(help="The role.")],
) -> None:
    """Print the IAM policy that lets its holder call the API as one role (ApiAuthorizer=IAM)."""
    with reported(as_json=False):
        target = chosen(context).target()
        context.call_on_close(target.close)
        outputs = target.outputs
        client = target.session.client(
            "sts", endpoint_url=target.endpoint_url, region_name=target.region
        )
        with closing(client), translated("ask who I am"):
            _, partition, _, _, account, _ = client.get_caller_identity()["Arn"].split(":", 5)
        stage = f"arn:{partition}:execute-api:{target.region}:{account}:{outputs.raw['ApiId']}"
        document = policy_of([role], f"{stage}/{_STAGE}")
    print_json(document)

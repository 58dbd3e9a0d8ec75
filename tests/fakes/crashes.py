"""Crashes at a chosen write call: before AWS sees it, or after it was done."""

import re
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from millrace.aws.clients import client

When = Literal["before", "after"]

type Service = Literal["dynamodb", "stepfunctions", "sns", "events", "s3"]
SERVICES: Final[tuple[Service, ...]] = ("dynamodb", "stepfunctions", "sns", "events")
"""Those whose calls change what others see. Objects in S3 have names of their content."""
READ: Final = re.compile(r"(Get|Describe|Query|List|BatchGet|Scan|TransactGet)")
"""How operations that only read begin; every other one is a write."""


_installed: list[tuple[Any, str, Any]] = []


def uninstall_all() -> None:
    """Takes every hook out again; the clients outlive the tests, as making them is slow."""
    while _installed:
        events, name, handler = _installed.pop()
        events.unregister(name, handler)


class Killed(BaseException):
    """The process is gone: nothing of ours catches it, as nothing runs after a kill."""


@dataclass
class Crash:
    """Kills at the n-th write call of the process's clients; counts them when n is None.

    Attributes:
        at: Number of the write call, from 0.
        when: Before AWS sees it, or when it was done and the answer is lost.
        calls: The write calls so far.
        services: Whose.
    """

    at: int | None = None
    when: When = "before"
    calls: list[str] = field(default_factory=list)
    armed: bool = True
    services: tuple[Service, ...] = SERVICES

    def install(self) -> None:
        """Hooks into the process's clients, until `uninstall_all`."""
        for service in self.services:
            events = client(service).meta.events
            for hook, handler in (("before-call", self._before), ("after-call", self._after)):
                name = f"{hook}.{service}"
                events.register_first(name, handler)
                _installed.append((events, name, handler))

    def _before(self, model: Any, **_: Any) -> None:
        if not self.armed or READ.match(model.name):
            return
        self.calls.append(model.name)
        if self.when == "before" and self.at == len(self.calls) - 1:
            self.armed = False
            raise Killed(model.name)

    def _after(self, model: Any, **_: Any) -> None:
        if READ.match(model.name):
            return
        if self.armed and self.when == "after" and self.at == len(self.calls) - 1:
            self.armed = False
            raise Killed(model.name)

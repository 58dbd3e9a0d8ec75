"""What handlers ask AWS for in the test's own process, held against what their roles grant.

moto enforces no role. Each call that a handler makes during a test is kept with the names that the
handler's environment gives the deployment's resources, and judged when the test is over.
"""

import os
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, Final

from infra.local.calls import Call as Line
from infra.local.calls import Recorder
from tests.access.compare import Denied, denied
from tests.access.needs import Call, Place, RecordingError, all_needed
from tests.access.stack import PLACEHOLDER, Stack
from tests.infra.deployment import ROOT, TOKENS, Resolver

HERE: Final = Place("123456789012", "us-east-1")
STACK: Final = "millrace"
PARAMETERS: Final = {"HeartbeatMinutes": "5", "SignArtifacts": "require"}
"""With what every function but the authorizer is deployed, which comes with tokens."""
_FUNCTIONS: Final = f"{ROOT / 'functions'}{os.sep}"
_TESTS: Final = f"{ROOT / 'tests'}{os.sep}"

type Names = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Asked:
    """A call of a handler.

    Attributes:
        function: Its folder.
        names: Logical name and physical one of what its environment names.
        call: The call.
    """

    function: str
    names: Names
    call: Call


class Watch:
    """Keeps the calls that handlers of ``functions/`` make in this process.

    Attributes:
        calls: Those since the last judgement.
        faults: What could not be recorded since then.
    """

    def __init__(self) -> None:
        self.calls: list[Asked] = []
        self.faults: list[str] = []
        self._lock = threading.Lock()

    def keep(self, line: Line) -> None:
        """Keeps a line of the recorder, on the thread of its call."""
        function = _asking(sys._getframe())
        if function is None:
            return
        with self._lock:
            if "fault" in line:
                self.faults.append(line["fault"])
                return
            call = Call.of({"function": f"{STACK}-{function}", **line})
            self.calls.append(Asked(function, _named(function), call))

    def refused(self) -> list[Denied]:
        """What AWS would refuse of everything since the last time.

        Raises:
            RecordingError: A call could not be recorded.
        """
        with self._lock:
            calls, faults = self.calls, self.faults
            self.calls, self.faults = [], []
        if faults:
            raise RecordingError(f"a call was not recorded: {faults[0]}")
        by_stack: dict[tuple[str, Names], list[Call]] = {}
        for one in calls:
            by_stack.setdefault((one.function, one.names), []).append(one.call)
        found = []
        for (function, names), asked in by_stack.items():
            stack = _stack(function, names)
            found += denied(all_needed(asked, stack.roles, stack.place), stack.policies)
        return found


@cache
def watch() -> Watch:
    """The watch of this process, installed once: clients that are made stay as they are."""
    made = Watch()
    Recorder(made.keep).install()
    return made


def _asking(frame: FrameType | None) -> str | None:
    """The function whose handler makes the call; None where a test makes it, also from within one.

    A thread that knows neither was begun by the one handler that runs.
    """
    asking = _asker(frame)
    if asking is not None:
        return asking or None
    running = {_asker(other) for other in sys._current_frames().values()} - {None, ""}
    return running.pop() if len(running) == 1 else None


def _asker(frame: FrameType | None) -> str | None:
    """The innermost of a thread's functions and tests: a test's name is empty, and none is None."""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_FUNCTIONS):
            return Path(file).parent.name
        if file.startswith(_TESTS) and file != __file__:
            return ""
        frame = frame.f_back
    return None


@cache
def _resources(function: str) -> dict[str, dict[str, Any]]:
    return Resolver(**_parameters(function)).resources()


def _parameters(function: str) -> Mapping[str, str]:
    return TOKENS if function == "authorizer" else PARAMETERS


def _named(function: str) -> Names:
    """What the function's environment calls the resources that the template puts there."""
    logical = f"{function.capitalize()}Function"
    written = _resources(function)[logical]["Properties"]["Environment"]["Variables"]
    found = set()
    for variable, value in written.items():
        named = PLACEHOLDER.fullmatch(str(value))
        given = os.environ.get(variable)
        if named is not None and given is not None and not named[1].startswith("AWS::"):
            found.add((named[1], given))
    return frozenset(found)


@cache
def _stack(function: str, names: Names) -> Stack:
    """The deployment, under the names that a test gave it; what it did not name has some name."""
    resources = _resources(function)
    return Stack(
        HERE,
        STACK,
        _parameters(function),
        {name: _physical(name, one["Type"]) for name, one in resources.items()} | dict(names),
    )


def _physical(name: str, kind: str) -> str:
    match kind:
        case "AWS::Lambda::Function":
            return f"{STACK}-{name.removesuffix('Function').lower()}"
        case "AWS::StepFunctions::StateMachine":
            machine = name.removesuffix("StateMachine").lower()
            return HERE.arn("states", f"stateMachine:{STACK}-{machine}")
        case "AWS::SNS::Topic":
            return HERE.arn("sns", f"{STACK}-{name}")
        case _:
            return f"{STACK}-{name}"

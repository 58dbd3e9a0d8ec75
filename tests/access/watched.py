"""What handlers ask AWS for in the test's own process, held against what their roles grant.

moto enforces no role. Each call that a handler makes during a test is kept with the names that the
handler's environment gives the deployment's resources, and judged when the test is over.
"""

import os
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from types import FrameType
from typing import Any, Final

import moto

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
_OTHERS: Final = (f"{ROOT / 'tests'}{os.sep}", f"{Path(moto.__file__).parent}{os.sep}")

type Names = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Asker:
    """A handler that runs.

    Attributes:
        function: Its folder.
        names: Logical name and physical one of what its environment names.
    """

    function: str
    names: Names


class Watch:
    """Keeps the calls that handlers of ``functions/`` make in this process.

    Attributes:
        calls: Those since the last judgement, and who made them.
        faults: What could not be recorded since then.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Asker, Call]] = []
        self.faults: list[str] = []
        self._lock = threading.Lock()

    def keep(self, line: Line) -> None:
        """Keeps a line of the recorder, on the thread of its call."""
        asker = _asking(sys._getframe())
        if asker is None:
            return
        with self._lock:
            if "fault" in line:
                self.faults.append(line["fault"])
                return
            call = Call.of({"function": f"{STACK}-{asker.function}", **line})
            self.calls.append((asker, call))

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
        by_asker: dict[Asker, list[Call]] = {}
        for asker, call in calls:
            by_asker.setdefault(asker, []).append(call)
        found = []
        for asker, asked in by_asker.items():
            stack = _stack(asker)
            found += denied(all_needed(asked, stack.roles, stack.place), stack.policies)
        return found


@cache
def watch() -> Watch:
    """The watch of this process, installed once: clients that are made stay as they are."""
    made = Watch()
    Recorder(made.keep).install()
    executor: Any = ThreadPoolExecutor
    executor.submit = _remembering(executor.submit)
    thread: Any = threading.Thread
    thread.start = _remembered(thread.start)
    return made


# ── Who asks ────────────────────────────────────────────────────────────────────────────────────

_working_for = threading.local()
"""Of a pool's thread: ``asker``, for whom it works right now."""


def _remembering(submit: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(submit)
    def submitting(pool: Any, work: Callable[..., Any], /, *given: Any, **named: Any) -> Any:
        asker = _asking(sys._getframe())

        def working() -> Any:
            _working_for.asker = asker
            try:
                return work(*given, **named)
            finally:
                del _working_for.asker

        return submit(pool, working)

    return submitting


def _remembered(start: Callable[[Any], None]) -> Callable[[Any], None]:
    @wraps(start)
    def starting(thread: Any) -> None:
        thread.begun_by = _asking(sys._getframe())
        start(thread)

    return starting


def _asking(frame: FrameType | None) -> Asker | None:
    """Whose handler makes a call; None for tests, also from within a handler, and for moto.

    That is the innermost of them on the stack, else whoever gave the thread its work.
    """
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_FUNCTIONS):
            return _asker(Path(file).parent.name)
        if file.startswith(_OTHERS) and file != __file__:
            return None
        frame = frame.f_back
    begun_by = getattr(threading.current_thread(), "begun_by", None)
    return getattr(_working_for, "asker", begun_by)


# ── Names ───────────────────────────────────────────────────────────────────────────────────────


@cache
def _resources(function: str) -> dict[str, dict[str, Any]]:
    return Resolver(**_parameters(function)).resources()


def _parameters(function: str) -> Mapping[str, str]:
    return TOKENS if function == "authorizer" else PARAMETERS


def _asker(function: str) -> Asker:
    """A function with what its environment calls the resources that the template puts there."""
    logical = f"{function.capitalize()}Function"
    written = _resources(function)[logical]["Properties"]["Environment"]["Variables"]
    found = set()
    for variable, value in written.items():
        named = PLACEHOLDER.fullmatch(str(value))
        given = os.environ.get(variable)
        if named is not None and given is not None and not named[1].startswith("AWS::"):
            found.add((named[1], given))
    return Asker(function, frozenset(found))


@cache
def _stack(asker: Asker) -> Stack:
    """The deployment, under the names that a test gave it; what it did not name has some name."""
    resources = _resources(asker.function)
    return Stack(
        HERE,
        STACK,
        _parameters(asker.function),
        {name: _physical(name, one["Type"]) for name, one in resources.items()} | dict(asker.names),
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

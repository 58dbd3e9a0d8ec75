"""Messages of the ROLLOUT machine, and what the rollout function is asked to do besides."""

from typing import Any, Literal

from pydantic import Field

from millrace.messages import (
    EvaluationResult,
    Message,
    Registration,
    TaskFailure,
    TrainingInput,
)
from millrace.spec import ModelName

type Decision = Literal["proceed", "wait", "bake", "advance", "finish", "roll_back", "ended"]


class Turn(Message):
    """What the machine does next, as the rollout's record says; no decision of its own."""

    decision: Decision
    seconds: int = 60
    """To wait, before the next look or the next try to begin."""
    step: int = 0
    """The step to be set."""
    check: int = 1
    """Number of the next look: the same one again is answered, not taken again."""
    waits: int = 0
    """Tries to begin so far."""


class RolloutInput(Message):
    """Input of one ROLLOUT execution; every task receives at least this."""

    rollout_id: str
    attempt: int
    model: ModelName
    correlation_id: str = ""


class BeginTask(RolloutInput):
    """Whether the rollout's turn has come."""

    action: Literal["begin"]
    turn: Turn = Turn(decision="wait")


class SetTrafficTask(RolloutInput):
    """Give the version the traffic of a step."""

    action: Literal["set_traffic"]
    turn: Turn


class CheckHealthTask(RolloutInput):
    """Look at the step once."""

    action: Literal["check_health"]
    turn: Turn


class FinishTask(RolloutInput):
    """Make the version champion."""

    action: Literal["finish"]


class RollBackTask(RolloutInput):
    """Give the traffic back to the champion."""

    action: Literal["roll_back"]


class RecordStallTask(RolloutInput):
    """The machinery failed: leave the traffic where it is, and say so."""

    action: Literal["record_stall"]
    failure: TaskFailure


class RollOutTask(TrainingInput):
    """TRAINING hands a version over to a rollout."""

    action: Literal["roll_out"]
    registration: Registration
    evaluation: EvaluationResult


class StartTask(Message):
    """A person asks for a rollout; what is not said is as the spec has it.

    Or a person approved a version whose training's machine is gone: then ``run_id`` names the run.
    """

    action: Literal["start"]
    model: ModelName
    version: int
    changes: dict[str, Any] = Field(default_factory=dict)
    """Of the spec's section ``rollout``."""
    token: str
    """The same one again is the same rollout."""
    run_id: str = ""
    """The training that this closes; its champion must be the expected one."""
    expected_champion: int | None = None
    actor: str
    reason: str = ""
    correlation_id: str = ""


class ResumeTask(Message):
    """A person asks to go on."""

    action: Literal["resume"]
    rollout_id: str
    actor: str
    reason: str = ""
    correlation_id: str = ""


class Asked(Message):
    """Which rollout came of a request."""

    rollout_id: str
    status: str
    why: str = ""

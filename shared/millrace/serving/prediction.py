"""From checked rows to an answer that can be told: the one way through which every protocol predicts.

The native routes, the Open Inference Protocol and `millrace serve` differ in what they read and
write. Between the two stands the `Predictor`: it runs the model, names the prediction, and tells the
journal, so that a prediction is counted and captured alike whoever asked for it.
"""

import random
import time
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from millrace.errors import ArtifactError
from millrace.registry.serving import RolloutRoute
from millrace.serving.codec import SignatureCodec
from millrace.serving.features import Batch
from millrace.serving.identity import Role
from millrace.serving.routing import Chosen
from millrace.serving.soundness import is_sound
from millrace.serving.store import LoadedModel
from millrace.serving.telemetry import harmless
from millrace.signature import Signature

MAX_SHADOW_ROWS: Final = 1_000
"""Rows of a request beyond which it is not scored twice."""
SHADOW_SECONDS: Final = 0.05
"""What shadows may add to a request, in the mean."""
_NEW: Final = 0.2
"""Weight of the newest in the moving mean of how long a challenger takes."""


class Shadowed(NamedTuple):
    """What a challenger said to the same rows, unseen by the caller.

    Attributes:
        version: The challenger.
        output: As a prediction's; None when it failed.
        error: Name of the error then.
        seconds: How long it took.
    """

    version: int
    output: npt.NDArray[np.float32] | None
    error: str
    seconds: float


class Prediction(NamedTuple):
    """What a model answered to the rows of one request.

    Attributes:
        loaded: The model version.
        batch: The rows, as the model took them.
        prediction_id: The id that ground truth may be sent for.
        output: Probabilities [rows, classes], or predictions [rows] of a regression.
        role: What the version was.
        route: The rollout that the model was in, if any.
        lacking: Whether a challenger should have answered and was not in memory.
        shadow: Scores the rows with a rollout's challenger; None said when it may not take the time.
    """

    loaded: LoadedModel
    batch: Batch
    prediction_id: str
    output: npt.NDArray[np.float32]
    role: Role = Role.UNREGISTERED
    route: RolloutRoute | None = None
    lacking: bool = False
    shadow: Callable[[], Shadowed | None] | None = None

    @property
    def model(self) -> str:
        """The model's name."""
        return self.loaded.record.model

    @property
    def version(self) -> int:
        """The model version that answered."""
        return self.loaded.record.version


class Journal(Protocol):
    """Is told of every prediction and every refusal."""

    def answered(self, prediction: Prediction, *, seconds: float, correlation_id: str) -> None:
        """A request was answered.

        Args:
            prediction: The answer.
            seconds: How long it took.
            correlation_id: The request's id.
        """
        ...

    def refused(
        self,
        error: Exception,
        *,
        model: str | None,
        seconds: float,
        correlation_id: str,
        failed: Chosen | None = None,
    ) -> None:
        """A request was refused, or a version failed it.

        Args:
            error: Why.
            model: The model, when it is known to exist: names that callers invent are no dimension.
            seconds: How long it took.
            correlation_id: The request's id.
            failed: The version, if it is to blame; when that is a challenger, the champion answered.
        """
        ...


class Predictor:
    """Runs models and tells what they answered.

    Args:
        new_id: Makes a prediction id of a role and a number.
        journal: Is told; what it raises is logged and harms no answer.
        clock: Seconds, to measure how long an answer takes.
        chance: A number from 0 to below 1, anew at each call.
    """

    def __init__(
        self,
        *,
        new_id: Callable[[Role, int], str],
        journal: Journal,
        clock: Callable[[], float] = time.perf_counter,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.clock = clock
        self._new_id = new_id
        self._journal = journal
        self._shadows = Shadows(clock, chance)

    def run(
        self, chosen: Chosen, batch: Batch, again: Callable[[SignatureCodec], Batch] | None = None
    ) -> Prediction:
        """Runs the model; for who has the journal told of it: see `telling`.

        Args:
            chosen: From the store.
            batch: From its codec.
            again: Reads the same rows by another version's codec.

        Raises:
            ArtifactError: The model gave a value that is not finite, or does not fit its signature.
        """
        loaded, role, number, route, _, challenger, lacking = chosen
        output = sound_output(loaded, batch)
        prediction = Prediction(
            loaded, batch, self._new_id(role, number), output, role, route, lacking
        )
        if challenger is None:
            return prediction
        return prediction._replace(
            shadow=partial(self._shadows.score, challenger, loaded, batch, again)
        )

    def telling(
        self, prediction: Prediction, *, started: float, correlation_id: str = ""
    ) -> Callable[[], None]:
        """What tells the journal of an answer; the answer's time ends now.

        It is called once the answer is sent, where the server can do something after that.

        Args:
            prediction: The answer.
            started: The clock when the request came.
            correlation_id: The request's id.
        """
        return partial(self._tell, prediction, self.clock() - started, correlation_id)

    def _tell(self, prediction: Prediction, seconds: float, correlation_id: str) -> None:
        with harmless():
            self._journal.answered(prediction, seconds=seconds, correlation_id=correlation_id)

    def refused(
        self,
        error: Exception,
        *,
        chosen: Chosen | None,
        started: float,
        correlation_id: str = "",
    ) -> None:
        """Tells the journal of a refusal, or of a version that failed.

        Args:
            error: Why.
            chosen: What was asked, when it is known to exist.
            started: The clock when the request came.
            correlation_id: The request's id.
        """
        to_blame = chosen is not None and (
            chosen.role is Role.CHALLENGER or isinstance(error, ArtifactError)
        )
        with harmless():
            self._journal.refused(
                error,
                model=None if chosen is None else chosen.loaded.record.model,
                seconds=self.clock() - started,
                correlation_id=correlation_id,
                failed=chosen if to_blame else None,
            )


def sound_output(loaded: LoadedModel, batch: Batch) -> npt.NDArray[np.float32]:
    """What a model answers.

    Raises:
        ArtifactError: No finite number, or probabilities that are none, or another shape.
    """
    output = loaded.run(batch)
    if not is_sound(output):
        raise ArtifactError(
            f"{loaded.record.model}@{loaded.version}: the model gave no finite number, or "
            "probabilities that do not add up to one"
        )
    return output


# ── Shadows ─────────────────────────────────────────────────────────────────────────────────────


class Shadows:
    """Scores requests with challengers, within bounds of what that adds to the answers.

    A request waits for its shadow: Lambda runs nothing after an answer. So only requests of at most
    `MAX_SHADOW_ROWS` are scored, and of a challenger that takes longer than `SHADOW_SECONDS` only
    so many that the mean stays there.

    Args:
        clock: Seconds.
        chance: A number from 0 to below 1, anew at each call.
    """

    def __init__(self, clock: Callable[[], float], chance: Callable[[], float]) -> None:
        self._clock = clock
        self._chance = chance
        self._pace: WeakKeyDictionary[SignatureCodec, float] = WeakKeyDictionary()

    def score(
        self,
        challenger: LoadedModel,
        champion: LoadedModel,
        batch: Batch,
        again: Callable[[SignatureCodec], Batch] | None,
    ) -> Shadowed | None:
        """What the challenger says to the champion's rows; None when it may not take the time.

        Args:
            challenger: In memory.
            champion: Answered already.
            batch: The champion's.
            again: Reads the rows by the challenger's codec, where the two differ.
        """
        if batch.rows > MAX_SHADOW_ROWS:
            return None
        expected = self._pace.get(challenger.codec, 0.0)
        if expected > SHADOW_SECONDS and self._chance() >= SHADOW_SECONDS / expected:
            return None
        begun = self._clock()
        output, error = None, ""
        try:
            own = batch
            if again is not None and not _reads_alike(champion.signature, challenger.signature):
                own = again(challenger.codec)
            output = sound_output(challenger, own)
        except Exception as exc:  # noqa: BLE001 - a shadow may fail in any way and hurts nobody
            error = type(exc).__name__
        took = self._clock() - begun
        self._pace[challenger.codec] = expected + (took - expected) * _NEW if expected else took
        return Shadowed(challenger.version, output, error, took)


def _reads_alike(one: Signature, other: Signature) -> bool:
    """Whether two versions make the same arrays of the same rows."""
    return one.null_values == other.null_values and [(f.name, f.type) for f in one.features] == [
        (f.name, f.type) for f in other.features
    ]

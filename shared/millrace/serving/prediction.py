"""From checked rows to an answer that can be told: the one way through which every protocol predicts.

The native routes, the Open Inference Protocol and `millrace serve` differ in what they read and
write. Between the two stands the `Predictor`: it runs the model, names the prediction, and tells the
journal, so that a prediction is counted and captured alike whoever asked for it.
"""

import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from millrace.errors import ArtifactError
from millrace.serving.codec import Batch
from millrace.serving.soundness import is_sound
from millrace.serving.store import LoadedModel
from millrace.serving.telemetry import harmless


class Prediction(NamedTuple):
    """What a model answered to the rows of one request.

    Attributes:
        loaded: The model version.
        batch: The rows, as the model took them.
        prediction_id: The id that ground truth may be sent for.
        output: Probabilities [rows, classes], or predictions [rows] of a regression.
    """

    loaded: LoadedModel
    batch: Batch
    prediction_id: str
    output: npt.NDArray[np.float32]

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
        self, error: Exception, *, model: str | None, seconds: float, correlation_id: str
    ) -> None:
        """A request was refused.

        Args:
            error: Why.
            model: The model, when it is known to exist: names that callers invent are no dimension.
            seconds: How long it took.
            correlation_id: The request's id.
        """
        ...


class Predictor:
    """Runs models and tells what they answered.

    Args:
        new_id: Makes a prediction id.
        journal: Is told; what it raises is logged and harms no answer.
        clock: Seconds, to measure how long an answer takes.
    """

    def __init__(
        self,
        *,
        new_id: Callable[[], str],
        journal: Journal,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.clock = clock
        self._new_id = new_id
        self._journal = journal

    def predict(
        self,
        loaded: LoadedModel,
        batch: Batch,
        *,
        started: float | None = None,
        correlation_id: str = "",
    ) -> Prediction:
        """Runs the model and tells the journal: `run`, then `answered`.

        Args:
            loaded: From the store.
            batch: From the model's codec.
            started: The clock when the request came; now, by default.
            correlation_id: The request's id.

        Raises:
            ArtifactError: The model gave a value that is not finite, or does not fit its signature.
        """
        begun = self.clock() if started is None else started
        prediction = self.run(loaded, batch)
        self.answered(prediction, started=begun, correlation_id=correlation_id)
        return prediction

    def run(self, loaded: LoadedModel, batch: Batch) -> Prediction:
        """Runs the model; for who calls `answered` when the answer is written.

        Raises:
            ArtifactError: The model gave a value that is not finite, or does not fit its signature.
        """
        output = loaded.run(batch)
        if not is_sound(output):
            raise ArtifactError(
                f"{loaded.record.model}@{loaded.version}: the model gave no finite number, or "
                "probabilities that do not add up to one"
            )
        return Prediction(loaded, batch, self._new_id(), output)

    def answered(self, prediction: Prediction, *, started: float, correlation_id: str = "") -> None:
        """Tells the journal of an answer."""
        with harmless():
            self._journal.answered(
                prediction, seconds=self.clock() - started, correlation_id=correlation_id
            )

    def refused(
        self,
        error: Exception,
        *,
        loaded: LoadedModel | None,
        started: float,
        correlation_id: str = "",
    ) -> None:
        """Tells the journal of a refusal.

        Args:
            error: Why.
            loaded: The model that was asked, when it is known to exist.
            started: The clock when the request came.
            correlation_id: The request's id.
        """
        with harmless():
            self._journal.refused(
                error,
                model=None if loaded is None else loaded.record.model,
                seconds=self.clock() - started,
                correlation_id=correlation_id,
            )

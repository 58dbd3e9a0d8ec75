"""The three actions of the train function over S3: plan, trial and fit.

Idempotent without a store of its own: plan and trial are pure functions of immutable inputs, and a
fit writes each artifact once, under the name of its content.
"""

import hashlib
import platform
import time
from typing import Any

import google.protobuf
import numpy as np
import onnx
import onnxruntime
import pydantic
import scipy
import skl2onnx
import sklearn

from millrace import layout
from millrace.aws.objects import ObjectStore
from millrace.documents import read_spec
from millrace.errors import ArtifactError
from millrace.learning.data import SplitReader
from millrace.learning.deadline import Remaining
from millrace.learning.export import IR_VERSION, ML_OPSET, OPSET
from millrace.learning.fitting import Fit, fit, make_signature
from millrace.learning.search import plan, run_trial
from millrace.messages import FitResult, FitTask, Plan, PlanTask, TrialResult, TrialTask
from millrace.spec import ModelSpec, canonical_json


class Training:
    """What the train function does, with its collaborators.

    Args:
        store: S3.
        splits: The reader of the data bucket, kept between invocations.
        artifact_bucket: Where specs are read and models are written.
        code_version: Version of the deployed code, recorded with every fit.
    """

    def __init__(
        self, *, store: ObjectStore, splits: SplitReader, artifact_bucket: str, code_version: str
    ) -> None:
        self._store = store
        self._splits = splits
        self._bucket = artifact_bucket
        self._code_version = code_version

    def plan(self, task: PlanTask) -> Plan:
        """Proposes the trials of a run.

        Raises:
            TrainingError: There is nothing to train on.
        """
        spec = self._spec(task)
        return plan(spec, self._splits.schema(spec, task.ingest))

    def trial(self, task: TrialTask, remaining: Remaining | None = None) -> TrialResult:
        """Scores one trial.

        Raises:
            TrainingError: It cannot be fitted or scored, or not in time.
        """
        spec = self._spec(task)
        return run_trial(
            spec,
            self._splits.split(spec, task.ingest, "train"),
            task.trial,
            metric=task.plan_metric,
            folds=task.folds,
            remaining=remaining,
        )

    def fit(self, task: FitTask, remaining: Remaining | None = None) -> FitResult:
        """Fits the winner and stores model, signature and environment, each by its content.

        So an attempt that is repeated writes what is there already, or, should a library not give
        the same bytes twice, something beside it: what is registered is whole either way.

        Raises:
            TrainingError: There is no usable winner, or no time.
            ParityError: ONNX and scikit-learn disagree.
            ArtifactError: What lies under a content's name is not that content.
        """
        started = time.perf_counter()
        spec = self._spec(task)
        schema = self._splits.schema(spec, task.ingest)
        fitted = fit(
            spec,
            self._splits.split(spec, task.ingest, "train"),
            self._splits.split(spec, task.ingest, "validation"),
            task.plan,
            task.trials,
            metadata={
                "model": task.model,
                "run_id": task.run_id,
                "dataset_version": task.ingest.dataset_version,
                "spec_digest": task.spec_digest,
                "sklearn_version": sklearn.__version__,
            },
            remaining=remaining,
        )
        stored = fitted.onnx
        sha256 = hashlib.sha256(stored).hexdigest()
        model_key = layout.model_key(task.model, sha256)
        self._store_once(model_key, stored, "application/octet-stream")
        signature = make_signature(
            spec,
            schema,
            fitted.trial.algorithm,
            seen=fitted.seen,
            conformal=fitted.calibrate(stored, spec),
        )
        signature_body = signature.to_json()
        signature_sha256 = hashlib.sha256(signature_body).hexdigest()
        signature_key = layout.signature_key(task.model, signature_sha256)
        self._store_once(signature_key, signature_body, "application/json")
        environment = self._environment(task, fitted, sha256, signature_sha256)
        environment_body = canonical_json(environment).encode()
        environment_key = layout.environment_key(
            task.model, hashlib.sha256(environment_body).hexdigest()
        )
        self._store_once(environment_key, environment_body, "application/json")
        return FitResult(
            trial_id=fitted.trial.trial_id,
            algorithm=fitted.trial.algorithm,
            params=fitted.trial.params,
            metric=task.plan.metric,
            cv_score=fitted.result.score if fitted.result.score is not None else float("nan"),
            cv_score_std=fitted.result.score_std or 0.0,
            validation_score=fitted.validation_score,
            rows=fitted.rows,
            model_key=model_key,
            sha256=sha256,
            size_bytes=len(stored),
            signature_key=signature_key,
            signature_sha256=signature_sha256,
            environment_key=environment_key,
            parity=fitted.parity,
            code_version=self._code_version,
            seed=fitted.trial.seed,
            seconds=round(time.perf_counter() - started, 3),
        )

    def _spec(self, task: PlanTask | TrialTask | FitTask) -> ModelSpec:
        return read_spec(self._store, self._bucket, task.spec_key, task.spec_digest)

    def _store_once(self, key: str, body: bytes, content_type: str) -> None:
        """Writes what its own content names; what is there already must be it."""
        if self._store.write_once(self._bucket, key, body, content_type=content_type):
            return
        if self._store.read(self._bucket, key) != body:
            raise ArtifactError(
                f"s3://{self._bucket}/{key} is not what its name says: restore its first version"
            )

    def _environment(
        self, task: FitTask, fitted: Fit, sha256: str, signature_sha256: str
    ) -> dict[str, Any]:
        """Everything it takes to train the same model again; no times, so that it stays equal."""
        return {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "packages": {
                "numpy": np.__version__,
                "onnx": onnx.__version__,
                "onnxruntime": onnxruntime.__version__,
                "protobuf": google.protobuf.__version__,
                "pydantic": pydantic.VERSION,
                "scikit-learn": sklearn.__version__,
                "scipy": scipy.__version__,
                "skl2onnx": skl2onnx.__version__,
            },
            "code_version": self._code_version,
            "opset": OPSET,
            "ml_opset": ML_OPSET,
            "ir_version": IR_VERSION,
            "model": task.model,
            "run_id": task.run_id,
            "dataset_version": task.ingest.dataset_version,
            "data_digest": task.ingest.data_digest,
            "spec_version": task.spec_version,
            "spec_digest": task.spec_digest,
            "algorithm": fitted.trial.algorithm,
            "params": fitted.trial.params,
            "seed": fitted.trial.seed,
            "metric": task.plan.metric,
            "rows": fitted.rows,
            "model_sha256": sha256,
            "signature_sha256": signature_sha256,
        }

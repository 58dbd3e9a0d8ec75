"""The three actions of the train function over S3: plan, trial and fit.

Idempotent without a store of its own: plan and trial are pure functions of immutable inputs, and a
fit writes each artifact once under its run's prefix. When an earlier attempt of the same run has
written the model already, that model stands, provided it agrees with this attempt's pipeline within
the parity tolerance; the digest that is returned is always that of the stored bytes.
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
from millrace.errors import ArtifactError, ParityError
from millrace.learning.data import SplitReader
from millrace.learning.deadline import Remaining
from millrace.learning.export import IR_VERSION, ML_OPSET, OPSET
from millrace.learning.fitting import Fit, fit, make_signature
from millrace.learning.search import plan, run_trial
from millrace.messages import FitResult, FitTask, Parity, Plan, PlanTask, TrialResult, TrialTask
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
        """Fits the winner and stores model, signature and environment.

        Raises:
            TrainingError: There is no usable winner, or no time.
            ParityError: ONNX and scikit-learn disagree.
            ArtifactError: An earlier attempt of this run stored something else.
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
        model_key = layout.model_key(task.model, task.run_id)
        stored, parity = self._store_model(model_key, fitted, spec)
        sha256 = hashlib.sha256(stored).hexdigest()
        signature_key = layout.signature_key(task.model, task.run_id)
        signature = make_signature(
            spec,
            schema,
            fitted.trial.algorithm,
            seen=fitted.seen,
            conformal=fitted.calibrate(stored, spec),
        )
        signature_body = signature.to_json()
        self._store_same(signature_key, signature_body)
        environment_key = layout.environment_key(task.model, task.run_id)
        self._store.write_once(
            self._bucket,
            environment_key,
            canonical_json(self._environment(task, fitted, sha256, signature_body)).encode(),
            content_type="application/json",
        )
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
            signature_sha256=hashlib.sha256(signature_body).hexdigest(),
            environment_key=environment_key,
            parity=parity,
            code_version=self._code_version,
            seed=fitted.trial.seed,
            seconds=round(time.perf_counter() - started, 3),
        )

    def _spec(self, task: PlanTask | TrialTask | FitTask) -> ModelSpec:
        return read_spec(self._store, self._bucket, task.spec_key, task.spec_digest)

    def _store_model(self, key: str, fitted: Fit, spec: ModelSpec) -> tuple[bytes, Parity]:
        """Writes the model once; a model that is there already stands if it is the same one."""
        if self._store.write_once(
            self._bucket, key, fitted.onnx, content_type="application/octet-stream"
        ):
            return fitted.onnx, fitted.parity
        stored = self._store.read(self._bucket, key)
        if stored == fitted.onnx:
            return stored, fitted.parity
        try:
            return stored, fitted.check(stored, spec.train.parity_tolerance)
        except (ParityError, ArtifactError) as exc:
            raise ArtifactError(
                f"s3://{self._bucket}/{key} was written by an earlier attempt of this run and is "
                f"not the model of this one: {exc}"
            ) from exc

    def _store_same(self, key: str, body: bytes) -> None:
        if self._store.write_once(self._bucket, key, body, content_type="application/json"):
            return
        if self._store.read(self._bucket, key) != body:
            raise ArtifactError(
                f"s3://{self._bucket}/{key} was written by an earlier attempt of this run and "
                "differs from this one's"
            )

    def _environment(
        self, task: FitTask, fitted: Fit, sha256: str, signature: bytes
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
            "signature_sha256": hashlib.sha256(signature).hexdigest(),
        }

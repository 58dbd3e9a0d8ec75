"""Ingest and train together: with the time strategy no fold looks into the future."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from functions.ingest import handler as ingest
from functions.train import handler as train
from millrace import layout
from millrace.aws.clients import client
from millrace.datasets.table import Table, TableSchema
from millrace.learning.folds import make_folds
from millrace.messages import Plan
from millrace.spec import ModelSpec
from tests.fakes.cloud import LambdaContext
from tests.integration.train.conftest import ARTIFACTS, DATA, NewRun, put

SPEC = ModelSpec.from_document(
    {
        "name": "orders",
        "task": "regression",
        "data": {
            "columns": [
                {"name": "ordered_at", "type": "timestamp", "role": "time"},
                {"name": "items", "type": "integer"},
                {"name": "shop", "type": "string"},
                {"name": "price", "type": "number", "role": "target"},
            ]
        },
        "split": {"strategy": "time"},
        "train": {"trials": 3},
    }
)


@pytest.fixture(autouse=True)
def _fresh_ingest(new_run: NewRun, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MILLRACE_TABLE_NAME", "registry")
    ingest.settings.cache_clear()
    yield
    ingest.settings.cache_clear()


def upload() -> bytes:
    random = np.random.default_rng(0)
    lines = ["ordered_at,items,shop,price"]
    for day in range(400):
        items = int(random.integers(1, 9))
        shop = "north" if random.random() < 0.5 else "south"
        price = items * 3 + (5 if shop == "north" else 0) + random.normal()
        date = np.datetime64("2025-01-01") + np.timedelta64(day, "D")
        lines.append(f"{date}T10:00:00Z,{items},{shop},{price:.3f}")
    return "\n".join(lines).encode()


def test_uploaded_orders_are_trained_in_their_order() -> None:
    key = layout.incoming_key("orders", "orders.csv")
    stored = client("s3").put_object(Bucket=DATA, Key=key, Body=upload())
    spec_key = layout.spec_key("orders", SPEC.digest)
    put(ARTIFACTS, spec_key, SPEC.to_json().encode())
    payload: dict[str, Any] = {
        "run_id": "orders-1",
        "model": "orders",
        "cause": "upload",
        "correlation_id": "event-1",
        "spec_version": 1,
        "spec_key": spec_key,
        "spec_digest": SPEC.digest,
        "source": {"bucket": DATA, "key": key, "version_id": stored["VersionId"]},
    }

    payload["ingest"] = ingest.handler(payload, LambdaContext(remaining_ms=900_000))
    assert payload["ingest"]["outcome"] == "accepted", payload["ingest"]["reason"]
    plan = train.handler({"action": "plan", "input": payload}, LambdaContext(remaining_ms=900_000))
    trials = [
        train.handler(
            {
                "action": "trial",
                "input": {
                    **payload,
                    "plan_metric": plan["metric"],
                    "folds": plan["folds"],
                    "trial": trial,
                },
            },
            LambdaContext(remaining_ms=900_000),
        )
        for trial in plan["trials"]
    ]
    fitted = train.handler(
        {"action": "fit", "input": {**payload, "plan": plan, "trials": trials}},
        LambdaContext(remaining_ms=900_000),
    )

    assert fitted["cv_score"] < 2.0
    assert fitted["validation_score"] < 2.0
    schema = TableSchema.model_validate_json(
        client("s3").get_object(Bucket=DATA, Key=payload["ingest"]["schema_key"])["Body"].read()
    )
    split = layout.split_key(
        "orders", payload["ingest"]["dataset_version"], payload["ingest"]["data_digest"], "train"
    )
    table = Table.from_bytes(client("s3").get_object(Bucket=DATA, Key=split)["Body"].read(), schema)
    times = table.arrays["ordered_at"]
    for learn, judge in make_folds(SPEC, table, Plan.model_validate(plan).folds):
        assert times[learn].max() < times[judge].min()

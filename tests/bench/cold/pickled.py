"""The same function with the pickled scikit-learn pipeline in the place of the ONNX model."""

import io
import json
import os
from functools import cache
from typing import Any

import boto3
import joblib  # type: ignore[import-untyped]  # it has no types
import numpy as np
import sklearn.ensemble  # noqa: F401 - what the pickle's first read would import
from fastapi import FastAPI, HTTPException
from mangum import Mangum
from pydantic import BaseModel

app = FastAPI()
table = boto3.client("dynamodb")
objects = boto3.client("s3")


class Rows(BaseModel):
    """A request."""

    rows: list[dict[str, Any]]


class Answer(BaseModel):
    """Its answer."""

    version: int
    probabilities: list[list[float]]


@cache
def load(name: str) -> tuple[int, dict[str, Any], Any]:
    """The champion: its version, what it takes, and the model."""
    key = {"PK": {"S": f"MODEL#{name}"}, "SK": {"S": "SERVING"}}
    item = table.get_item(TableName=os.environ["MILLRACE_TABLE_NAME"], Key=key).get("Item")
    if item is None:
        raise HTTPException(404, "no such model")
    bucket = os.environ["MILLRACE_ARTIFACT_BUCKET"]
    place = item["model_key"]["S"].replace("model.onnx", "model.joblib")
    model = joblib.load(io.BytesIO(objects.get_object(Bucket=bucket, Key=place)["Body"].read()))
    text = objects.get_object(Bucket=bucket, Key=item["signature_key"]["S"])["Body"].read()
    return int(item["version"]["N"]), json.loads(text), model


@app.post("/v1/models/{name}/predict")
def predict(name: str, request: Rows) -> Answer:
    """The champion's probabilities."""
    version, signature, model = load(name)
    texts = [f["name"] for f in signature["features"] if f["type"] == "string"]
    numbers = [f["name"] for f in signature["features"] if f["type"] != "string"]
    features = np.array(
        [[row[n] for n in numbers] + [row[n] for n in texts] for row in request.rows], dtype=object
    )
    return Answer(version=version, probabilities=model.predict_proba(features).tolist())


handler = Mangum(app, lifespan="off")

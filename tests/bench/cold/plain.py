"""A prediction function as people write it: FastAPI on Mangum, boto3, ONNX Runtime."""

import json
import os
from functools import cache
from typing import Any

import boto3
import numpy as np
import onnxruntime
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
def load(name: str) -> tuple[int, dict[str, Any], onnxruntime.InferenceSession]:
    """The champion: its version, what it takes, and the model."""
    key = {"PK": {"S": f"MODEL#{name}"}, "SK": {"S": "SERVING"}}
    item = table.get_item(TableName=os.environ["MILLRACE_TABLE_NAME"], Key=key).get("Item")
    if item is None:
        raise HTTPException(404, "no such model")
    bucket = os.environ["MILLRACE_ARTIFACT_BUCKET"]
    body = objects.get_object(Bucket=bucket, Key=item["model_key"]["S"])["Body"].read()
    text = objects.get_object(Bucket=bucket, Key=item["signature_key"]["S"])["Body"].read()
    return int(item["version"]["N"]), json.loads(text), onnxruntime.InferenceSession(body)


@app.post("/v1/models/{name}/predict")
def predict(name: str, request: Rows) -> Answer:
    """The champion's probabilities."""
    version, signature, session = load(name)
    texts = [f["name"] for f in signature["features"] if f["type"] == "string"]
    numbers = [f["name"] for f in signature["features"] if f["type"] != "string"]
    inputs = {
        "numeric": np.array([[row[n] for n in numbers] for row in request.rows], dtype=np.float32),
        "categorical": np.array([[row[n] for n in texts] for row in request.rows], dtype=object),
    }
    (probabilities,) = session.run(["probabilities"], inputs)
    return Answer(version=version, probabilities=probabilities.tolist())


handler = Mangum(app, lifespan="off")

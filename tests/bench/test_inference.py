"""What binary tensors cost beyond the model itself.

Subject: the predict function's handler on an API Gateway event with packed binary tensors in and
out, through Mangum and its base64, checks, the model, and the captured line. Reference:
`InferenceSession.run` of the same model on the same rows, prepared as arrays. Aim at 1,000 rows:
1.15 times.
"""

import base64
import struct
import time
from itertools import cycle
from typing import Any

import numpy as np
import orjson
import pytest

from millrace.http.inference import HEADER_LENGTH
from tests.bench.conftest import Learned
from tests.bench.measure import compare
from tests.bench.test_predict import (
    REPEAT,
    REQUESTS,
    ROUNDS,
    bare_runs,
    gateway_of,
    quiet,  # noqa: F401 - the fixture
    requests_of,
    told,
)
from tests.fakes.cloud import LambdaContext
from tests.fakes.gateway import event


def packed_request(numeric: np.ndarray, categorical: np.ndarray) -> tuple[bytes, int]:
    """A request with both packed tensors in bytes, and the length of its JSON."""
    texts = [t.encode() for t in categorical.reshape(-1)]
    parts = {"numeric": ("FP32", numeric.shape, np.asarray(numeric, dtype="<f4").tobytes())}
    if texts:
        packed = b"".join(struct.pack("<I", len(t)) + t for t in texts)
        parts["categorical"] = ("BYTES", categorical.shape, packed)
    header = orjson.dumps(
        {
            "inputs": [
                {
                    "name": name,
                    "datatype": datatype,
                    "shape": list(shape),
                    "parameters": {"binary_data_size": len(content)},
                }
                for name, (datatype, shape, content) in parts.items()
            ],
            "parameters": {"binary_data_output": True},
        }
    )
    return b"".join((header, *(content for _, _, content in parts.values()))), len(header)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("rows", list(REQUESTS))
@pytest.mark.parametrize("model", ["mixed", "coded", "heavy", "heavy_coded", "learned"])
def test_handler_time_with_binary_tensors_over_the_bare_model(
    model: str, rows: int, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    learned: Learned = request.getfixturevalue(model)
    gateway = gateway_of(learned)
    arrays, _ = requests_of(learned, "rows", rows)
    events = []
    for pair in arrays:
        body, length = packed_request(*pair)
        events.append(
            event(
                "POST",
                f"/v2/models/{learned.spec.name}/infer",
                base64.b64encode(body),
                headers={HEADER_LENGTH: str(length)},
                base64_encoded=True,
            )
        )
    context = LambdaContext()
    expected = bare_runs(learned, arrays)
    for asked in events:
        np.testing.assert_array_equal(probabilities(gateway(asked, context)), expected()[0])
    asking = cycle(events)

    measured = compare(
        f"inference handler with binary tensors {model} {rows} rows",
        lambda: gateway(next(asking), context),
        bare_runs(learned, arrays),
        rounds=ROUNDS,
        repeat=REPEAT[rows],
        clock=time.process_time,
    )

    told(measured, capsys)
    assert measured.ratio > 1


def probabilities(answer: dict[str, Any]) -> np.ndarray:
    """The tensor of an answer in bytes."""
    assert answer["statusCode"] == 200, answer["body"]
    content = base64.b64decode(answer["body"])
    length = int(
        next(v for k, v in answer["headers"].items() if k.lower() == HEADER_LENGTH.lower())
    )
    [label, scores] = orjson.loads(content[:length])["outputs"]
    end = length + label["parameters"]["binary_data_size"]
    return np.frombuffer(content[end:], dtype="<f4").reshape(scores["shape"])

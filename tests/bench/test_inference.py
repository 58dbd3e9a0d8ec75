"""What binary tensors cost beyond the model itself.

Subject: the predict function's handler on an API Gateway event with packed binary tensors in and
out, through Mangum and its base64, checks, the model, and the captured line. Reference:
`InferenceSession.run` of the same model on the same rows, prepared as arrays. Aim at 1,000 rows:
1.15 times.
"""

import base64
import hashlib
import struct

import numpy as np
import orjson
import pytest

from millrace.http.gateway import Gateway
from millrace.http.inference import HEADER_LENGTH
from millrace.onnx_session import load_session, predict
from tests.bench.conftest import Learned
from tests.bench.measure import compare
from tests.bench.test_predict import gateway  # noqa: F401 - the fixture
from tests.fakes.cloud import LambdaContext
from tests.fakes.gateway import event


def packed_request(numeric: np.ndarray, categorical: np.ndarray) -> tuple[bytes, int]:
    """A request with both packed tensors in bytes, and the length of its JSON."""
    texts = [t.encode() for t in categorical.reshape(-1)]
    parts = {
        "numeric": ("FP32", numeric.shape, np.asarray(numeric, dtype="<f4").tobytes()),
        "categorical": (
            "BYTES",
            categorical.shape,
            b"".join(struct.pack("<I", len(t)) + t for t in texts),
        ),
    }
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


@pytest.mark.parametrize(("rows", "repeat"), [(1, 50), (100, 20), (1000, 5)])
def test_handler_time_with_binary_tensors_over_the_bare_model(
    gateway: Gateway,  # noqa: F811 - the fixture
    learned: Learned,
    rows: int,
    repeat: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    numeric, categorical = learned.test.features()
    numeric, categorical = numeric[:rows], categorical[:rows]
    session = load_session(
        learned.fit.onnx, hashlib.sha256(learned.fit.onnx).hexdigest(), "bench model"
    )
    body, length = packed_request(numeric, categorical)
    request = event(
        "POST",
        f"/v2/models/{learned.spec.name}/infer",
        base64.b64encode(body),
        headers={HEADER_LENGTH: str(length)},
        base64_encoded=True,
    )
    context = LambdaContext()
    answer = gateway(request, context)
    assert answer["statusCode"] == 200, answer["body"]

    measured = compare(
        f"inference handler with binary tensors {rows} rows",
        lambda: gateway(request, context),
        lambda: predict(session, learned.signature, numeric, categorical),
        rounds=15,
        repeat=repeat,
    )

    capsys.readouterr()
    with capsys.disabled():
        measured.tell()
    content = base64.b64decode(answer["body"])
    told = int(next(v for k, v in answer["headers"].items() if k.lower() == HEADER_LENGTH.lower()))
    [label, scores] = orjson.loads(content[:told])["outputs"]
    end = told + label["parameters"]["binary_data_size"]
    values = np.frombuffer(content[end:], dtype="<f4").reshape(scores["shape"])
    np.testing.assert_array_equal(values, predict(session, learned.signature, numeric, categorical))

"""Asks as `tritonclient[http]` does: binary tensors, compression, asynchronously.

Plan: ``url``, ``model``, ``version``, ``missing`` (a model that is not there), ``inputs`` (tensors with
data), ``packed`` (the same rows, packed), and ``wrong``: cases by name, each with ``inputs`` and
perhaps ``model``, ``version``, ``outputs`` and ``headers``.
"""

import asyncio
import json
import sys
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException, triton_to_np_dtype


def tensors(items: list[dict[str, Any]], *, binary: bool) -> list[Any]:
    """Inputs of the client."""
    made = []
    for item in items:
        values = np.array(item["data"], dtype=triton_to_np_dtype(item["datatype"]))
        tensor = triton.InferInput(item["name"], item["shape"], item["datatype"])
        tensor.set_data_from_numpy(values.reshape(item["shape"]), binary_data=binary)
        made.append(tensor)
    return made


def told(result: Any) -> dict[str, Any]:
    """A result as JSON, its outputs read through the client's NumPy interface."""
    response = result.get_response()
    outputs = {}
    for output in response["outputs"]:
        array = result.as_numpy(output["name"])
        values = array.tolist()
        if array.dtype == object:
            values = [v.decode() if isinstance(v, bytes) else v for v in values]
        outputs[output["name"]] = {
            "datatype": output["datatype"],
            "shape": list(array.shape),
            "data": values,
            "binary": "binary_data_size" in (output.get("parameters") or {}),
        }
    return {
        "model_name": response["model_name"],
        "model_version": response["model_version"],
        "id": response.get("id"),
        "parameters": response.get("parameters"),
        "outputs": outputs,
    }


def failure(error: InferenceServerException) -> dict[str, Any]:
    """An error as the client has it."""
    return {"status": error.status(), "message": error.message()}


def wrong(client: Any, plan: dict[str, Any]) -> dict[str, Any]:
    """What the client says to requests that are refused."""
    found: dict[str, Any] = {}
    for name, case in plan["wrong"].items():
        try:
            client.infer(
                case.get("model", plan["model"]),
                tensors(case["inputs"], binary=case.get("binary", True)),
                model_version=case.get("version", ""),
                outputs=[triton.InferRequestedOutput(o) for o in case.get("outputs", ())] or None,
                headers=case.get("headers"),
            )
        except InferenceServerException as exc:
            found[name] = failure(exc)
        else:
            found[name] = None
    return found


async def asynchronously(base: str, ssl: bool, plan: dict[str, Any]) -> dict[str, Any]:
    """The same by the client for asyncio."""
    async with triton_aio.InferenceServerClient(base, ssl=ssl) as client:
        result = await client.infer(plan["model"], tensors(plan["packed"], binary=True))
        return {
            "live": await client.is_server_live(),
            "ready": await client.is_model_ready(plan["model"]),
            "answer": told(result),
        }


def main() -> None:
    """Asks everything."""
    plan = json.load(sys.stdin)
    parts = urlsplit(plan["url"])
    base, ssl = f"{parts.netloc}{parts.path}", parts.scheme == "https"
    client = triton.InferenceServerClient(base, ssl=ssl)
    model, version = plan["model"], plan["version"]
    one = tensors(plan["inputs"], binary=True)
    packed = tensors(plan["packed"], binary=True)
    wanted = [
        triton.InferRequestedOutput(plan["score"], binary_data=True),
        *(triton.InferRequestedOutput(o, binary_data=False) for o in plan["others"]),
    ]

    def infer(inputs: list[Any], **how: Any) -> dict[str, Any]:
        return told(client.infer(how.pop("model", model), inputs, **how))

    answers = {
        "binary": infer(one, request_id="request-1"),
        "json in": infer(tensors(plan["inputs"], binary=False)),
        "json out": infer(
            one, outputs=[triton.InferRequestedOutput(plan["score"], binary_data=False)]
        ),
        "mixed out": infer(one, outputs=wanted),
        "packed": infer(packed),
        "version": infer(packed, model_version=version),
        "gzip": infer(
            packed, request_compression_algorithm="gzip", response_compression_algorithm="gzip"
        ),
        "deflate": infer(
            packed,
            request_compression_algorithm="deflate",
            response_compression_algorithm="deflate",
        ),
        "parameters": infer(
            packed, priority=1, timeout=1_000_000, parameters={"caller": "a test", "n": 1}
        ),
        "sequence": infer(packed, sequence_id=7, sequence_start=True, sequence_end=True),
        "asynchronous": told(client.async_infer(model, packed).get_result()),
    }
    json.dump(
        {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model ready": client.is_model_ready(model),
            "version ready": client.is_model_ready(model, version),
            "missing ready": client.is_model_ready(plan["missing"]),
            "server": client.get_server_metadata(),
            "metadata": client.get_model_metadata(model),
            "version metadata": client.get_model_metadata(model, version),
            "index": client.get_model_repository_index(),
            "answers": answers,
            "aio": asyncio.run(asynchronously(base, ssl, plan)),
            "wrong": wrong(client, plan),
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()

"""Asks as KServe's `InferenceRESTClient` does: JSON and binary tensors over httpx.

Plan: ``url``, ``model``, ``missing``, ``inputs``, ``packed``, ``score``, ``wrong`` as for Triton's client.
"""

import asyncio
import json
import sys
from typing import Any

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput
from kserve.utils.numpy_codec import to_np_dtype


def tensors(items: list[dict[str, Any]], *, binary: bool) -> list[Any]:
    """Inputs of the client."""
    made = []
    for item in items:
        tensor = InferInput(item["name"], item["shape"], item["datatype"])
        dtype = object if item["datatype"] == "BYTES" else to_np_dtype(item["datatype"])
        values = np.array(item["data"], dtype=dtype).reshape(item["shape"])
        tensor.set_data_from_numpy(values, binary_data=binary)
        made.append(tensor)
    return made


def told(response: Any) -> dict[str, Any]:
    """A response as JSON."""
    return {
        "model_name": response.model_name,
        "id": response.id,
        "parameters": response.parameters,
        "outputs": {
            o.name: {"datatype": o.datatype, "shape": o.shape, "data": o.as_numpy().tolist()}
            for o in response.outputs
        },
    }


async def wrong(client: Any, plan: dict[str, Any]) -> dict[str, Any]:
    """What the client says to requests that are refused."""
    found: dict[str, Any] = {}
    for name, case in plan["wrong"].items():
        model = case.get("model", plan["model"])
        request = InferRequest(
            model_name=model,
            infer_inputs=tensors(case["inputs"], binary=case.get("binary", True)),
            request_outputs=[RequestedOutput(o) for o in case.get("outputs", ())] or None,
        )
        try:
            await client.infer(plan["url"], request, model_name=model, headers={})
        except httpx.HTTPStatusError as exc:
            found[name] = {"status": str(exc.response.status_code), "message": str(exc)}
        else:
            found[name] = None
    return found


async def ask(plan: dict[str, Any]) -> dict[str, Any]:
    """Asks everything."""
    url, model = plan["url"], plan["model"]
    async with InferenceRESTClient(RESTConfig(protocol="v2", timeout=30)) as client:

        async def infer(inputs: list[Any], **how: Any) -> dict[str, Any]:
            request = InferRequest(model_name=model, infer_inputs=inputs, **how)
            return told(await client.infer(url, request, model_name=model, headers={}))

        binary = [RequestedOutput(plan["score"], {"binary_data": True})]
        answers = {
            "json": await infer(tensors(plan["inputs"], binary=False), request_id="request-1"),
            "binary in": await infer(tensors(plan["inputs"], binary=True)),
            "binary out": await infer(
                tensors(plan["inputs"], binary=False), request_outputs=binary
            ),
            "packed": await infer(tensors(plan["packed"], binary=True), request_outputs=binary),
            "all binary": await infer(
                tensors(plan["packed"], binary=True), parameters={"binary_data_output": True}
            ),
            "dictionary": told(
                await client.infer(url, {"inputs": plan["inputs"]}, model_name=model, headers={})
            ),
        }
        return {
            "live": await client.is_server_live(url),
            "ready": await client.is_server_ready(url),
            "model ready": await client.is_model_ready(url, model),
            "missing ready": await client.is_model_ready(url, plan["missing"]),
            "answers": answers,
            "wrong": await wrong(client, plan),
        }


if __name__ == "__main__":
    json.dump(asyncio.run(ask(json.load(sys.stdin))), sys.stdout)

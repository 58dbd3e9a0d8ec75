"""Asks as the Open Inference Protocol's own generated client does (`open-inference-openapi`).

Plan: ``url``, ``model``, ``version``, ``missing``, ``inputs``, ``wrong`` as for Triton's client.
"""

import json
import sys
from typing import Any

from open_inference.openapi import InferenceRequest, RequestInput, RequestOutput
from open_inference.openapi.client import OpenInferenceClient
from open_inference.openapi.core.api_error import ApiError
from open_inference.openapi.types import TensorData


def request(items: list[dict[str, Any]], **how: Any) -> Any:
    """A request of the client."""
    inputs = [
        RequestInput(
            name=item["name"],
            shape=item["shape"],
            datatype=item["datatype"],
            data=TensorData.parse_obj(item["data"]),
        )
        for item in items
    ]
    return InferenceRequest(inputs=inputs, **how)


def told(response: Any) -> dict[str, Any]:
    """A response as JSON."""
    document: dict[str, Any] = json.loads(response.json())
    document["outputs"] = {o["name"]: o for o in document["outputs"]}
    return document


def main() -> None:
    """Asks everything."""
    plan = json.load(sys.stdin)
    client = OpenInferenceClient(base_url=plan["url"])
    model, version = plan["model"], plan["version"]
    client.check_server_liveness()
    client.check_server_readiness()
    client.check_model_readiness(model)
    client.check_model_version_readiness(model, version)
    plain = request(plan["inputs"], id="request-1")
    wanted = request(plan["inputs"], outputs=[RequestOutput(name=plan["score"])])

    def refused(call: Any) -> dict[str, Any] | None:
        try:
            call()
        except ApiError as exc:
            return {
                "status": str(exc.status_code),
                "message": (exc.body or {}).get("error"),
                "kind": type(exc).__name__,
            }
        return None

    json.dump(
        {
            "server": json.loads(client.read_server_metadata().json()),
            "metadata": json.loads(client.read_model_metadata(model).json()),
            "version metadata": json.loads(
                client.read_model_version_metadata(model, version).json()
            ),
            "missing ready": refused(lambda: client.check_model_readiness(plan["missing"])),
            "answers": {
                "all": told(client.model_infer(model, request=plain)),
                "one output": told(client.model_infer(model, request=wanted)),
                "version": told(client.model_version_infer(model, version, request=plain)),
            },
            "wrong": {
                name: refused(
                    lambda case=case: client.model_infer(
                        case.get("model", model),
                        request=request(
                            case["inputs"],
                            **(
                                {"outputs": [RequestOutput(name=o) for o in case["outputs"]]}
                                if "outputs" in case
                                else {}
                            ),
                        ),
                    )
                )
                for name, case in plan["wrong"].items()
            },
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()

"""API keys of API Gateway, read where a function has to call with one."""

from typing import TYPE_CHECKING

from millrace.aws.translate import translated

if TYPE_CHECKING:
    from mypy_boto3_apigateway.client import APIGatewayClient


def value_of_key(gateway: "APIGatewayClient", key_id: str) -> str:
    """A key's own text, for the header ``x-api-key``.

    Args:
        gateway: boto3 client.
        key_id: The key's id.

    Raises:
        NotFoundError: There is no such key.
        AccessDeniedError: It may not be read.
    """
    with translated(f"read API key {key_id}"):
        return gateway.get_api_key(apiKey=key_id, includeValue=True)["value"]

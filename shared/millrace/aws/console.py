"""Addresses that a person can open in a browser, of what AWS keeps.

An address of the console proves nothing and expires never: whoever opens it signs in, and sees what their
own rights show. A presigned one would carry a function's rights to whoever the message is forwarded to, and
end with that function's credentials, within hours.
"""

import os
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

_PARTITIONS: Final = (
    ("cn-", "console.amazonaws.cn"),
    ("us-gov-", "console.amazonaws-us-gov.com"),
)


def page_of_object(bucket: str, key: str, environ: Mapping[str, str] = os.environ) -> str:
    """Where an object of S3 is shown; by an emulator, which has no console, the object itself.

    Args:
        bucket: Its bucket, in the function's own region.
        key: Its key.
        environ: Names region and, with an emulator, the endpoint.
    """
    endpoint = environ.get("AWS_ENDPOINT_URL", "")
    if endpoint:
        return f"{endpoint.rstrip('/')}/{bucket}/{quote(key)}"
    region = environ.get("AWS_REGION", "")
    host = next(
        (host for prefix, host in _PARTITIONS if region.startswith(prefix)),
        f"{region}.console.aws.amazon.com",
    )
    return f"https://{host}/s3/object/{bucket}?region={region}&prefix={quote(key, safe='')}"

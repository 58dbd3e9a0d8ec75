"""AWS Signature Version 4, for the two requests that a prediction may need.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html;
a test compares every signature with botocore's.
"""

import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from millrace.aws.credentials import Credentials

_ALGORITHM: Final = "AWS4-HMAC-SHA256"


def signed_headers(
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    credentials: Credentials,
    region: str,
    service: str,
    now: datetime,
) -> dict[str, str]:
    """The headers of a request, with those that prove who sends it.

    Args:
        method: HTTP method.
        path: The encoded path, as it is sent; there is no query.
        headers: What else is sent, ``host`` among it; every one of them is signed. Lower case.
        body: The body.
        credentials: Who sends it.
        region: The region in the signature's scope.
        service: The service in the signature's scope.
        now: The moment of the signature, in UTC.
    """
    moment = now.strftime("%Y%m%dT%H%M%SZ")
    digest = hashlib.sha256(body).hexdigest()
    sent = {**headers, "x-amz-content-sha256": digest, "x-amz-date": moment}
    if credentials.token:
        sent["x-amz-security-token"] = credentials.token
    names = sorted(sent)
    listed = ";".join(names)
    lines = [f"{name}:{sent[name].strip()}" for name in names]
    canonical = "\n".join([method, path, "", *lines, "", listed, digest])
    scope = f"{moment[:8]}/{region}/{service}/aws4_request"
    summary = "\n".join([_ALGORITHM, moment, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{credentials.secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, summary.encode(), "sha256").hex()
    sent["authorization"] = (
        f"{_ALGORITHM} Credential={credentials.access_key}/{scope}, "
        f"SignedHeaders={listed}, Signature={signature}"
    )
    return sent

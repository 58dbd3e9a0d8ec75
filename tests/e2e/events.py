"""EventBridge's event of an uploaded object, as S3 writes it."""

from collections.abc import Mapping
from typing import Any


def uploaded(source: Mapping[str, Any]) -> dict[str, Any]:
    """The event of an object that exists.

    Args:
        source: Its bucket, key and version id; size and etag when they are known.
    """
    return {
        "version": "0",
        "id": "00000000-0000-4000-8000-000000000000",
        "detail-type": "Object Created",
        "source": "aws.s3",
        "account": "000000000000",
        "time": "2026-11-01T00:00:00Z",
        "region": "us-east-1",
        "resources": [f"arn:aws:s3:::{source['bucket']}"],
        "detail": {
            "version": "0",
            "bucket": {"name": source["bucket"]},
            "object": {
                "key": source["key"],
                "size": source.get("size", 1),
                "etag": source.get("etag", ""),
                "version-id": source["version_id"],
                "sequencer": "0",
            },
            "request-id": "A",
            "requester": "000000000000",
            "source-ip-address": "127.0.0.1",
            "reason": "PutObject",
        },
    }

"""What the capture function does with a delivery, over the bare work of its formats.

Subject: unpacking a delivery of a thousand captured requests of one row and nineteen columns, checking
every line, filing, writing gzipped JSON Lines (to memory). Reference: the standard library's base64,
gzip and json over the same bytes, read and written back, with nothing checked.
"""

import base64
import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest

from millrace.aws.logs import unpack
from millrace.monitoring.captures import captured, keep, read
from millrace.serving.capture import of_line
from tests.bench.measure import compare
from tests.bench.measure import keep as keep_figures
from tests.fakes.store import FakeStore
from tests.samples import capture_line

LINES = 1_000
COLUMNS = 19


def delivery() -> dict[str, Any]:
    """What the subscription sends for a thousand requests."""
    lines = []
    for number in range(1, LINES + 1):
        line = capture_line(at_ms=1_795_285_200_000 + number, sequence=number)
        line["row_count"] = 1
        line["capture"]["inputs"] = {
            f"feature_{i}": [f"category {number * i % 7}" if i % 3 else number * i / 7]
            for i in range(COLUMNS)
        }
        line["capture"]["outputs"] = {"probabilities": [[number / 1e3, 1 - number / 1e3]]}
        lines.append(json.dumps(line) + "\n")
    content = {
        "messageType": "DATA_MESSAGE",
        "logGroup": "/aws/lambda/millrace-predict",
        "logStream": "one",
        "logEvents": [
            {"id": str(n), "timestamp": 1_795_285_200_000 + n, "message": message}
            for n, message in enumerate(lines)
        ],
    }
    packed = gzip.compress(json.dumps(content).encode())
    return {"awslogs": {"data": base64.b64encode(packed).decode()}}


class Listing(FakeStore):
    """A store that lists."""

    def keys(self, bucket: str, prefix: str) -> Iterator[str]:
        """Keys that begin so, in order."""
        yield from sorted(k for b, k in self.objects if b == bucket and k.startswith(prefix))


def test_capture_over_bare_json_and_gzip(capsys: pytest.CaptureFixture[str]) -> None:
    event = delivery()
    store = Listing()

    def capture() -> int:
        store.objects.clear()
        delivered = unpack(event)
        kept = keep(read(delivered.messages), objects=store, bucket="b", logged=delivered.logged)
        return kept.captured["churn"]

    def bare() -> int:
        content = json.loads(gzip.decompress(base64.b64decode(event["awslogs"]["data"])))
        lines = [json.loads(one["message"]) for one in content["logEvents"]]
        body = "\n".join(json.dumps(line["capture"]) for line in lines)
        return len(gzip.compress(body.encode(), 6))

    measured = compare("capture of 1,000 requests", capture, bare, rounds=15)
    assert capture() == LINES
    ((_, key),) = store.objects
    size = len(store.read("b", key))
    moment = of_line(json.loads(unpack(event).messages[0])).at
    hour = moment.replace(minute=0, second=0, microsecond=0)
    until = hour.replace(hour=hour.hour + 1)

    def read_all() -> int:
        return sum(1 for _ in captured(store, "b", "churn", hour, until))

    def bare_read() -> int:
        return len(
            [json.loads(line) for line in gzip.decompress(store.read("b", key)).splitlines()]
        )

    reading = compare("reading 1,000 captured requests", read_all, bare_read, rounds=15)

    capsys.readouterr()
    with capsys.disabled():
        measured.tell()
        reading.tell()
        print(
            f"  {LINES / measured.subject:,.0f} captured requests a second written, "
            f"{LINES / reading.subject:,.0f} read; {size / LINES:,.0f} bytes each at rest"
        )
    keep_figures("capture throughput", {"per_second": LINES / measured.subject, "bytes": size})
    assert read_all() == LINES

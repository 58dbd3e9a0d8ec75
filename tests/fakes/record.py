"""The registry's app on tables and stores in memory, and the command line talking to it."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from millrace import layout
from millrace.http.api import create_app
from millrace.http.endpoints.collaborators import Collaborators
from millrace.monitoring.episodes import Episodes
from millrace.registry.registry import Registry
from millrace_cli import console
from millrace_cli.client import ApiClient
from tests.fakes import cases
from tests.fakes.clock import FakeClock, counting_ids
from tests.fakes.store import FakeStore
from tests.fakes.table import FakeTable


@dataclass
class Record:
    """A registry in memory that can be asked over HTTP.

    Attributes:
        table: Its table.
        store: Its buckets.
        now: The time the app believes it is.
    """

    table: FakeTable = field(default_factory=FakeTable)
    store: FakeStore = field(default_factory=FakeStore)
    now: datetime = datetime(2026, 12, 1, tzinfo=UTC)

    def __post_init__(self) -> None:
        """Builds the app."""
        self.registry = Registry(self.table, clock=FakeClock(), ids=counting_ids())
        self.episodes = Episodes(self.table, clock=lambda: self.now, ids=counting_ids("alarm"))
        given: Any = {
            **dict.fromkeys(Collaborators.__dataclass_fields__),
            "registry": self.registry,
            "objects": self.store,
            "table": self.table,
            "now": lambda: self.now,
            "episodes": self.episodes,
            "presign": lambda bucket, key: f"https://{bucket}/{key}",
            "artifact_bucket": cases.ARTIFACT_BUCKET,
            "data_bucket": cases.DATA_BUCKET,
        }
        self.app = create_app(Collaborators(**given))

    def put(self, bucket: str, key: str, document: Any) -> None:
        """Stores a document as JSON."""
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.store.write(bucket, key, body, content_type="application/json")

    def document(self, first: int = 1, second: int = 2) -> None:
        """Stores what the pipeline stores beside the record of two versions."""
        spec = cases.spec()
        key = layout.spec_key(spec.name, spec.digest)
        self.put(cases.ARTIFACT_BUCKET, key, spec.to_json().encode())
        for number, missing in ((first, 0), (second, 25)):
            version = self.registry.get_version(spec.name, number)
            self.put(
                cases.ARTIFACT_BUCKET,
                version.environment_key,
                {"python": "3.13.0", "packages": {"numpy": f"2.3.{number}"}},
            )
            column = {"name": "age", "type": "number", "role": "feature", "private": False}
            counts = {"count": 100 - missing, "missing": missing, "distinct": 50}
            self.put(
                cases.DATA_BUCKET,
                layout.dataset_profile_key(spec.name, version.dataset_version),
                {"columns": [{**column, **counts}]},
            )
        measured = {"value": 0.81, "low": 0.75, "high": 0.86, "resamples": 9}
        self.put(
            cases.ARTIFACT_BUCKET,
            self.registry.get_version(spec.name, second).evaluation_key,
            {
                "metrics": {"roc_auc": measured},
                "comparison": {
                    "version": first,
                    "comparable": True,
                    "metrics": {"roc_auc": {**measured, "value": 0.7}},
                    "differences": {"roc_auc": {"value": 0.11, "low": 0.02, "high": 0.2}},
                },
            },
        )

    def ask(self, method: str, path: str, **how: Any) -> httpx.Response:
        """One request to the app."""

        async def asked() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://record") as client:
                return await client.request(method, path, **how)

        # Not asyncio.run, which leaves the thread without the loop that others expect.
        loop = asyncio.new_event_loop()
        try:
            return loop.run_until_complete(asked())
        finally:
            loop.close()

    def serve(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Lets the command line talk to this app."""
        record = self

        class InMemory(ApiClient):
            """An `ApiClient` without a deployment."""

            def send(
                self,
                method: str,
                path: str,
                *,
                content: bytes = b"",
                params: Mapping[str, Any] | None = None,
                headers: Mapping[str, str] | None = None,
            ) -> httpx.Response:
                """See `ApiClient.send`."""
                return record.ask(
                    method, path, content=content, params=params or {}, headers=headers or {}
                )

            def close(self) -> None:
                """There is no deployment to leave."""
                self._http.close()

        monkeypatch.setattr(console, "ApiClient", InMemory)
        monkeypatch.setattr(console.Context, "target", lambda _self: None)

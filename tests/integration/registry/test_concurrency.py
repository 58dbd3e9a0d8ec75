"""Several writers on DynamoDB itself, as far as moto goes.

moto's transactions break under threads, so each call of the table takes a lock; what interleaves is
the reads and commits of the changes, which is what the registry's conditions are about.
"""

import random
import threading
from collections.abc import Sequence

from millrace.aws.clients import client
from millrace.aws.dynamodb import DynamoTable, Item, Key, QueryPage, Write, from_item
from millrace.errors import FinalError, RetryableError
from millrace.registry.registry import Registry
from tests.fakes import cases, cloud
from tests.fakes.clock import FakeClock, counting_ids
from tests.fakes.soundness import check_model

WRITERS = 4


class OneAtATime(DynamoTable):
    """The adapter with a lock around each request."""

    lock = threading.Lock()

    def get(self, key: Key) -> Item | None:
        """See `Table.get`."""
        with self.lock:
            return super().get(key)

    def query(self, pk: str, **how: object) -> QueryPage:
        """See `Table.query`."""
        with self.lock:
            return super().query(pk, **how)  # type: ignore[arg-type]

    def transact(self, writes: Sequence[Write], what: str) -> None:
        """See `Table.transact`."""
        with self.lock:
            super().transact(writes, what)


def test_writers_at_once_leave_one_champion(stack: cloud.Cloud) -> None:
    table = OneAtATime(client("dynamodb"), cloud.TABLE)
    ids = counting_ids()
    cases.apply(Registry(table, clock=FakeClock(), ids=ids), cases.spec())
    together = threading.Barrier(WRITERS)
    unexpected: list[BaseException] = []

    def write(writer: int) -> None:
        choices = random.Random(writer)
        registry = Registry(table, clock=FakeClock(), ids=ids)
        together.wait()
        for number in range(writer * 2 + 1, writer * 2 + 3):
            for act in (
                lambda n=number: cases.champion(registry, n),
                lambda: registry.rollback(cases.MODEL, actor="ann", reason="why"),
                lambda: registry.promote(
                    cases.MODEL, choices.randint(1, 6), actor="ann", reason="why", force=True
                ),
            ):
                try:
                    act()
                except (FinalError, RetryableError):
                    continue
                except BaseException as exc:
                    unexpected.append(exc)
                    raise

    threads = [threading.Thread(target=write, args=(w,)) for w in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)

    assert unexpected == []
    stored = client("dynamodb").scan(TableName=cloud.TABLE)["Items"]
    check_model([from_item(i) for i in stored], cases.MODEL)
    assert stack.registry.get_model(cases.MODEL).latest_version == WRITERS * 2

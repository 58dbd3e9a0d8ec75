import time
from datetime import UTC, datetime

# ruleid: naive-time, clock-read-in-the-domain
now = datetime.now()
# ruleid: naive-time
then = datetime.fromtimestamp(seconds)
# ruleid: naive-time
old = datetime.utcnow()
# ok: naive-time
then = datetime.fromtimestamp(seconds, UTC)


def version():
    # ruleid: clock-read-in-the-domain
    return Version(created_at=datetime.now(UTC))


def age():
    # ruleid: clock-read-in-the-domain
    return time.time() - started


def wiring():
    # ok: clock-read-in-the-domain
    return Registry(table, clock=lambda: datetime.now(UTC))


def made(clock):
    # ok: clock-read-in-the-domain
    return Version(created_at=clock())

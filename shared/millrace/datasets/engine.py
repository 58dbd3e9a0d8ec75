"""DuckDB, closed in: bounded memory, no network, no extensions, and only one workspace on disk."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
from pydantic import BaseModel, ConfigDict, Field

from millrace.datasets.rules import Refusal
from millrace.errors import FinalError, UploadRefusedError


class Limits(BaseModel):
    """What one check may use; the defaults suit a Lambda of 2 GB.

    Attributes:
        memory_mb: DuckDB's memory before it spills to the workspace.
        spill_mb: Most that may be spilled.
        max_upload_mb: Largest upload as it lies in S3.
        max_unpacked_mb: Largest text after gunzip, which also stops a decompression bomb.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    memory_mb: int = Field(1024, ge=64)
    spill_mb: int = Field(2048, ge=0)
    max_upload_mb: int = Field(512, ge=1)
    max_unpacked_mb: int = Field(2048, ge=1)


@contextmanager
def engine(
    workspace: Path, limits: Limits, source: Path | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection that can touch nothing but the workspace and the source file.

    Args:
        workspace: Directory for spilling and for what is written.
        limits: Memory.
        source: A file outside the workspace that may be read.

    Raises:
        UploadRefusedError: The memory was not enough.
        FinalError: DuckDB failed in another way, which is a fault of ours or of the machine.
    """
    connection = duckdb.connect(
        config={
            # With two threads, DuckDB 2.0 gives the rows of a CSV beyond some 30 MB in another order
            # than the file's, whatever preserve_insertion_order says: row numbers would be wrong.
            "threads": 1,
            "memory_limit": f"{limits.memory_mb}MB",
            "temp_directory": str(workspace / "spill"),
            "max_temp_directory_size": f"{limits.spill_mb}MB",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
        }
    )
    try:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET preserve_insertion_order = true")
        connection.execute(f"SET allowed_directories = [{literal(str(workspace) + '/')}]")
        if source is not None:
            connection.execute(f"SET allowed_paths = [{literal(str(source))}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        with _bounded(limits):
            yield connection
    finally:
        connection.close()


@contextmanager
def _bounded(limits: Limits) -> Iterator[None]:
    try:
        yield
    except duckdb.OutOfMemoryException as exc:
        raise UploadRefusedError(
            f"the upload needs more than the {limits.memory_mb} MB of memory and "
            f"{limits.spill_mb} MB of disk that ingest may use",
            Refusal.TOO_LARGE,
        ) from exc
    except duckdb.Error as exc:
        # The chain is cut on purpose: DuckDB quotes the data it stumbled over.
        raise FinalError(f"ingest failed in DuckDB: {reason_of(exc)}") from None


def reason_of(exc: duckdb.Error) -> str:
    """DuckDB's reason as far as it quotes no data."""
    head = str(exc).split("\n", 1)[0]
    return f"{type(exc).__name__}: {re.split('["\']|Input:', head)[0].strip()[:200]}"


def literal(text: str) -> str:
    """A SQL string literal, for the few places that take no parameter."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """A quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'

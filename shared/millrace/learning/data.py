"""The stored splits of one dataset version, kept in memory between the trials of a warm Lambda."""

from millrace.aws.objects import ObjectStore
from millrace.datasets.table import SplitName, Table, TableSchema
from millrace.errors import ArtifactError
from millrace.layout import split_key
from millrace.messages import IngestResult
from millrace.spec import ModelSpec, Role


class SplitReader:
    """Reads splits, and remembers those of the last dataset version only.

    The trials of one search read the same immutable objects; a second dataset version in the same
    process takes the first one's place, so that memory holds one at most.

    Args:
        store: Where the data bucket is read.
        bucket: The data bucket.
    """

    def __init__(self, store: ObjectStore, bucket: str) -> None:
        self._store = store
        self._bucket = bucket
        self._key = ""
        self._schema: TableSchema | None = None
        self._splits: dict[SplitName, Table] = {}

    def schema(self, spec: ModelSpec, ingest: IngestResult) -> TableSchema:
        """What the splits hold.

        Raises:
            NotFoundError: There are no such splits.
            ArtifactError: They are malformed, or were made for another contract.
        """
        if self._key != ingest.schema_key or self._schema is None:
            where = f"s3://{self._bucket}/{ingest.schema_key}"
            body = self._store.read(self._bucket, ingest.schema_key)
            schema = TableSchema.from_bytes(body, where)
            self._key, self._schema, self._splits = ingest.schema_key, schema, {}
        _check_contract(spec, self._schema, f"s3://{self._bucket}/{self._key}")
        return self._schema

    def split(self, spec: ModelSpec, ingest: IngestResult, name: SplitName) -> Table:
        """One split.

        Raises:
            NotFoundError: There is no such split.
            ArtifactError: It is malformed, or was made for another contract.
        """
        schema = self.schema(spec, ingest)
        if name not in self._splits:
            key = split_key(spec.name, ingest.dataset_version, ingest.data_digest, name)
            table = Table.from_bytes(self._store.read(self._bucket, key), schema)
            if table.rows != schema.rows.get(name):
                raise ArtifactError(
                    f"s3://{self._bucket}/{key}: expected {schema.rows.get(name)} rows, "
                    f"got {table.rows}"
                )
            self._splits[name] = table
        return self._splits[name]


def _check_contract(spec: ModelSpec, schema: TableSchema, where: str) -> None:
    """The model's inputs are the spec's features in order; splits that differ would mix them up."""
    expected = [(c.name, c.type) for c in spec.features]
    stored = [(c.name, c.type) for c in schema.columns if c.role is Role.FEATURE]
    if (schema.task, schema.target, stored) != (spec.task, spec.target.name, expected):
        raise ArtifactError(
            f"{where} was made for another contract: expected task {spec.task}, target "
            f"{spec.target.name!r} and {len(expected)} features in the order of the spec, got task "
            f"{schema.task}, target {schema.target!r} and {len(stored)} features"
        )

"""Stored documents are used only as they were registered, and their contents are never told."""

import hashlib
import json

import pytest

from millrace.datasets.table import TableSchema
from millrace.documents import read_spec
from millrace.errors import ArtifactError, DigestMismatchError, NotFoundError
from millrace.signature_file import read_signature
from tests.fakes.cases import spec
from tests.fakes.onnx_models import churn_signature
from tests.fakes.store import FakeStore

SECRET = "Ada Lovelace"


def stored(body: bytes) -> tuple[FakeStore, str]:
    store = FakeStore()
    store.write("b", "k", body, content_type="application/json")
    return store, hashlib.sha256(body).hexdigest()


def test_documents_come_back_as_they_were_stored() -> None:
    store, digest = stored(spec().to_json().encode())
    assert read_spec(store, "b", "k", digest) == spec()
    store, digest = stored(churn_signature().to_json())
    assert read_signature(store, "b", "k", digest, "churn@3") == churn_signature()


def test_a_document_that_is_another_or_absent_is_refused() -> None:
    store, _ = stored(churn_signature().to_json())

    with pytest.raises(
        DigestMismatchError, match="signature of churn@3, s3://b/k: expected sha256 00"
    ):
        read_signature(store, "b", "k", "00" * 32, "churn@3")
    with pytest.raises(NotFoundError):
        read_signature(store, "b", "other", "00" * 32, "churn@3")


def test_a_broken_signature_is_named_without_what_it_holds() -> None:
    document = churn_signature().document() | {"onnx_opset": SECRET}
    store, digest = stored(json.dumps(document).encode())

    with pytest.raises(ArtifactError, match="s3://b/k, is none: onnx_opset") as caught:
        read_signature(store, "b", "k", digest, "churn@3")
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_broken_split_schema_is_named_without_what_it_holds() -> None:
    document = {"task": "binary", "target": "left", "columns": [{"name": "sex", "type": SECRET}]}

    with pytest.raises(ArtifactError, match=r"s3://b/k is no split schema: columns\.0") as caught:
        TableSchema.from_bytes(json.dumps(document).encode(), "s3://b/k")
    assert SECRET not in str(caught.value)

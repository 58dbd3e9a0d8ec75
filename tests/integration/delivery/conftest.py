"""An account on moto, and a bucket of releases in it."""

from collections.abc import Iterator

import pytest
from moto import mock_aws

from infra.delivery.place import Place
from infra.delivery.store import ArtifactStore

BUCKET = "releases-of-ours"


@pytest.fixture
def place() -> Iterator[Place]:
    """The account."""
    with mock_aws():
        made = Place(environment={"AWS_REGION": "us-east-1"})
        yield made
        made.close()


@pytest.fixture
def store(place: Place) -> ArtifactStore:
    """The bucket."""
    place.s3.create_bucket(Bucket=BUCKET)
    return ArtifactStore(place, BUCKET)

"""Releases and records against S3: uploaded once, by content, and verified before they are used."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest

from infra.delivery import records, release
from infra.delivery.place import Place
from infra.delivery.release import OnDisk, Packaged, fetch, load, package, refuse_elsewhere, verify
from infra.delivery.store import ArtifactStore, empty_bucket, find_store
from millrace.errors import (
    AlreadyExistsError,
    ConfigurationError,
    ConflictError,
    DigestMismatchError,
    InvalidRequestError,
    NotFoundError,
)
from tests.integration.delivery.conftest import BUCKET

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
TEMPLATE = """
Resources:
  One:
    Type: AWS::Serverless::Function
    Properties: {CodeUri: One, Handler: h.h, Runtime: python3.13}
  Two:
    Type: AWS::Serverless::Function
    Properties: {CodeUri: Two, Handler: h.h, Runtime: python3.13}
  Machine:
    Type: AWS::Serverless::StateMachine
    Properties: {DefinitionUri: machine.asl.yaml, Role: r}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A build of two functions and a state machine, in a folder that git does not know."""
    build = tmp_path / "build"
    for name in ("One", "Two"):
        (build / name).mkdir(parents=True)
        (build / name / "h.py").write_text(f"# {name}")
    (build / "machine.asl.yaml").write_text("StartAt: A")
    (build / "template.yaml").write_text(TEMPLATE)
    # SAM runs as a process of its own, which moto does not reach; the e2e tests run it.
    monkeypatch.setattr(
        release, "_as_sam_sends_it", lambda template, *_: json.dumps(template).encode()
    )
    return tmp_path


def _package(project: Path, place: Place, store: ArtifactStore, version: str = "1.0") -> Packaged:
    return package(
        project=project,
        build=project / "build",
        folder=project / version,
        place=place,
        store=store,
        version=version,
        say=lambda _: None,
        now=NOON,
    )


def test_a_release_says_what_it_is_made_of(
    project: Path, place: Place, store: ArtifactStore
) -> None:
    made = _package(project, place, store).on_disk.release

    assert [a.name for a in made.artifacts] == ["One", "Two", "Machine"]
    assert all(a.key == f"artifacts/{a.sha256}.zip" for a in made.artifacts[:2])
    assert (made.version, made.region, made.bucket) == ("1.0", "us-east-1", BUCKET)
    template = json.loads((project / "1.0" / "template.yaml").read_text())
    code = template["Resources"]["One"]["Properties"]["CodeUri"]
    assert code == f"s3://{BUCKET}/{made.artifacts[0].key}"
    verify(made, store, lambda _: None)


def test_what_is_there_already_is_not_uploaded_again(
    project: Path, place: Place, store: ArtifactStore
) -> None:
    first = _package(project, place, store)
    (project / "build" / "Two" / "h.py").write_text("# changed")

    second = _package(project, place, store, "2.0")

    assert [a.name for a in first.uploaded] == ["One", "Two", "Machine"]
    assert [a.name for a in second.uploaded] == ["Two"]


def test_what_has_been_there_for_long_is_uploaded_again(
    project: Path, place: Place, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    _package(project, place, store)
    monkeypatch.setattr("infra.delivery.store._OLD", timedelta(seconds=-60))

    again = _package(project, place, store, "2.0")

    assert len(again.uploaded) == 3


def test_the_same_release_twice_is_the_first_one(
    project: Path, place: Place, store: ArtifactStore
) -> None:
    first = _package(project, place, store).on_disk.release

    again = _package(project, place, store)

    assert again.on_disk.release == first
    assert again.uploaded == ()


def test_a_version_never_gets_other_bytes(
    project: Path, place: Place, store: ArtifactStore
) -> None:
    _package(project, place, store)
    (project / "build" / "Two" / "h.py").write_text("# changed")

    with pytest.raises(ConflictError, match=r"made of other bytes \(Two, template.yaml differ\)"):
        _package(project, place, store)


def test_a_local_file_that_packaging_does_not_know_is_refused(
    project: Path, place: Place, store: ArtifactStore
) -> None:
    nested = (
        "  Nested:\n    Type: AWS::Serverless::Application\n    Properties: {Location: a.yaml}\n"
    )
    (project / "build" / "template.yaml").write_text(TEMPLATE + nested)

    with pytest.raises(ConfigurationError, match="Nested: Location names the local file 'a.yaml'"):
        _package(project, place, store)


def test_nothing_built_says_to_build(tmp_path: Path, place: Place, store: ArtifactStore) -> None:
    with pytest.raises(ConfigurationError, match="run `make build`"):
        _package(tmp_path, place, store)


def test_a_version_that_cannot_be_a_key_is_made_one(
    project: Path, place: Place, store: ArtifactStore
) -> None:
    made = _package(project, place, store, "feature/a b").on_disk.release

    assert made.version == "feature-a-b"


def test_a_release_is_fetched_and_an_unknown_one_names_those_there_are(
    project: Path, place: Place, store: ArtifactStore
) -> None:
    made = _package(project, place, store).on_disk.release

    assert fetch(store, "1.0", project / "fetched").release == made
    with pytest.raises(NotFoundError, match="has no release '9.9'; it has 1.0"):
        fetch(store, "9.9", project / "nothing")


@pytest.fixture
def on_disk(project: Path, place: Place, store: ArtifactStore) -> OnDisk:
    return _package(project, place, store).on_disk


def test_a_changed_artifact_is_noticed(place: Place, store: ArtifactStore, on_disk: OnDisk) -> None:
    key = on_disk.release.artifacts[0].key
    place.s3.put_object(Bucket=BUCKET, Key=key, Body=b"other")

    with pytest.raises(DigestMismatchError, match="One in the bucket is not what was built"):
        verify(on_disk.release, store, lambda _: None)


def test_a_missing_artifact_is_noticed(place: Place, store: ArtifactStore, on_disk: OnDisk) -> None:
    place.s3.delete_object(Bucket=BUCKET, Key=on_disk.release.artifacts[2].key)

    with pytest.raises(NotFoundError, match="Machine of this release is not in the bucket"):
        verify(on_disk.release, store, lambda _: None)


def test_a_template_changed_after_packaging_is_refused(on_disk: OnDisk) -> None:
    on_disk.template.write_text(on_disk.template.read_text() + " ")

    with pytest.raises(DigestMismatchError, match="was changed after packaging"):
        load(on_disk.folder)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"format": 2}, "format"),
        ({"version": "a b"}, "version"),
        ({"surplus": 1}, "surplus"),
    ],
    ids=["format", "version", "surplus"],
)
def test_a_damaged_manifest_names_the_field(
    on_disk: OnDisk, edit: dict[str, Any], said: str
) -> None:
    file = on_disk.folder / "release.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | edit))

    with pytest.raises(InvalidRequestError, match=f"is damaged: {said}"):
        load(on_disk.folder)


def test_a_folder_without_a_release_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="make one .`make package`"):
        load(tmp_path)


def test_a_release_of_another_region_or_bucket_is_refused(on_disk: OnDisk) -> None:
    elsewhere = Place(environment={"AWS_REGION": "eu-west-1"})

    with pytest.raises(InvalidRequestError, match="packaged for us-east-1 .* goes to eu-west-1"):
        refuse_elsewhere(on_disk.release, elsewhere, None)
    with pytest.raises(InvalidRequestError, match="ARTIFACT_BUCKET says other"):
        refuse_elsewhere(on_disk.release, Place(environment={"AWS_REGION": "us-east-1"}), "other")


def test_a_bucket_is_made_when_there_is_none_and_said(place: Place) -> None:
    said: list[str] = []

    with pytest.raises(NotFoundError, match="nothing was ever packaged"):
        find_store(place, None)
    made = find_store(place, None, make=True, say=said.append)
    again = find_store(place, None, make=True, say=said.append)

    assert made.bucket == again.bucket == "millrace-artifacts-123456789012-us-east-1"
    assert len(said) == 1
    block = place.s3.get_public_access_block(Bucket=made.bucket)["PublicAccessBlockConfiguration"]
    assert all(block.values())


def test_the_bootstrap_stacks_bucket_comes_first(place: Place) -> None:
    place.cloudformation.create_stack(
        StackName="millrace-ci-staging",
        TemplateBody=json.dumps(
            {
                "Resources": {"T": {"Type": "AWS::SNS::Topic"}},
                "Outputs": {"ArtifactBucketName": {"Value": BUCKET}},
            }
        ),
    )

    assert find_store(place, None).bucket == BUCKET


def test_a_bucket_that_is_not_there_or_elsewhere_is_refused(
    place: Place, store: ArtifactStore
) -> None:
    boto3.client("s3", region_name="eu-west-1").create_bucket(
        Bucket="far-away-releases", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )

    with pytest.raises(ConfigurationError, match="there is no bucket 'nowhere-at-all'"):
        find_store(place, "nowhere-at-all")
    with pytest.raises(ConfigurationError, match="is in eu-west-1 and the deployment in us-east-1"):
        find_store(place, "far-away-releases")
    assert find_store(place, BUCKET).bucket == BUCKET


def test_a_document_is_written_once_where_that_is_asked(store: ArtifactStore) -> None:
    store.put_document("k", {"a": 1}, once=True)

    with pytest.raises(AlreadyExistsError):
        store.put_document("k", {"a": 2}, once=True)
    assert json.loads(store.read("k")) == {"a": 1}


def test_an_object_without_a_checksum_of_s3_is_read(place: Place, store: ArtifactStore) -> None:
    place.s3.put_object(Bucket=BUCKET, Key="plain", Body=b"hello")

    assert store.digest("plain") == (
        "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    )
    assert store.digest("absent") is None


def test_deployments_are_told_in_their_order(store: ArtifactStore) -> None:
    for minute, version in ((2, "2.0"), (1, "1.0")):
        records.keep(
            store,
            records.Deployment(
                stack="s",
                stage="staging",
                kind="deploy",
                version=version,
                previous="",
                commit="",
                parameters={"Stage": "staging"},
                by="me",
                started=NOON.replace(minute=minute),
                outcome="succeeded",
            ),
        )

    told = records.history(store, "s")

    assert [r.version for r in told] == ["1.0", "2.0"]
    last = records.last_good(told)
    assert last is not None
    assert last.version == "2.0"
    assert records.history(store, "other") == []


def test_a_damaged_record_is_named(store: ArtifactStore) -> None:
    store.put_document("deployments/s/x.json", {"who": "knows"})

    with pytest.raises(InvalidRequestError, match="deployments/s/x.json is no record"):
        records.history(store, "s")


def test_a_bucket_is_emptied_with_every_version(place: Place, store: ArtifactStore) -> None:
    place.s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    for body in (b"1", b"2"):
        place.s3.put_object(Bucket=BUCKET, Key="k", Body=body)
    place.s3.delete_object(Bucket=BUCKET, Key="k")

    assert empty_bucket(place, BUCKET) == 3
    place.s3.delete_bucket(Bucket=BUCKET)

"""The bill of materials is what CycloneDX says one is, and says what is in the version."""

from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from millrace.bundle import Bundle
from tests.fakes.environments import Environment, document_of


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    staging = Environment("staging")
    staging.train(1)
    staging.train(2)
    return staging.export(tmp_path / "churn-2.bundle")


def validated(body: bytes) -> object:
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(body.decode())


def test_bill_holds_to_the_schema_of_cyclonedx(exported: Path) -> None:
    assert validated(Bundle.open(exported).read("sbom.cdx.json")) is None


def test_validator_finds_what_is_no_bill() -> None:
    assert validated(b'{"bomFormat": "CycloneDX", "specVersion": "1.6", "models": []}') is not None


def test_bill_names_model_packages_dataset_and_figures(exported: Path) -> None:
    bill = document_of(exported, "sbom.cdx.json")
    serving = Bundle.open(exported).manifest.serving
    model = bill["metadata"]["component"]
    card = model["modelCard"]

    assert (model["type"], model["name"], model["version"]) == (
        "machine-learning-model",
        "churn",
        "2",
    )
    assert model["hashes"] == [{"alg": "SHA-256", "content": serving.sha256}]
    assert {c["purl"] for c in bill["components"] if "purl" in c} == {
        "pkg:pypi/numpy@2.3.4",
        "pkg:pypi/scikit-learn@1.9.0",
    }
    assert [c["version"] for c in bill["components"] if c["type"] == "data"] == ["d2"]
    assert card["modelParameters"]["task"] == "binary-classification"
    assert len(card["modelParameters"]["inputs"]) == 5
    measured = {m["type"]: m for m in card["quantitativeAnalysis"]["performanceMetrics"]}
    assert measured["roc_auc"]["confidenceInterval"] == {"lowerBound": "0.8", "upperBound": "0.95"}
    assert card["considerations"]["fairnessAssessments"][0]["groupAtRisk"] == "groups of left"


def test_a_version_gives_the_same_bundle_twice(tmp_path: Path) -> None:
    staging = Environment("staging")
    staging.train(1)
    one, two = staging.export(tmp_path / "one"), staging.export(tmp_path / "two")

    assert one.read_bytes() == two.read_bytes()

"""One deployment of the real template on an embedded cloud, shared by the whole session.

The deployment is made as a person makes it: `sam deploy` of what `make build` built. A test that
needs a model of its own applies a spec under its own name.
"""

import csv
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sklearn import datasets as tables

from millrace.spec import ModelSpec
from millrace_cli import cloud
from millrace_cli.client import ApiClient
from millrace_cli.deploy import BUILD_FOLDER, deploy_local
from millrace_cli.follow import follow_run
from millrace_cli.target import DEFAULT_STACK, Target
from millrace_cli.training import upload_file

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def target() -> Iterator[Target]:
    """The deployed stack."""
    if not (PROJECT / BUILD_FOLDER / "template.yaml").exists():
        pytest.fail("nothing is built: run the e2e tests through `make test-e2e`")
    with cloud.ephemeral(PROJECT) as info:
        deploy_local(PROJECT, info, print)
        yield Target(kind="local", stack=DEFAULT_STACK, endpoint_url=info.endpoint, region=None)


@pytest.fixture(scope="session")
def api(target: Target) -> Iterator[ApiClient]:
    """The deployment's HTTPS API."""
    with closing(ApiClient(target)) as client:
        yield client


@dataclass(frozen=True, slots=True)
class Sample:
    """A table that ships with scikit-learn, as a person would hold it.

    Attributes:
        header: Column names, the target last.
        rows: Values as text.
    """

    header: list[str]
    rows: list[list[str]]

    def write(self, path: Path, start: int = 0, stop: int | None = None) -> Path:
        """Writes rows ``start`` to ``stop`` as CSV."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(self.header)
            writer.writerows(self.rows[start:stop])
        return path

    def feature_row(self, index: int) -> dict[str, float]:
        """The features of one row as the API takes them."""
        values = zip(self.header[:-1], self.rows[index][:-1], strict=True)
        return {name: float(value) for name, value in values}


def sample_of(name: str, features: int) -> Sample:
    """The first ``features`` columns of a bundled table, shuffled once and for all."""
    table = getattr(tables, f"load_{name}")()
    names = [str(n).replace(" ", "_").replace("/", "_") for n in table.feature_names[:features]]
    order = sorted(range(len(table.target)), key=lambda i: (i * 7919) % 1_000_003)
    rows = [
        [*(repr(float(v)) for v in table.data[i][:features]), f"{table.target[i]:g}"] for i in order
    ]
    return Sample([*names, "target"], rows)


@pytest.fixture(scope="session")
def cancer() -> Sample:
    """Breast cancer Wisconsin: 569 rows, binary."""
    return sample_of("breast_cancer", 8)


def spec_document(
    name: str, sample: Sample, task: str = "binary", **sections: Any
) -> dict[str, Any]:
    """A spec for a sample, quick to train."""
    target_type = "number" if task == "regression" else "integer"
    columns = [
        *({"name": n, "type": "number"} for n in sample.header[:-1]),
        {"name": sample.header[-1], "type": target_type, "role": "target"},
    ]
    document: dict[str, Any] = {
        "name": name,
        "task": task,
        "data": {"columns": columns, "max_quarantined": 0.1},
        "train": {"trials": 3, "folds": 2},
        "evaluate": {"bootstrap": 50},
    }
    for section, values in sections.items():
        document[section] = {**document.get(section, {}), **values}
    return document


Follow = Callable[[str], dict[str, Any]]
Upload = Callable[[str, Path], dict[str, Any]]


@pytest.fixture(scope="session")
def follow(api: ApiClient) -> Follow:
    """Waits for a run's end and returns its document."""

    def _follow(run_id: str) -> dict[str, Any]:
        final: dict[str, Any] = {}
        for event in follow_run(api, run_id, deadline=240):
            if isinstance(event, dict):
                final = event
        return final

    return _follow


@pytest.fixture(scope="session")
def upload(target: Target, follow: Follow) -> Upload:
    """Uploads a file as S3 clients do and waits for the run it starts."""

    def _upload(model: str, path: Path) -> dict[str, Any]:
        _, run_id, _ = upload_file(target, model, path, path.name)
        return follow(run_id)

    return _upload


@pytest.fixture(scope="session")
def trained(
    api: ApiClient, upload: Upload, cancer: Sample, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """A model with a first champion: the run that made it."""
    document = spec_document(
        "tumor", cancer, evaluate={"metrics": [{"metric": "roc_auc", "min": 0.8}]}
    )
    api.put("/v1/specs/tumor", ModelSpec.from_document(document).model_dump(mode="json"))
    path = cancer.write(tmp_path_factory.mktemp("data") / "first.csv", stop=400)
    run = upload("tumor", path)
    assert run["outcome"] == "promoted", run
    return run

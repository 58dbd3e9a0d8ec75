"""The container definition and the Kubernetes manifests, as linters see them and as they run.

There is no container engine here. What an image is made of can be had without one: its packages,
from the same requirements by the same hashes, and its command, its environment and its health check.
"""

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from millrace.http.routes import ROUTES
from millrace.server.settings import ServerSettings
from millrace.settings import PREFIX
from tests.fakes.bundles import bundled
from tests.fakes.server import Running, running
from tests.infra.deployment import ROOT
from tests.infra.scans import run
from tests.until import until

DOCKERFILE = ROOT / "infra" / "container" / "Dockerfile"
MANIFESTS = ROOT / "infra" / "kubernetes"
TOOLS = ROOT / ".tools" / "container" / "bin"
PYTHON = ROOT / ".tools" / "serve" / "bin" / "python"
REQUIREMENTS = ROOT / "infra" / "build" / "requirements"
KUBERNETES = ("1.30", "1.33", "1.37")
"""The oldest release with what the manifests use (a pause before the stop), one between, the newest."""

LEFT: Final = {
    "CKV_K8S_43": "The digest is your registry's: an overlay sets it, as kustomization.yaml shows.",
    "CKV_K8S_15": "An image named by its digest is the same wherever it was pulled from, or when.",
    "CKV_DOCKER_7": "The base's tag stands in an ARG, so that a build can pin it; checkov reads none.",
}
"""What checkov finds and we leave as it is, with the reason."""

type Manifest = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    if not (TOOLS / "hadolint").exists() or not PYTHON.exists():
        pytest.fail("the environments of the container are missing: run `make setup-container`")


def instructions(name: str) -> list[str]:
    """The arguments of a Dockerfile's instructions of one kind, continued lines joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [line.split(None, 1)[1] for line in lines if line.split(None, 1)[:1] == [name]]


# ── The image ───────────────────────────────────────────────────────────────────────────────────


def hadolint(text: str) -> list[str]:
    """The rules that a Dockerfile breaks."""
    done = subprocess.run(
        [TOOLS / "hadolint", "--format", "json", "-"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    return [found["code"] for found in json.loads(done.stdout)]


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    assert hadolint(DOCKERFILE.read_text()) == []


def test_hadolint_would_find_what_is_wrong() -> None:
    written = DOCKERFILE.read_text()

    assert "DL3007" in hadolint(written.replace("FROM ${BASE} AS", "FROM python:latest AS"))
    assert "DL3002" in hadolint(written.replace("USER 10001:10001", "USER root"))


def test_the_image_runs_without_root_and_without_a_shell() -> None:
    assert instructions("USER") == ["10001:10001"]
    for command in instructions("ENTRYPOINT") + [
        h.split("CMD", 1)[1].strip() for h in instructions("HEALTHCHECK")
    ]:
        assert json.loads(command)[0] == "/opt/millrace/bin/python"
    (base,) = instructions("ARG")
    assert re.fullmatch(r"BASE=python:3\.13-slim-[a-z]+", base)


def test_the_image_has_the_packages_of_the_extra_and_no_cloud() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = re.compile(r"[a-z0-9-]+")
    wanted = project["optional-dependencies"]["serve"] + project["dependencies"]
    declared = {found[0] for found in map(names.match, wanted) if found}
    listed = set(
        re.findall(r"^([a-z0-9-]+)$", (REQUIREMENTS / "serve.in").read_text(), re.MULTILINE)
    )
    locked = set(
        re.findall(r"^([a-z0-9-]+)==", (REQUIREMENTS / "serve.txt").read_text(), re.MULTILINE)
    )

    assert listed <= declared
    assert not locked & {"boto3", "botocore", "aws-xray-sdk", "duckdb", "scikit-learn", "mangum"}


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The container's process: its packages, its files (read only), its command, its environment."""
    folder = tmp_path_factory.mktemp("container")
    code = folder / "site"
    shutil.copytree(
        ROOT / "shared" / "millrace",
        code / "millrace",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    for place in (code, *code.rglob("*")):
        place.chmod(0o555 if place.is_dir() else 0o444)
    bundles = folder / "bundles"
    bundled(bundles / "churn.bundle")
    environment = dict(part.split("=") for part in " ".join(instructions("ENV")).split())
    assert environment["MILLRACE_BUNDLES"] == "/bundles"
    command = json.loads(instructions("ENTRYPOINT")[0])
    environment |= {
        "MILLRACE_BUNDLES": str(bundles),
        "MILLRACE_HOST": "127.0.0.1",
        "MILLRACE_PORT": "0",
        "MILLRACE_WORKERS": "2",
        "PYTHONPATH": str(code),
        "TMPDIR": str(folder),
    }
    try:
        with running(folder, [PYTHON, *command[1:]], environment) as server:
            yield server
    finally:
        for place in (code, *code.rglob("*")):
            place.chmod(0o755)


def probe(server: Running, *which: str) -> subprocess.CompletedProcess[str]:
    """Runs the health check of the image."""
    (check,) = instructions("HEALTHCHECK")
    command = json.loads(check.split("CMD", 1)[1])
    return subprocess.run(
        [PYTHON, *command[1:], *which],
        env={
            "PYTHONPATH": str(server.folder / "site"),
            "MILLRACE_PORT": str(server.http.base_url.port),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_the_command_serves_in_an_environment_of_its_requirements_alone(
    container: Running,
) -> None:
    row = {"age": 41, "plan": "basic", "tenure": 3.5, "active": True, "city": "Graz"}

    answer = container.predict([row])
    inferred = container.http.post(
        "/v2/models/churn/infer",
        json={
            "inputs": [
                {"name": "age", "shape": [1], "datatype": "INT64", "data": [41]},
                {"name": "plan", "shape": [1], "datatype": "BYTES", "data": ["basic"]},
                {"name": "tenure", "shape": [1], "datatype": "FP64", "data": [3.5]},
                {"name": "active", "shape": [1], "datatype": "BOOL", "data": [True]},
                {"name": "city", "shape": [1], "datatype": "BYTES", "data": ["Graz"]},
            ]
        },
    )
    unknown = container.http.get("/v1/nothing")

    assert answer.status_code == 200, answer.text
    assert inferred.status_code == 200, inferred.text
    assert unknown.status_code == 404, "FastAPI answers for what is not there"
    until(lambda: container.metric("millrace_predictions_total", model="churn") == 2)


def test_the_health_check_says_whether_the_server_lives(container: Running) -> None:
    assert probe(container).returncode == 0
    assert probe(container, "ready").returncode == 0

    absent = Running(container.process, container.folder)
    absent.http = container.http.__class__(base_url="http://127.0.0.1:9")
    assert probe(absent).returncode == 1
    absent.http.close()


# ── Kubernetes ──────────────────────────────────────────────────────────────────────────────────


def manifests() -> dict[str, Manifest]:
    """Every manifest, by its kind."""
    found = {}
    for path in sorted(MANIFESTS.glob("*.yaml")):
        (document,) = yaml.safe_load_all(path.read_text())
        found[document["kind"]] = document
    return found


@pytest.mark.parametrize("version", KUBERNETES)
def test_the_manifests_fit_the_schemas_of_kubernetes(version: str) -> None:
    files = [p for p in sorted(MANIFESTS.glob("*.yaml")) if _is_builtin(p)]

    done = subprocess.run(
        [TOOLS / "kubernetes-validate", "--strict", "-k", version, *files],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stdout + done.stderr).count(" passed for resource ") == len(files)


def test_a_misspelt_field_would_be_found(tmp_path: Path) -> None:
    text = (MANIFESTS / "deployment.yaml").read_text()
    (tmp_path / "deployment.yaml").write_text(text.replace("readinessProbe", "readynessProbe"))

    done = subprocess.run(
        [TOOLS / "kubernetes-validate", "--strict", tmp_path / "deployment.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode != 0
    assert "readynessProbe" in done.stdout + done.stderr


def test_the_kustomization_names_every_manifest_but_the_optional_one() -> None:
    files = {p.name for p in MANIFESTS.glob("*.yaml")}

    named = set(manifests()["Kustomization"]["resources"])

    assert files - named == {"kustomization.yaml", "servicemonitor.yaml"}
    assert named <= files


def test_the_manifests_fit_each_other() -> None:
    of = manifests()
    labels = {"app.kubernetes.io/name": "millrace-serve"}
    pod = of["Deployment"]["spec"]["template"]

    assert pod["metadata"]["labels"].items() >= labels.items()
    assert of["Service"]["metadata"]["labels"] == labels
    for selector in (
        of["Deployment"]["spec"]["selector"]["matchLabels"],
        of["Service"]["spec"]["selector"],
        of["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        of["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        of["ServiceMonitor"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector == labels
    assert of["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == "millrace-serve"
    assert pod["spec"]["serviceAccountName"] == of["ServiceAccount"]["metadata"]["name"]
    namespaces = {m["metadata"].get("namespace") for k, m in of.items() if "metadata" in m}
    assert namespaces - {None} == {of["Namespace"]["metadata"]["name"]}
    (port,) = of["Service"]["spec"]["ports"]
    (container_port,) = pod["spec"]["containers"][0]["ports"]
    assert port["targetPort"] == container_port["name"]
    assert of["ServiceMonitor"]["spec"]["endpoints"][0]["port"] == port["name"]
    claims = [v["persistentVolumeClaim"]["claimName"] for v in pod["spec"]["volumes"][:1]]
    assert claims == [of["PersistentVolumeClaim"]["metadata"]["name"]]


def test_the_settings_of_the_config_map_are_the_servers() -> None:
    of = manifests()
    data = of["ConfigMap"]["data"]
    container = of["Deployment"]["spec"]["template"]["spec"]["containers"][0]

    settings = ServerSettings.from_environment(data)

    known = {PREFIX + name.upper() for name in ServerSettings.model_fields}
    assert data.keys() <= known
    assert settings.port == container["ports"][0]["containerPort"]
    mounts = {m["mountPath"] for m in container["volumeMounts"]}
    assert {str(p) for p in settings.bundles} | {"/tmp"} == mounts
    # Each worker holds its own models, in a tmpfs nothing.
    limit = int(container["resources"]["limits"]["memory"].removesuffix("Gi")) * 1024
    assert settings.workers * settings.model_cache_mb <= limit / 2


def test_a_stop_has_the_time_that_it_takes() -> None:
    of = manifests()
    spec = of["Deployment"]["spec"]["template"]["spec"]
    pause = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    stop = int(of["ConfigMap"]["data"]["MILLRACE_STOP_SECONDS"])

    assert pause + stop < spec["terminationGracePeriodSeconds"]


def test_probes_ask_routes_that_there_are() -> None:
    container = manifests()["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    paths = {
        container[f"{p}Probe"]["httpGet"]["path"] for p in ("startup", "liveness", "readiness")
    }

    assert paths == {"/v2/health/live", "/v2/health/ready"}
    assert paths <= {r.path for r in ROUTES}


# ── checkov ─────────────────────────────────────────────────────────────────────────────────────


def test_checkov_finds_nothing_that_is_not_explained(tmp_path: Path) -> None:
    reports = json.loads(
        run(
            "checkov",
            *(
                part
                for path in (DOCKERFILE, *MANIFESTS.glob("*.yaml"))
                for part in ("--file", path)
            ),
            *("--framework", "dockerfile", "kubernetes"),
            *("--output", "json", "--compact", "--skip-download"),
            home=tmp_path,
        )
    )

    failed = {c["check_id"] for r in reports for c in r["results"]["failed_checks"]}
    assert failed == LEFT.keys(), "each with a reason, and no reason too many"
    passed = {r["check_type"]: r["summary"]["passed"] for r in reports}
    assert passed["dockerfile"] > 20
    assert passed["kubernetes"] > 60


def _is_builtin(path: Path) -> bool:
    """Whether a manifest is of Kubernetes itself, and not of an extension."""
    version: str = yaml.safe_load(path.read_text())["apiVersion"]
    return not version.startswith(("kustomize.", "monitoring.coreos."))

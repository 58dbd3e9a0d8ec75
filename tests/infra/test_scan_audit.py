"""`make audit` says nothing known only when somebody who knows was asked."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from infra.scan import audit

type Known = dict[str, list[str]]


@contextmanager
def osv(known: Known | None) -> Iterator[str]:
    """A server that answers OSV's query for the packages it knows; with None it breaks."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            listed = (known or {}).get(asked["package"]["name"], [])
            body = json.dumps({"vulns": [_advisory(asked, i) for i in listed]}).encode()
            self.send_response(503 if known is None else 200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/query"
        finally:
            server.shutdown()
            thread.join(10)


@pytest.fixture
def requirements(tmp_path: Path) -> Path:
    path = tmp_path / "requirements.txt"
    path.write_text("numpy==2.3.4 \\\n    --hash=sha256:00\npyyaml==6.0.3 ; python_version > '3'\n")
    return path


@pytest.fixture(autouse=True)
def tool() -> None:
    if not audit.PIP_AUDIT.exists():
        pytest.fail("pip-audit is missing: run `make setup-scan`")


def test_clean_packages_pass_when_the_database_answers(
    requirements: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with osv({"jinja2": ["OLD-1"]}) as url:
        code = audit.audit([requirements], url)

    assert code == 0
    assert capsys.readouterr().out == "nothing known against 2 pinned packages\n"


def test_a_vulnerable_package_fails_and_is_named(
    requirements: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with osv({"jinja2": ["OLD-1"], "numpy": ["NEW-7"]}) as url:
        code = audit.audit([requirements], url)

    assert code == 1
    said = capsys.readouterr().out
    assert "numpy 2.3.4: NEW-7, fixed in 9.0" in said
    assert "pinned in requirements.txt" in said


def test_a_database_that_is_not_reached_fails(
    requirements: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with osv({}) as url:
        gone = url

    assert audit.audit([requirements], gone) == 2
    assert "no vulnerability data, so this says nothing about 2" in capsys.readouterr().out


@pytest.mark.parametrize("known", [{}, None], ids=["empty", "broken"])
def test_a_database_that_knows_nothing_fails(requirements: Path, known: Known | None) -> None:
    with osv(known) as url:
        assert audit.audit([requirements], url) == 2


def test_every_pin_is_asked_for_and_no_package_twice_in_a_round() -> None:
    wanted = audit.pins(audit.requirement_files())

    parts = list(audit.rounds(wanted))

    assert len(wanted) > 200
    assert {"onnxruntime", "scikit-learn", "fastapi", "pip-audit"} <= {name for name, _ in wanted}
    assert sorted(pin for part in parts for pin in part) == sorted(wanted)
    assert all(len({name for name, _ in part}) == len(part) for part in parts)


def _advisory(asked: dict[str, Any], identifier: str) -> dict[str, Any]:
    name = asked["package"]["name"]
    return {
        "id": identifier,
        "details": "made up",
        "affected": [
            {
                "package": {"name": name, "ecosystem": "PyPI"},
                "ranges": [
                    {"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "9.0"}]}
                ],
            }
        ],
    }

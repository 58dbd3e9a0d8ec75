"""Looks every pinned package up in the OSV database of known vulnerabilities; run by `make audit`.

A tool that reaches no data and then finds nothing looks like a pass. So a version that is known to be
vulnerable is asked for first: unless the database says so, the audit has no data, and fails.

Exit codes: 0 nothing known, 1 vulnerable packages, 2 no data.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PIP_AUDIT = ROOT / ".tools" / "audit" / "bin" / "pip-audit"

CANARY = ("jinja2", "2.4.1")
"""A version with advisories of 2014 and later (its sandbox lets code out): they will not go away."""

_PIN = re.compile(
    r"^(?P<name>[A-Za-z0-9][\w.-]*)(?:\[[\w,.-]+\])?==(?P<version>[^\s;\\]+)", re.MULTILINE
)

type Pin = tuple[str, str]


class NoDataError(Exception):
    """The database did not answer, or knows nothing."""


@dataclass(frozen=True, slots=True, order=True)
class Advisory:
    """One known vulnerability of one pinned package."""

    name: str
    version: str
    identifier: str
    fixed_in: tuple[str, ...]


def requirement_files() -> list[Path]:
    """What is deployed first, then what the tools and tests are made of."""
    return [
        *sorted((ROOT / "functions").glob("*/requirements.txt")),
        *(
            path
            for path in sorted((ROOT / "infra/build/requirements").glob("*.txt"))
            # These pin nothing that the others do not.
            if path.name not in {"constraints.txt", "prowler-overrides.txt"}
            # Only a bench runs the peers, on loopback, and their versions are what it measures.
            and not path.name.startswith("peers-")
        ),
    ]


def pins(files: Iterable[Path]) -> dict[Pin, list[str]]:
    """Every pinned package, with the files that pin it."""
    found: dict[Pin, list[str]] = defaultdict(list)
    for path in files:
        for match in _PIN.finditer(path.read_text()):
            shown = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
            found[match["name"].lower(), match["version"]].append(shown)
    return dict(found)


def rounds(wanted: Iterable[Pin]) -> Iterator[list[Pin]]:
    """The pins in lists that hold each package once, as one environment would."""
    left = sorted(wanted)
    while left:
        named = dict(reversed(left))
        taken = sorted(named.items())
        left = sorted(set(left) - set(taken))
        yield taken


def advisories(wanted: Iterable[Pin], osv_url: str | None) -> list[Advisory]:
    """What the database knows of these packages.

    Raises:
        NoDataError: It was not reached, or left a package out.
    """
    listed = sorted(wanted)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "requirements.txt"
        file.write_text("".join(f"{name}=={version}\n" for name, version in listed))
        done = subprocess.run(
            [
                str(PIP_AUDIT),
                *("--strict", "--vulnerability-service", "osv", "--disable-pip", "--no-deps"),
                *("--requirement", str(file), "--format", "json", "--progress-spinner", "off"),
                *(("--osv-url", osv_url) if osv_url else ()),
            ],
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
    report = _report(done.stdout)
    if report is None:
        reason = done.stderr.strip().splitlines() or [f"pip-audit ended with {done.returncode}"]
        raise NoDataError(reason[-1])
    answered = {(d["name"].lower(), d.get("version")) for d in report if "vulns" in d}
    missing = sorted(f"{name} {version}" for name, version in set(listed) - answered)
    if missing:
        raise NoDataError(f"no answer for {', '.join(missing[:5])}")
    return [
        Advisory(d["name"].lower(), d["version"], v["id"], tuple(v["fix_versions"]))
        for d in report
        for v in d["vulns"]
    ]


def audit(files: Iterable[Path], osv_url: str | None = None) -> int:
    """Prints what is known of the packages that the files pin; returns the exit code."""
    wanted = pins(files)
    try:
        if not advisories([CANARY], osv_url):
            raise NoDataError(f"it knows nothing of {' '.join(CANARY)}, which is vulnerable")
        found = [known for part in rounds(wanted) for known in advisories(part, osv_url)]
    except NoDataError as exc:
        print(f"no vulnerability data, so this says nothing about {len(wanted)} packages: {exc}")
        print("Run `make audit` where the OSV database can be reached.")
        return 2
    for known in sorted(found):
        mend = f"fixed in {', '.join(known.fixed_in)}" if known.fixed_in else "no fix yet"
        print(f"{known.name} {known.version}: {known.identifier}, {mend}")
        print(f"    pinned in {', '.join(wanted[known.name, known.version])}")
    if found:
        print(f"{len(found)} known vulnerabilities; newer versions: make lock UPGRADE=1")
        return 1
    print(f"nothing known against {len(wanted)} pinned packages")
    return 0


def _report(text: str) -> list[dict[str, Any]] | None:
    try:
        found: list[dict[str, Any]] = json.loads(text)["dependencies"]
    except (ValueError, KeyError):
        return None
    return found


def main() -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("files", nargs="*", type=Path, help="requirement files; default: all")
    parser.add_argument("--osv-url", help="another server that speaks OSV's query API")
    arguments = parser.parse_args()
    return audit(arguments.files or requirement_files(), arguments.osv_url)


if __name__ == "__main__":
    sys.exit(main())

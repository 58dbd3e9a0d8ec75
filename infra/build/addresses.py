"""Refuses tracked files that name where packages are downloaded from.

Requirement files are pinned by version and hash; where they are fetched is the business of
whoever installs them. Run by `make check`.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# A link to a package file, or a package index by name.
DOWNLOAD = re.compile(
    r"https?://[^\s\"'<>)]+\.(?:whl|tar\.gz|tgz|zip)\b|\bpy(?:pi[.](?:org|python)|thonhosted[.])"
)
# Requirement files carry no address at all, nor an option that changes where pip looks.
PLACE = re.compile(r"\w://|^\s*(?:-i|-f|--index-url|--extra-index-url|--find-links)\b")


def is_requirement_file(path: Path) -> bool:
    """Whether pip or uv reads the file as requirements."""
    return path.suffix in {".in", ".txt"} and (
        path.name.startswith(("requirements.", "constraints."))
        or path.parent.name == "requirements"
    )


def find_addresses(path: Path, text: str) -> list[str]:
    """The offending lines of one file, as `path:line: text`."""
    patterns = (DOWNLOAD, PLACE) if is_requirement_file(path) else (DOWNLOAD,)
    return [
        f"{path}:{number}: {line.strip()[:160]}"
        for number, line in enumerate(text.splitlines(), start=1)
        if any(pattern.search(line) for pattern in patterns)
    ]


def main() -> int:
    """Checks every tracked text file; the exit code says whether all are clean."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    offences: list[str] = []
    for name in listed.stdout.decode().split("\0"):
        path = ROOT / name
        if not name or path.is_symlink() or not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # Not text.
        offences += find_addresses(Path(name), text)
    for offence in offences:
        print(f"download address: {offence}", file=sys.stderr)
    return 1 if offences else 0


if __name__ == "__main__":
    raise SystemExit(main())

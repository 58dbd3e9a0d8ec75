"""Puts a provider's pipeline where that provider looks for it; run by ``make ci-install``.

    python -m infra.ci.install github|gitlab|circleci|jenkins [--into FOLDER] [--force]

The files stay in infra/ci, where they are checked; what is put in place are copies to commit.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from millrace.errors import AlreadyExistsError, MillraceError

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[1]
PLACES: Final = {
    "github": ".github/workflows",
    "gitlab": ".",
    "circleci": ".circleci",
    "jenkins": ".",
}
"""Provider to the folder of a repository that it reads."""


def install(provider: str, into: Path, *, force: bool = False) -> list[tuple[Path, bool]]:
    """Copies the files of a provider.

    Args:
        provider: One of `PLACES`.
        into: The repository.
        force: Whether to replace files that are there and differ.

    Returns:
        Each file put in place, and whether it is new or changed.

    Raises:
        AlreadyExistsError: A file is there that is not ours; nothing was copied.
    """
    folder = into / PLACES[provider]
    sources = sorted(path for path in (HERE / provider).iterdir() if path.is_file())
    pairs = [(source.read_bytes(), folder / source.name) for source in sources]
    others = [
        str(target.relative_to(into))
        for content, target in pairs
        if target.exists() and target.read_bytes() != content
    ]
    if others and not force:
        raise AlreadyExistsError(
            f"expected no pipeline in place or the same one, got another {', '.join(others)}: compare "
            f"with infra/ci/{provider}, then say FORCE=1 to replace it"
        )
    done = []
    for content, target in pairs:
        changed = not target.exists() or target.read_bytes() != content
        if changed:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        done.append((target.relative_to(into), changed))
    return done


def main(arguments: Sequence[str] | None = None) -> int:
    """Copies and tells; the exit code says whether it could."""
    parser = argparse.ArgumentParser(
        prog="make ci-install", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("provider", choices=PLACES, help="who runs the pipeline")
    parser.add_argument("--into", type=Path, default=ROOT, help="the repository")
    parser.add_argument("--force", action="store_true", help="replace files that differ")
    given = parser.parse_args(arguments)
    try:
        done = install(given.provider, given.into, force=given.force)
    except MillraceError as exc:
        print(exc, file=sys.stderr)
        return 1
    for path, changed in done:
        print(f"{path}: {'written' if changed else 'is there already'}")
    if any(changed for _, changed in done):
        print(
            f"Commit and push. infra/ci/README.md says what {given.provider} has to be told first."
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Writes the committed OpenAPI document of both apps, or checks that it is current.

    python infra/build/openapi.py [--check]

The document is packaged beside the code that serves it, at ``shared/millrace/http/openapi.json``.
"""

import argparse
import sys
from pathlib import Path

from millrace.http.openapi import render

DOCUMENT = Path(__file__).resolve().parents[2] / "shared/millrace/http/openapi.json"


def main() -> int:
    """Writes or checks; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write the OpenAPI document of the API.")
    parser.add_argument("--check", action="store_true", help="fail when the document is stale")
    arguments = parser.parse_args()
    current = render()
    if not arguments.check:
        DOCUMENT.write_text(current, encoding="utf-8")
        return 0
    if DOCUMENT.exists() and DOCUMENT.read_text(encoding="utf-8") == current:
        return 0
    sys.stderr.write(f"{DOCUMENT.name} is stale: run `make openapi`\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())

"""Runs Prowler's checks on what is deployed where AWS_ENDPOINT_URL points, or in an account.

Runs in Prowler's own environment (`make scan-deployed`). Prowler's command line imports the SDKs of every
cloud it knows and loads every compliance framework; its checks need neither, so they are run as
Prowler's library runs them. The answer is JSON on standard output: one object per finding, and the checks
that broke.
"""

import argparse
import importlib
import json
import logging
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml
from prowler.lib.check.utils import recover_checks_from_provider
from prowler.lib.logger import logger
from prowler.providers.aws.aws_provider import AwsProvider
from prowler.providers.aws.lib.mutelist.mutelist import AWSMutelist
from prowler.providers.common.models import Audit_Metadata

HERE = Path(__file__).parent / "prowler"


def chosen(scope: dict[str, Any]) -> list[tuple[str, str]]:
    """Service and name of each check that speaks about a stack."""
    left_out = [pattern for entry in scope["left_out"] for pattern in entry["checks"]]
    return sorted(
        (service, name)
        for service in scope["services"]
        for name, _ in recover_checks_from_provider("aws", service)
        if not any(fnmatchcase(name, pattern) for pattern in left_out)
    )


def findings(
    checks: list[tuple[str, str]],
    provider: AwsProvider,
    mutelist: AWSMutelist,
    scope: dict[str, Any],
) -> Iterator[dict[str, Any]]:
    """What each check says of each resource; a check that breaks says so itself."""
    others = [pattern for entry in scope["not_ours"] for pattern in entry["resources"]]
    for service, name in checks:
        module = importlib.import_module(f"prowler.providers.aws.services.{service}.{name}.{name}")
        try:
            reports = getattr(module, name)().execute()
        except Exception as exc:  # noqa: BLE001 - any check may break; the caller hears of each
            yield {"check": name, "status": "BROKEN", "text": f"{type(exc).__name__}: {exc}"}
            continue
        for report in reports:
            if any(fnmatchcase(report.resource_id, pattern) for pattern in others):
                continue
            yield {
                "check": name,
                "status": str(report.status),
                "muted": mutelist.is_finding_muted(report, provider.identity.account),
                "resource": report.resource_id,
                "text": report.status_extended,
            }


def main() -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Prowler's checks of AWS, without the other clouds"
    )
    parser.add_argument("--region", required=True)
    parser.add_argument("--log", type=Path, help="where Prowler's own log goes")
    parser.add_argument(
        "checks", nargs="*", help="only these; default: all that checks.yaml chooses"
    )
    arguments = parser.parse_args()

    # Prowler logs what a check could not read and goes on.
    logger.handlers.clear()
    logger.addHandler(
        logging.FileHandler(arguments.log) if arguments.log else logging.NullHandler()
    )
    scope = yaml.safe_load((HERE / "checks.yaml").read_text())
    provider = AwsProvider(regions={arguments.region}, config_content=scope["settings"])
    checks = [c for c in chosen(scope) if not arguments.checks or c[1] in arguments.checks]
    provider.audit_metadata = Audit_Metadata(
        services_scanned=0,
        expected_checks=[name for _, name in checks],
        completed_checks=0,
        audit_progress=0,
    )
    mutelist = AWSMutelist(mutelist_path=str(HERE / "mutelist.yaml"))
    json.dump(
        {
            "checks": [name for _, name in checks],
            "findings": list(findings(checks, provider, mutelist, scope)),
        },
        sys.stdout,
        indent=1,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

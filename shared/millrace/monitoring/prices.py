"""What AWS asks for what a model uses: US dollars, us-east-1, first tier, no free tier.

The same figures as ``infra/costs/prices.yaml``, which names the page and the readings of each; a test
holds the two equal. Prices of other regions differ by up to a third.
"""

from decimal import Decimal
from typing import Final

READ: Final = "2026-05-05"
"""Date of the newest reading of the price of Lambda's time, which is most of a bill."""

LAMBDA_SECOND: Final = Decimal("0.0000166667")
"""Of a function with 1 GB of memory."""
LAMBDA_REQUEST: Final = Decimal("0.20") / 1_000_000
API_REQUEST: Final = Decimal("3.50") / 1_000_000
TRANSITION: Final = Decimal("0.025") / 1_000
LOG_GB: Final = Decimal("0.50")
S3_WRITE: Final = Decimal("0.005") / 1_000
DYNAMODB_WRITE: Final = Decimal("0.625") / 1_000_000
DYNAMODB_READ: Final = Decimal("0.125") / 1_000_000

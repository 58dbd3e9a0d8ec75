"""The door between API Gateway's proxy events and an ASGI app: Mangum, made to hold.

Three things Mangum 0.22 leaves to its user are settled here:

* it runs the app on the thread's *current* event loop, and after ``asyncio.run`` a thread of
  Python 3.13 has none: each gateway owns a loop and sets it before every request;
* only ``application/json`` and its like count as text: problem details would go out as base64;
* an event it cannot read (bad base64, an impossible ``Host``) raises before the app starts and
  would end as API Gateway's bare 502: it is answered as a problem.
"""

import asyncio
import weakref
from typing import Any, Final

from mangum import Mangum
from mangum.types import ASGI

from millrace.http.caller import request_id
from millrace.http.problem_details import PROBLEM_MEDIA_TYPE, problem_body
from millrace.observability import logger

_TEXT: Final = ["text/", "application/json", PROBLEM_MEDIA_TYPE, "application/yaml"]


class Gateway:
    """A Lambda handler for an ASGI app behind a REST API.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGI) -> None:
        self._loop = asyncio.new_event_loop()
        weakref.finalize(self, self._loop.close)
        asyncio.set_event_loop(self._loop)
        self._mangum = Mangum(app, lifespan="off", text_mime_types=_TEXT)

    def __call__(self, event: dict[str, Any], context: Any) -> dict[str, Any]:
        """Answers one proxy event."""
        identifier = request_id(event)
        logger.set_correlation_id(identifier)
        asyncio.set_event_loop(self._loop)
        try:
            return self._mangum(event, context)
        except (ValueError, KeyError, AttributeError, TypeError, RuntimeError) as exc:
            # Mangum answers whatever the app raises; what comes out of it is the event's fault.
            logger.warning("event cannot be read", exc_info=exc)
            return {
                "statusCode": 400,
                "headers": {"content-type": PROBLEM_MEDIA_TYPE},
                "body": problem_body(
                    status=400,
                    code="malformed_request",
                    detail="the request cannot be read: expected an API Gateway proxy event with "
                    "a valid Host header and a body in the encoding it names",
                    instance=str(event.get("path", "")),
                    correlation=identifier,
                ).decode(),
                "isBase64Encoded": False,
            }

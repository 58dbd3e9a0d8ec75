"""The prediction service: one ASGI application, under Mangum and under uvicorn.

It dispatches by path: predictions to the hot route, ``/v2`` to the Open Inference Protocol, and
everything else to FastAPI, which describes the routes and answers for the ones that do not exist. It
is imported when it is first needed: a function that only predicts never loads it.
"""

import time
from collections.abc import Callable
from typing import Final

from millrace.http.asgi import ASGI, HotASGI, Receive, Reply, Scope, Send
from millrace.http.hot_route import Heartbeats, HotRoute
from millrace.http.inference import Inference, Models
from millrace.serving import telemetry
from millrace.serving.codec import DEFAULT_LIMITS, Limits
from millrace.serving.identity import Role
from millrace.serving.journal import PredictionLog
from millrace.serving.prediction import Journal, Predictor

_LIFESPAN: Final = "lifespan"


class Service:
    """The application.

    Args:
        store: Gives loaded models.
        predictor: Runs them.
        limits: How much one request may carry.
        heartbeats: Tells the heartbeat's requests; see `HotRoute`.
    """

    def __init__(
        self,
        store: Models,
        predictor: Predictor,
        limits: Limits,
        heartbeats: Heartbeats | None = None,
    ) -> None:
        self.predictor = predictor
        self._hot = HotRoute(store, predictor, limits, heartbeats)
        self._inference = Inference(predictor, store, limits)
        self._described: ASGI | None = None

    @staticmethod
    def never_waits(method: str, path: str) -> bool:
        """Whether a request is answered without waiting for anything, its body being there."""
        return HotRoute.matches(method, path) or Inference.matches(path)

    def reply(self, scope: Scope, body: bytes) -> Reply:
        """The reply to a request that never waits; `told` is to be called once it is sent.

        Args:
            scope: ASGI's, of the request.
            body: As it came.
        """
        return self._hot_for(scope).reply(scope, body, self.predictor.clock())

    @staticmethod
    def told(reply: Reply) -> None:
        """Counts and captures a reply."""
        reply.tell()
        telemetry.flush()

    def _hot_for(self, scope: Scope) -> HotASGI:
        return self._inference if Inference.matches(scope["path"]) else self._hot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one ASGI request."""
        if scope["type"] == _LIFESPAN:
            await _live(receive, send)
        elif self.never_waits(scope["method"], scope["path"]):
            await self._hot_for(scope)(scope, receive, send)
            telemetry.flush()
        else:
            if self._described is None:
                from millrace.http.predict import create_app

                self._described = create_app(self._hot)
            await self._described(scope, receive, send)


def create_service(
    store: Models,
    *,
    new_id: Callable[[Role, int], str],
    limits: Limits = DEFAULT_LIMITS,
    clock: Callable[[], float] = time.perf_counter,
    journal: Journal | None = None,
    heartbeats: Heartbeats | None = None,
) -> Service:
    """The prediction service.

    Args:
        store: Gives loaded models.
        new_id: Makes a prediction id of a role and a number.
        limits: How much one request may carry.
        clock: Seconds, to measure the time an answer takes.
        journal: Is told of every prediction; by default, lines on standard output.
        heartbeats: Tells the heartbeat's requests; see `HotRoute`.
    """
    predictor = Predictor(new_id=new_id, journal=journal or PredictionLog(), clock=clock)
    return Service(store, predictor, limits, heartbeats)


async def _live(receive: Receive, send: Send) -> None:
    """A server's start and stop: there is nothing to do, and to say so ends its wait."""
    while True:
        message = await receive()
        kind = message["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return

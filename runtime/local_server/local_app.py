"""The local server's ASGI application: which protocol a request speaks, who may ask, and what every response carries.

`/v2` is the Open Inference Protocol, `/v1` TensorFlow Serving's API, `/metrics` for Prometheus. Without a token everybody who
can connect may ask; with one, everything but the health checks wants it as `Authorization: Bearer …`. A W3C `traceparent`
is repeated on the response and named in the log.
"""

from __future__ import annotations

import logging
from concurrent.futures import Executor

from fleet_io.clock import Clock, SystemClock
from runtime.hosting.repository import Repository
from runtime.hosting.serving import Serving
from runtime.local_server import bearer, prometheus_text
from runtime.local_server.answering import TIMEOUT_S, Answering
from runtime.local_server.exchange import (
    BODY_BYTES,
    Bodies,
    Exchange,
    Gone,
    Receive,
    Refused,
    RefusedUnread,
    Response,
    Scope,
    Send,
)
from runtime.local_server.oip_app import OpenInference
from runtime.local_server.serving_statistics import ServingStatistics
from runtime.local_server.tfs_app import TensorFlowServing
from runtime.local_server.traces import trace_of
from runtime.shadowing.shadow_record import Recording

log = logging.getLogger(__name__)


class Application:
    """Answers for the models of one host. `token`: what clients must show (None: nothing)."""

    def __init__(
        self,
        host: Serving,
        threads: Executor,
        *,
        body_bytes: int = BODY_BYTES,
        repository: Repository | None = None,
        token: str | None = None,
        timeout_s: float = TIMEOUT_S,
        clock: Clock | None = None,
    ) -> None:
        self._bodies, self._statistics = Bodies(body_bytes), ServingStatistics()
        self.answering = Answering(host, threads, self._bodies, self._statistics, clock or SystemClock(), timeout_s=timeout_s)
        """What asks the models; other protocols share it."""
        self._host = host
        self._open_inference = OpenInference(self.answering, repository)
        self._tensorflow_serving = TensorFlowServing(self.answering)
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI 3, HTTP only."""
        exchange = Exchange(scope, receive)
        try:
            response = await self._respond(exchange)
        except Refused as refusal:
            response = refusal.response
            if isinstance(refusal, RefusedUnread):
                await exchange.let_finish()
        except Gone:
            return
        except Exception:  # whatever it was, the next request must work
            log.exception(
                "a request to %s failed (traceparent %s)", exchange.path, trace_of(exchange.headers.get(b"traceparent"))
            )
            response = Refused(500, "The server failed on this request; its log says how.").response
        if response.status != 200:
            self._statistics.refuse(response.status)
        headers = [
            (b"content-type", response.content_type),
            (b"content-length", str(len(response.body)).encode()),
            *response.headers,
        ]
        trace = trace_of(exchange.headers.get(b"traceparent"))
        if trace is not None:
            headers.append((b"traceparent", trace))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})

    async def _respond(self, exchange: Exchange) -> Response:
        if self._token is not None and exchange.parts[1:2] != ["health"]:
            self._check_token(exchange, self._token)
        match exchange.parts[0]:
            case "v2":
                return await self._open_inference.respond(exchange)
            case "v1":
                return await self._tensorflow_serving.respond(exchange)
            case "metrics" if len(exchange.parts) == 1:
                exchange.only("GET")
                return Response(200, self._metrics(), prometheus_text.CONTENT_TYPE)
        raise exchange.nothing_here("The Open Inference Protocol begins at /v2, TensorFlow Serving's API at /v1.")

    def _metrics(self) -> bytes:
        active = self._host.active()
        observers = [self._host.observer(served.identity.model) for served in active]
        shadows = [observer.record() for observer in observers if isinstance(observer, Recording)]
        return prometheus_text.exposition(
            self._statistics.all(),
            active,
            self._statistics.refusals(),
            self._bodies.held,
            shadows=shadows,
            standings=self._host.standings(),
        )

    def _check_token(self, exchange: Exchange, wanted: bytes) -> None:
        if not bearer.shows(exchange.headers.get(b"authorization", b""), wanted):
            raise RefusedUnread(
                401, "This server wants a token: Authorization: Bearer <token>.", (b"www-authenticate", b"Bearer")
            )

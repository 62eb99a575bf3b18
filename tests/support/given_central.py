"""A central side over real HTTPS whose registry answers what a test gives it; telemetry is the real one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from edgeward import connection
from fleet_io.http_server import HttpServer, ServerCertificate
from tests.support.certificates import TestAuthority


@contextmanager
def serving(data: Path, registry: dict[str, Any], telemetry: list[BaseRoute]) -> Iterator[Path]:
    """Serve `registry` (answers by path) beside `telemetry`, and leave the operator's profile in `data`."""

    async def answer(request: Request) -> Response:
        if request.url.path in registry:
            return JSONResponse(registry[request.url.path])
        error = {"code": "not_found", "message": f"There is no {request.url.path}.", "hint": "Ask for one that is listed."}
        return JSONResponse({"error": error}, 404)

    authority = TestAuthority(data / "certificates")
    identity = authority.server()
    application = Starlette(routes=[*telemetry, Route("/{path:path}", answer)])
    server = HttpServer(
        application, host="127.0.0.1", port=0, certificate=ServerCertificate(identity.certificate, identity.key)
    )
    server.start()
    try:
        profile = connection.OperatorProfile(server.url, authority.certificate.read_text(), "token")
        connection.write_profile(data, profile)
        yield data
    finally:
        server.stop()

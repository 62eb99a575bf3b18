"""Requests to an ASGI application without a socket."""

from __future__ import annotations

import asyncio

import httpx
from starlette.applications import Starlette
from starlette.routing import BaseRoute


def get(routes: list[BaseRoute], path: str) -> httpx.Response:
    """The answer to one GET."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=Starlette(routes=routes))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get(path)

    return asyncio.run(ask())

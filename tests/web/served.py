"""A web app that uvicorn really serves, on a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import uvicorn


@asynccontextmanager
async def served(app: Any, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the app, which is served in this loop."""
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_level="warning", lifespan="on", timeout_graceful_shutdown=5, **options)
    )
    serving = asyncio.create_task(server._serve())
    async with asyncio.timeout(40):
        while not server.started and not serving.done():
            await asyncio.sleep(0.005)
    if serving.done():
        await serving
        raise RuntimeError("the server did not start")
    address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        async with httpx.AsyncClient(base_url=address, timeout=20) as client:
            yield client
    finally:
        server.should_exit = True
        await serving

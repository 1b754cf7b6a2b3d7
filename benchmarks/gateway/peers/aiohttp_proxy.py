"""The least that a proxy of aiohttp's server and client can be: what a framework costs.

It is also the control of the benchmark: it can waste time or spoil answers, which must show.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import click
from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

from benchmarks.gateway import loop

FAULTS = ("drop", "change", "swap", "header", "request")
"""Ways to spoil: an event is lost, a byte differs, pieces change places, a header is missing, the
request's body differs."""

_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "date"})
_KEPT_OUT = _HOP_BY_HOP | {"host"}


class Proxy:
    """Passes everything on to one engine."""

    def __init__(self, engine: str, busy_us: int, fault: str | None) -> None:
        self._engine = engine
        self._busy_s = busy_us / 1e6
        self._fault = fault
        self._session: ClientSession

    async def run_client(self, app: web.Application) -> AsyncIterator[None]:
        """Hold the client open as long as the server is."""
        async with ClientSession(
            connector=TCPConnector(limit=0),
            timeout=ClientTimeout(total=None),
            auto_decompress=False,
        ) as self._session:
            yield

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Pass one request on."""
        ends = time.perf_counter() + self._busy_s
        while self._busy_s and time.perf_counter() < ends:
            pass
        body = await request.read()
        if self._fault == "request":
            body = body.replace(b"x", b"y", 1)
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in (*_KEPT_OUT, "content-length")
        }
        url = self._engine + request.path_qs
        async with self._session.request(
            request.method, url, data=body or None, headers=headers
        ) as answer:
            response = web.StreamResponse(status=answer.status, reason=answer.reason)
            for name, value in answer.headers.items():
                if name.lower() not in _HOP_BY_HOP:
                    response.headers[name] = value
            if self._fault == "header":
                response.headers.popall("Content-Type", None)
            await response.prepare(request)
            async for piece in self._pieces(answer.content.iter_any()):
                await response.write(piece)
            await response.write_eof()
            return response

    async def _pieces(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        if self._fault not in ("drop", "change", "swap"):
            async for piece in pieces:
                yield piece
            return
        whole = b"".join([piece async for piece in pieces])
        yield spoiled(whole, self._fault)


def spoiled(body: bytes, fault: str) -> bytes:
    """Return a body with a fault of `FAULTS`; of one without events, a byte is changed (pure)."""
    events = body.split(b"\n\n")
    if fault == "change" or len(events) < 3:
        return body.replace(b"x", b"y", 1)
    if fault == "drop":
        del events[1]
    else:
        events[0], events[1] = events[1], events[0]
    return b"\n\n".join(events)


async def serve(port: int, proxy: Proxy) -> None:
    """Serve until SIGTERM."""
    app = web.Application()
    app.cleanup_ctx.append(proxy.run_client)
    app.router.add_route("*", "/{path:.*}", proxy.handle)
    runner = web.AppRunner(app, access_log=None, handle_signals=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
    try:
        await asyncio.Event().wait()
    except web.GracefulExit:
        return


@click.command()
@click.option("--port", type=int, required=True)
@click.option("--engine", required=True, help="URL of the engine, without a path.")
@click.option("--busy-us", default=0, help="Waste so much processor time in each request.")
@click.option("--fault", type=click.Choice(FAULTS), help="Spoil every request in this way.")
def main(port: int, engine: str, busy_us: int, fault: str | None) -> None:
    """Run the proxy."""
    loop.run(serve(port, Proxy(engine, busy_us, fault)))


if __name__ == "__main__":
    main()

"""The way to an engine and back: raw, unbuffered, byte-identical.

Every request gets a connection of its own. llama.cpp closes its socket after each streamed answer
although it promised to keep it, so a pooled connection fails every time it is used again at once;
on a Unix socket or loopback a new one costs some ten microseconds of an engine's answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from common.engines.contract import EngineAddress
from common.errors import EngineCrashError

# RFC 9110 7.6.1 and the older ones that some clients still send; `Connection` may name more.
HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)

# Between client and gateway only: the key must not end up in an engine's log, and the client's
# wish for 100-continue has been granted by the gateway. With a conversation's ID llama.cpp goes on
# generating when its client has left, and keeps the answer for whoever knows the ID.
NOT_FOR_THE_ENGINE = frozenset(
    {"host", "expect", "authorization", "x-api-key", "cookie", "x-conversation-id"}
)

CONNECT_TIMEOUT_S = 5.0
"""Loopback or a Unix socket: a longer wait means a full backlog of a hung engine."""

READ_BUFFER_BYTES = 64 * 1024


class EngineConnectError(EngineCrashError):
    """Nothing listens where the engine should be; no byte was sent."""


class EngineClient:
    """HTTP client of all engines of one instance. One event loop; `close` at the end."""

    def __init__(self) -> None:
        self._sessions: dict[EngineAddress, aiohttp.ClientSession] = {}

    async def send(
        self,
        address: EngineAddress,
        method: str,
        target: str,
        headers: CIMultiDict[str],
        body: bytes | AsyncIterator[bytes] | None,
    ) -> aiohttp.ClientResponse:
        """Send a request and return the response once its head is there; its body is not read.

        The caller must close or fully read the response; cancelling this call, or closing the
        response early, closes the connection, which is how an engine learns that nobody listens.

        Args:
            address: The engine.
            method: HTTP method.
            target: Raw path and query, sent as they are.
            headers: End-to-end headers, sent as they are.
            body: Bytes, or an iterator of them that is used once.

        Raises:
            EngineConnectError: Nothing listens there.
            EngineCrashError: The connection ended before a response.
        """
        url = URL(address.base_url + target, encoded=True)
        try:
            return await self._session(address).request(
                method, url, headers=headers, data=body, allow_redirects=False
            )
        except aiohttp.ClientConnectorError as error:
            raise EngineConnectError(
                "The engine is not running: nothing listens at its address."
            ) from error
        except aiohttp.ServerTimeoutError as error:
            raise EngineConnectError(
                f"The engine did not accept a connection within {CONNECT_TIMEOUT_S:g} s."
            ) from error
        except aiohttp.ClientError as error:
            raise EngineCrashError(
                "The engine closed the connection before it answered; it may have crashed."
            ) from error

    async def post_json(
        self, address: EngineAddress, path: str, payload: Any
    ) -> tuple[int, dict[str, Any]]:
        """Ask the engine something of our own; the answer is {} when it is no JSON object.

        Raises:
            EngineCrashError: As `send`.
        """
        headers = CIMultiDict({"Content-Type": "application/json"})
        data = json.dumps(payload).encode()
        headers["Content-Length"] = str(len(data))
        response = await self.send(address, "POST", path, headers, _blocks(data))
        async with response:
            try:
                parsed = json.loads(await response.read())
            except aiohttp.ClientError as error:
                raise EngineCrashError("The engine's answer broke off.") from error
            except ValueError:
                parsed = {}
        return response.status, parsed if isinstance(parsed, dict) else {}

    async def get_text(self, address: EngineAddress, path: str, timeout_s: float) -> str:
        """Return the text of one of the engine's own routes, such as its metrics.

        Raises:
            EngineCrashError: As `send`, or an answer other than 200, or none within `timeout_s`.
        """
        url = URL(address.base_url + path, encoded=True)
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._session(address).get(url, timeout=timeout) as response:
                if response.status != 200:
                    raise EngineCrashError(f"The engine answered {response.status} on {path}.")
                return await response.text()
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            raise EngineCrashError(f"The engine did not answer on {path}.") from error

    async def close(self) -> None:
        """Close all connections."""
        sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            await session.close()

    def _session(self, address: EngineAddress) -> aiohttp.ClientSession:
        session = self._sessions.get(address)
        if session is None:
            session = self._sessions[address] = self._new_session(address)
        return session

    def _new_session(self, address: EngineAddress) -> aiohttp.ClientSession:
        connector: aiohttp.BaseConnector
        if address.socket_path is not None:
            connector = aiohttp.UnixConnector(str(address.socket_path), force_close=True, limit=0)
        else:
            connector = aiohttp.TCPConnector(force_close=True, limit=0, use_dns_cache=False)
        return aiohttp.ClientSession(
            connector=connector,
            headers=address.headers,
            auto_decompress=False,  # bytes pass as they are
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
            trust_env=False,  # a proxy of the environment is not for the engine
            read_bufsize=READ_BUFFER_BYTES,
        )


async def _blocks(data: bytes) -> AsyncIterator[bytes]:
    """Yield data in pieces, so that a prompt of megabytes is not one long write."""
    for start in range(0, len(data), READ_BUFFER_BYTES):
        yield data[start : start + READ_BUFFER_BYTES]


def headers_for_engine(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """Return the client's end-to-end headers without its credentials."""
    return _copied(headers, NOT_FOR_THE_ENGINE)


def headers_for_client(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """Return the engine's end-to-end headers."""
    return _copied(headers, frozenset())


def _copied(headers: CIMultiDictProxy[str], left_out: frozenset[str]) -> CIMultiDict[str]:
    named: Iterable[str] = headers.getall("Connection", ())
    dropped = HOP_BY_HOP | left_out
    tokens = {token.strip().lower() for value in named for token in value.split(",")}
    # Only what RFC 9110 allows to be hop-by-hop: `Connection: Content-Length` must not unframe a
    # body.
    dropped |= tokens - {"content-length", "content-type", "content-encoding"}
    kept: CIMultiDict[str] = CIMultiDict()
    for name, value in headers.items():
        if name.lower() not in dropped:
            kept.add(name, value)
    return kept


def client_response(upstream: aiohttp.ClientResponse) -> web.StreamResponse:
    """Return the head of the client's response: the engine's status, reason and headers."""
    return web.StreamResponse(
        status=upstream.status,
        reason=upstream.reason or None,
        headers=headers_for_client(upstream.headers),
    )

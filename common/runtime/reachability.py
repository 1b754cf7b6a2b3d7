"""Whether the instance answers at the address that clients are told."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

ANSWER_S = 5.0
_IN_CONTAINER = (Path("/.dockerenv"), Path("/run/.containerenv"))
# Where Docker and Podman have their bridges unless told otherwise.
_BRIDGES = (ipaddress.ip_network("172.16.0.0/12"), ipaddress.ip_network("10.88.0.0/16"))


async def why_unreachable(url: str, timeout_s: float = ANSWER_S) -> str:
    """Ask for ``/health`` at an address; returns what went wrong, empty when it answered.

    Args:
        url: Of the instance; http or https. The certificate may be anybody's.
        timeout_s: For the whole answer.
    """
    parts = urlsplit(url)
    tls: ssl.SSLContext | None = None
    if parts.scheme == "https":
        tls = ssl.create_default_context()
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    port = parts.port or (443 if tls else 80)
    try:
        status = await asyncio.wait_for(_health(parts.hostname or "", port, tls), timeout_s)
    except asyncio.TimeoutError:
        return f"no answer within {timeout_s:g} s"
    except OSError as error:
        return error.strerror or str(error) or type(error).__name__
    if not status.startswith(b"HTTP/1.1 200"):
        return "something else answers there"
    return ""


async def _health(host: str, port: int, tls: ssl.SSLContext | None) -> bytes:
    reader, writer = await asyncio.open_connection(host, port, ssl=tls)
    try:
        request = f"GET /health HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
        writer.write(request.encode())
        return await reader.readline()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def is_container_address(host: str) -> bool:
    """Whether this is a container and the address one of its own network."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    is_inside = any(address.version == n.version and address in n for n in _BRIDGES)
    return is_inside and any(mark.exists() for mark in _IN_CONTAINER)


async def check_address(
    url: str,
    log: Callable[[str], None],
    ask: Callable[[str], Awaitable[str]] = why_unreachable,
    in_container: Callable[[str], bool] = is_container_address,
) -> None:
    """Warn when clients will hardly reach the instance at its own address.

    Args:
        url: The address.
        log: Gets the warning.
        ask: Tells why it does not answer.
        in_container: Tells an address that only this machine knows.
    """
    wrong = await ask(url)
    way_out = "and tell clients the address that works in General/public_url."
    if wrong:
        log(
            f"WARNING: the instance does not answer at its own address {url} ({wrong}). Clients will "
            "hardly reach it: a firewall of this machine, a proxy or the network of a container is in "
            f"between. Open the port, or publish it from the container, {way_out}"
        )
    elif in_container(urlsplit(url).hostname or ""):
        log(
            f"WARNING: {url} is an address of this container's own network, which other machines do not "
            f"reach. Publish the port, {way_out}"
        )

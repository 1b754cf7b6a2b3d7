"""Where the instance listens, and how it is reached from elsewhere."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Sequence

from common.errors import ConfigurationError, Problem

BACKLOG = 1024
"""Connections that the system accepts for us: many clients may come at the same moment."""

UNSPECIFIED_HOSTS = frozenset({"", "0.0.0.0", "::"})


async def listen_on_first_free(
    protocol: Callable[[], asyncio.Protocol],
    host: str | None,
    ports: Sequence[int],
    tls: ssl.SSLContext | None = None,
) -> tuple[asyncio.AbstractServer, int]:
    """Listen on the first port that is free, and return the listener and the port.

    The port is tried by listening, not by looking: nobody can take it in between.

    Args:
        protocol: Makes the protocol of each connection.
        host: Address; None: all interfaces.
        ports: Candidates; 0 lets the system choose.
        tls: Listen for TLS; None: plain.

    Raises:
        ConfigurationError: No candidate is free, or the address is not one of this machine's.
    """
    loop = asyncio.get_running_loop()
    for port in ports:
        try:
            server = await loop.create_server(
                protocol, host or None, port, ssl=tls, backlog=BACKLOG, reuse_address=True
            )
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                continue
            raise ConfigurationError(
                [
                    Problem(
                        f"this machine cannot listen on that address: {error.strerror or error}",
                        "Host",
                        "General/host",
                        host,
                    )
                ]
            ) from error
        return server, int(server.sockets[0].getsockname()[1])
    raise ConfigurationError([Problem(_none_free(ports), "Port", "General/port")])


def _none_free(ports: Sequence[int]) -> str:
    where = str(ports[0]) if len(ports) == 1 else f"{ports[0]} to {ports[-1]}" if ports else "none"
    plural = "s" if len(ports) != 1 else ""
    return f"no free port: {len(ports)} port{plural} tried ({where}), all in use or not permitted"


def reachable_host(host: str | None) -> str:
    """Return a host for URLs: the configured one, or this machine's address towards the network.

    For all interfaces it is the address of the route to the outside; asking for it sends nothing.
    """
    if host is not None and host not in UNSPECIFIED_HOSTS:
        return f"[{host}]" if ":" in host else host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # RFC 5737 documentation address
            return str(probe.getsockname()[0])
        except OSError:  # no route: a machine without a network
            return "127.0.0.1"

"""Listening sockets: the wanted port, or the next free one."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from typing import Final

from common.errors import ControlPlaneError

DEFAULT_API_PORT: Final = 8008
DEFAULT_FILES_PORT: Final = 8081
DEFAULT_ROUTER_PORT: Final = 8010
_TRIES: Final = 200
_BUSY: Final = (errno.EADDRINUSE, errno.EACCES)


@dataclass(frozen=True)
class Listener:
    """A bound socket, and the ports that were in use before it."""

    socket: socket.socket
    port: int
    skipped: tuple[int, ...]


def listen(host: str, wanted: int) -> Listener:
    """Bind the first free port from `wanted` on; 0 lets the system choose.

    Raises:
        ControlPlaneError: The host is none of this machine's, or a long run of ports is in use.
    """
    skipped: list[int] = []
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in range(wanted, min(wanted + _TRIES, 65536)):
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(128)
        except OSError as error:
            listener.close()
            if error.errno in _BUSY:
                skipped.append(port)
                continue
            raise ControlPlaneError(
                f"The local server can not listen on {host} ({error.strerror or error})."
                " Give an address of this machine with --host, such as 127.0.0.1."
            ) from error
        listener.setblocking(False)
        return Listener(listener, int(listener.getsockname()[1]), tuple(skipped))
    raise ControlPlaneError(
        f"The local server found no free port on {host} from {wanted} to {wanted + _TRIES - 1}."
        " Choose another range with --api-port, --files-port and --router-port."
    )


def advertised_host(host: str) -> str:
    """The address under which others reach a server bound to `host`.

    A wildcard becomes this machine's own address on its default route.
    """
    if host not in ("0.0.0.0", "::"):
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Connecting a datagram socket only picks a route; nothing is sent (RFC 5737 address).
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"

"""What a client's connection needs of whoever serves it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from common.gateway.http.headers import FieldKinds
from common.gateway.http.incoming_body import IncomingBody
from common.gateway.http.request import RequestHead

if TYPE_CHECKING:
    from common.gateway.http.client_connection import ClientConnection


@dataclass(frozen=True)
class Timeouts:
    """What a client may take its time for, in seconds.

    Attributes:
        head: From the first byte of a request to the end of its head.
        body: Between two pieces of a body.
        idle: Between two requests. Longer than of usual clients and proxies, so that they close first.
        send: Without reading anything of an answer.
        linger: To finish sending a body that was refused.
    """

    head: float = 30.0
    body: float = 60.0
    idle: float = 75.0
    send: float = 300.0
    linger: float = 30.0


class Handler(Protocol):
    """Answers one request of a connection."""

    @property
    def body(self) -> IncomingBody:
        """The request's body."""

    def start(self) -> None:
        """Begin: all earlier requests of the connection are answered."""

    def client_left(self) -> None:
        """Nobody is left to be answered."""

    def client_blocked(self, is_blocked: bool) -> None:
        """The client reads slower than the answer comes, or has caught up."""


class ConnectionServer(Protocol):
    """What serves the connections."""

    kinds: FieldKinds
    timeouts: Timeouts
    now: float
    max_body_bytes: int
    is_tls: bool

    def opened(self, connection: ClientConnection) -> None:
        """A client connected."""

    def held(self, connection: ClientConnection, is_held: bool) -> None:
        """Nothing is read from a client for now, or it is again."""

    def closed(self, connection: ClientConnection) -> None:
        """A client is gone."""

    def handler(
        self, connection: ClientConnection, head: RequestHead, body: IncomingBody
    ) -> Handler:
        """Return what answers a request."""

    def refusal(
        self, connection: ClientConnection, body: IncomingBody, error: Exception
    ) -> Handler:
        """Return what answers bytes that are no request; the connection ends with it."""

    def too_large(self) -> Exception:
        """Return the error of a body above the limit."""

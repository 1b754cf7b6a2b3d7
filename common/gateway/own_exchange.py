"""Requests that the gateway answers itself: own routes, and what leads nowhere."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from common.errors import DeployError
from common.gateway.envelope import answer_for
from common.gateway.http.answer import Answer, OwnRequest
from common.gateway.http.client_connection import ClientConnection
from common.gateway.http.incoming_body import IncomingBody
from common.gateway.http.request import RequestHead
from common.gateway.page.routes import MAX_FORM_BYTES
from common.gateway.proxy import ModelProxy
from common.gateway.routing import Own
from common.telemetry.recorder import CLIENT_CLOSED_STATUS, Outcome

Respond = Callable[[OwnRequest, Own], Awaitable[Answer]]


class Refused:
    """Sends one answer."""

    def __init__(
        self,
        proxy: ModelProxy,
        connection: ClientConnection,
        head: RequestHead,
        body: IncomingBody,
        answer: Answer,
    ) -> None:
        self._proxy = proxy
        self._connection = connection
        self._head = head
        self.body = body
        self._answer = answer

    def start(self) -> None:
        """Send it."""
        head = self._head
        request_id = self._proxy.send_answer(self._connection, head, self.body, self._answer)
        record = self._proxy.recorder.open()
        self._proxy.tell(head, record, self._answer.status, request_id)

    def client_left(self) -> None:
        """Nothing was begun."""

    def client_blocked(self, is_blocked: bool) -> None:
        """An answer of our own is small."""


class OwnExchange:
    """Answers one request in a task of its own.

    Args:
        proxy: For what all answers have in common.
        connection: The client's.
        head: The request's.
        body: The request's.
        respond: Makes the answer.
        own: What is asked for.
        is_counted: Whether the telemetry counts it.
    """

    def __init__(
        self,
        proxy: ModelProxy,
        connection: ClientConnection,
        head: RequestHead,
        body: IncomingBody,
        respond: Respond,
        own: Own,
        *,
        is_counted: bool = False,
    ) -> None:
        self._proxy = proxy
        self._connection = connection
        self._head = head
        self.body = body
        self._respond = respond
        self._own = own
        self._record = proxy.recorder.open()
        self._is_counted = is_counted
        self._request_id = head.request_id
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to answer."""
        self._task = self._proxy.spawn(self._answer())

    def client_left(self) -> None:
        """Give up, operations included: they go on by themselves."""
        self._end(Outcome.CLIENT_CLOSED, CLIENT_CLOSED_STATUS)
        if self._task is not None:
            self._task.cancel()

    def client_blocked(self, is_blocked: bool) -> None:
        """An answer of our own is small."""

    async def _answer(self) -> None:
        try:
            answer = await self._respond(await self._request(), self._own)
        except Exception as error:  # noqa: BLE001 - the client gets an envelope, the console the rest
            if not isinstance(error, DeployError):
                self._proxy.log(
                    f"{self._head.method.decode()} {self._own.route} failed: "
                    f"{type(error).__name__}: {error}"
                )
            answer = answer_for(error).answer()
        if self._connection.is_gone:
            return
        self._request_id = self._proxy.send_answer(self._connection, self._head, self.body, answer)
        self._end(Outcome.REFUSED, answer.status)

    def _end(self, outcome: Outcome, status: int) -> None:
        if self._is_counted:
            self._record.close(outcome, status)
        self._proxy.tell(self._head, self._record, status, self._request_id)

    async def _request(self) -> OwnRequest:
        parts: list[bytes] = []
        size = 0
        # Only a form is of use; whatever else comes is skipped or ends the connection.
        while self._own.route == "page" and not self._is_counted and self._head.method == b"POST":
            piece = await self.body.read()
            parts.append(piece)
            size += len(piece)
            if not piece or size > MAX_FORM_BYTES:
                break
        is_tls = self._proxy.settings.tls is not None
        return OwnRequest(self._head, b"".join(parts), is_tls=is_tls)

"""One request on its way to an engine and back: what has been decided, what the client has got.

Everything that needs no waiting happens at once, in the callbacks of the two connections. What has
to be waited for (a model, a place, a large body, a new connection) is done by the one task that an
exchange may have (`common.gateway.waiting`).
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

from common.errors import CapacityError, EngineError
from common.gateway.auth import Identity
from common.gateway.body import RequestBody
from common.gateway.dispatch import go_at_once
from common.gateway.envelope import answer_for
from common.gateway.http.client_connection import ClientConnection
from common.gateway.http.engine_connection import EngineConnection
from common.gateway.http.engine_pool import EnginePool
from common.gateway.http.incoming_body import IncomingBody
from common.gateway.http.outgoing import request_bytes
from common.gateway.http.request import RequestHead
from common.gateway.late_error import LateError
from common.gateway.outcome import outcome_of
from common.gateway.reply import NOT_BEGUN, ClientReply
from common.telemetry.recorder import CLIENT_CLOSED_STATUS, Outcome, RequestRecord

if TYPE_CHECKING:
    from common.gateway.proxy import ModelProxy, Route
    from common.gateway.served_engine import ServedEngine

STREAM_ENDS = (b"data: [DONE]\n\n", b"data: [DONE]\r\n\r\n")
"""The last event of OpenAI's streams."""


class Exchange(ClientReply):
    """A client's request for a model, from its head to the end of its answer.

    Attributes:
        record: Its telemetry.
        route: Where its path leads.
        identity: Who asks; None until that is known.
        engine: The model and its engine; None until they are known.
        has_place: Whether it holds a place at the model.
        memory: Its body, where it can be sent at once, and sent again.
        kept: Its body, where it had to be waited for or looked into by the task.
        is_over: Whether its end is recorded.
        task: What waits for it; None: nothing is waited for.
    """

    __slots__ = (
        "_awaits_answer",
        "_entered",
        "_has_token",
        "_is_limited",
        "_link",
        "_may_have_usage",
        "engine",
        "has_place",
        "identity",
        "is_over",
        "memory",
        "record",
        "route",
    )

    kept: RequestBody | None = None
    task: asyncio.Task[None] | None = None
    _late: LateError | None = None
    _retried = False

    def __init__(
        self,
        proxy: ModelProxy,
        connection: ClientConnection,
        head: RequestHead,
        body: IncomingBody,
        route: Route,
        record: RequestRecord,
    ) -> None:
        ClientReply.__init__(self, proxy, connection, head, body)
        self.route = route
        self.record = record
        self.identity: Identity | None = None
        self.engine: ServedEngine | None = None
        self.memory: bytes | None = None
        self.has_place = False
        self.is_over = False
        self._is_limited = False
        self._link: EngineConnection | None = None
        self._awaits_answer = True
        self._may_have_usage = False
        self._has_token = False

    # The way to the engine.

    def start(self) -> None:
        """Send the request to its engine, or begin to wait for what that needs."""
        try:
            if not go_at_once(self._proxy, self):
                self.task = self._proxy.spawn(self._proxy.wait_for(self))
        except Exception as error:  # noqa: BLE001 - every failure becomes an answer and a record
            self.fail(error)

    def identify(self, identity: Identity) -> None:
        """Say who asks; from here on the request is in flight.

        Raises:
            RequestError: 503; the instance takes no new requests.
        """
        self.identity = identity
        self._proxy.enter(self)

    def assign(self, engine: ServedEngine) -> None:
        """Say which model it is for, unless its key may not use it: that is no use of it.

        Raises:
            RequestError: 403 or 429, by the key's limits.
        """
        self.engine = engine
        if not self._is_limited:
            identity = self.identity
            assert identity is not None
            self._proxy.limiter.enter(identity, engine.name)
            self._is_limited = True
            self.record.assign(engine.name, identity.name)

    def got_place(self) -> None:
        """It holds a place at its model now."""
        self.has_place = True
        self._entered = monotonic()

    def forward(
        self, pool: EnginePool, link: EngineConnection, payload: bytes, length: int | None
    ) -> None:
        """Send the request on a connection, with the beginning of its body.

        Args:
            pool: The connection's.
            link: The connection.
            payload: What of the body goes with the head.
            length: The whole body's; None: it goes in chunks.
        """
        self._link = link
        self.record.start()
        head = self.head
        request = request_bytes(
            head,
            self.route.target,
            pool.first_lines,
            self._connection,
            self._request_id,
            payload,
            length,
        )
        link.send(self, request, is_head_request=head.method == b"HEAD")

    # What the engine's connection calls.

    def answer_came(self, payload: bytes, is_complete: bool) -> None:
        """Pass a piece of the answer on, at once."""
        out: list[bytes] = []
        if self._awaits_answer:
            self._awaits_answer = False
            if self._begin(out, payload, is_complete):
                return
        if self._late is not None:
            self._late.add(payload)
            if is_complete:
                self._end_late()
            return
        if payload and self._may_have_usage:
            if self.is_stream and not self._has_token:
                self._has_token = True
                self.record.first_token()
            self.record.saw(payload)
        self.send(out, payload, is_last=is_complete)
        if is_complete:
            self._complete()

    def _begin(self, out: list[bytes], payload: bytes, is_complete: bool) -> bool:
        """Read the engine's head and add the client's to what goes out; whether that was all."""
        link = self._link
        assert link is not None
        answer = link.head
        assert answer is not None
        if self.framing != NOT_BEGUN:  # heartbeats were sent: the 200 is out
            if answer.status != 200 or not answer.is_stream:
                self._late = LateError(answer.status)
            self._may_have_usage = True
            return False
        self._may_have_usage = answer.may_have_usage
        if is_complete and self.task is None and self.pass_whole(answer, payload):
            if answer.may_have_usage:
                self.record.saw(payload)
            self._link = None
            link.release()
            self._end(Outcome.OK, answer.status)
            self._connection.answered(keeps_alive=True)
            return True
        self.begin(out, answer)
        if self._connection.is_blocked:
            link.pause()
        return False

    def engine_lost(self, error: EngineError) -> None:
        """The engine will not finish its answer."""
        link, self._link = self._link, None
        if self.is_over:
            return
        if (
            link is not None
            and link.uses > 1
            and not link.has_answered
            and not self._retried
            and (self.memory is not None or (self.kept is not None and self.kept.can_repeat))
        ):
            # The engine closed a kept connection at this moment.
            self._retried = True
            self._cancel_task()
            self.task = self._proxy.spawn(self._proxy.send_again(self))
            return
        # Not the engine's fault if the upload broke off.
        self.fail(self.body.failure or error)

    # What the client's connection calls.

    def client_left(self) -> None:
        """Free the place and tell the engine, unless the model wants to finish."""
        if self.is_over:
            return
        if self.is_stream and self._last.endswith(STREAM_ENDS):
            # It has all: OpenAI's synchronous client closes at once, before the end of the body.
            self._drop(Outcome.OK, self.status)
            return
        if self.engine is not None and not self.engine.cancels and self._link and not self.task:
            self._link.resume()
            return
        self._drop(Outcome.CLIENT_CLOSED, CLIENT_CLOSED_STATUS)

    def client_blocked(self, is_blocked: bool) -> None:
        """Hold the engine back while the client reads slower."""
        if self._link is not None:
            if is_blocked:
                self._link.pause()
            else:
                self._link.resume()

    # Ends.

    def stop(self) -> None:
        """Cut it off: the instance ends."""
        if not self.is_over:
            self._drop(Outcome.STOPPED, 503)
            self._connection.cut()

    def _drop(self, outcome: Outcome, status: int) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.abort()
        self._end(outcome, status)
        self._cancel_task()

    def _complete(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            if self.task is None:
                link.release()
            else:  # the engine answered before it had the whole body
                link.abort()
                self._cancel_task()
        if self._connection.is_gone:
            self._end(Outcome.CLIENT_CLOSED, CLIENT_CLOSED_STATUS)
            return
        self._end(Outcome.OK, self.status)
        self._connection.answered(keeps_alive=self.keeps_alive)

    def fail(self, error: Exception) -> None:
        """End with an error, as well as it still can be told: by the status while none is out."""
        if self.is_over:
            return
        outcome = outcome_of(error)
        if self._proxy.is_stopping and outcome is Outcome.ENGINE_DIED:
            outcome = Outcome.STOPPED
            error = CapacityError("The instance was stopped before the answer was complete.")
        answer = answer_for(error)
        if outcome in (Outcome.ENGINE_DIED, Outcome.INTERNAL):
            self._proxy.log(
                f"A request for {self.record.model!r} failed: {type(error).__name__}: {error} "
                f"(request {self._request_id.decode()})"
            )
        self._drop(outcome, answer.status if self.framing == NOT_BEGUN else self.status)
        if self._connection.is_gone:
            return
        if self.framing == NOT_BEGUN:
            self.send_answer(answer.answer())
        else:
            self.tell_late(answer)

    def _end_late(self) -> None:
        """The engine's refusal of a stream whose 200 is out already."""
        assert self._late is not None
        answer = self._late.answer()
        link, self._link = self._link, None
        if link is not None:
            link.release()
        self._end(Outcome.OK, self.status)
        if not self._connection.is_gone:
            self.tell_late(answer)

    def _end(self, outcome: Outcome, status: int) -> None:
        """Record the end and give everything back."""
        if self.is_over:
            return
        self.is_over = True
        usage = self.record.close(outcome, status)
        if self._proxy.access is not None:
            self._proxy.tell(self.head, self.record, status, self._request_id)
        identity = self.identity
        if identity is not None:
            if self._is_limited:
                self._proxy.limiter.leave(identity, usage.prompt + usage.completion)
            if self.has_place and self.engine is not None:
                self.engine.left(self._entered, monotonic(), identity.name)
            self._proxy.leave(self)
        self.memory = None
        if self.kept is not None:
            self.kept.close()

    def _cancel_task(self) -> None:
        task, self.task = self.task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()

"""One request on its way to an engine and back: what has been decided, what the client has got.

Everything that needs no waiting happens at once, in the callbacks of the two connections. What has
to be waited for (a model, a place, a large body, a new connection) is done by the one task that an
exchange may have (`common.gateway.waiting`).
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from common.errors import CapacityError, DeployError, EngineError, RequestError
from common.gateway import model_field
from common.gateway.auth import Identity
from common.gateway.body import RequestBody, check_encoding, is_multipart, model_name
from common.gateway.envelope import ErrorAnswer, answer_for
from common.gateway.http.answer import Answer
from common.gateway.http.client_connection import ClientConnection
from common.gateway.http.engine_connection import EngineConnection
from common.gateway.http.engine_pool import EnginePool
from common.gateway.http.incoming_body import IncomingBody
from common.gateway.http.request import RequestHead
from common.gateway.http.response import EVENT_STREAM
from common.gateway.late_error import LateError
from common.telemetry.recorder import CLIENT_CLOSED_STATUS, Outcome, RequestRecord

if TYPE_CHECKING:
    from common.gateway.proxy import ModelProxy, Route
    from common.gateway.served_engine import ServedEngine

# How the body goes to the client. Plain numbers: they are compared for every piece.
_NOT_BEGUN, _RAW, _CHUNKED, _NO_BODY = range(4)

JOINED_BYTES = 16 * 1024
"""A larger piece is not copied to go out together with its frame."""


class Exchange:
    """A client's request for a model, from its head to the end of its answer.

    Attributes:
        head: The request's head.
        body: What has come of its body.
        record: Its telemetry.
        route: Where its path leads.
        identity: Who asks; None until that is known.
        engine: The model and its engine; None until they are known.
        has_place: Whether it holds a place at the model.
        kept: Its body, where it had to be waited for or looked into by the task.
        is_over: Whether its end is recorded.
        task: What waits for it; None: nothing is waited for.
    """

    __slots__ = (
        "_awaits_answer",
        "_connection",
        "_entered",
        "_framing",
        "_is_limited",
        "_is_stream",
        "_keeps_alive",
        "_last",
        "_late",
        "_link",
        "_may_have_usage",
        "_proxy",
        "_request_id",
        "_retried",
        "_status",
        "body",
        "engine",
        "has_place",
        "head",
        "identity",
        "is_over",
        "kept",
        "memory",
        "record",
        "route",
        "task",
    )

    def __init__(
        self,
        proxy: ModelProxy,
        connection: ClientConnection,
        head: RequestHead,
        body: IncomingBody,
        route: Route,
        record: RequestRecord,
    ) -> None:
        self._proxy = proxy
        self._connection = connection
        self.head = head
        self.body = body
        self.route = route
        self.record = record
        self._request_id = head.request_id or proxy.new_request_id()
        self.identity: Identity | None = None
        self.engine: ServedEngine | None = None
        self.memory: bytes | None = None
        self.kept: RequestBody | None = None
        self.task: asyncio.Task[None] | None = None
        self.has_place = False
        self.is_over = False
        self._entered = 0.0
        self._is_limited = False
        self._link: EngineConnection | None = None
        self._retried = False
        self._framing = _NOT_BEGUN
        self._awaits_answer = True
        self._is_stream = self._may_have_usage = False
        self._keeps_alive = False
        self._status = 0
        self._last = b"\n\n"
        self._late: LateError | None = None

    # The way to the engine.

    def start(self) -> None:
        """Send the request to its engine, or begin to wait for what that needs."""
        try:
            if not self._go_at_once():
                self.task = self._proxy.spawn(self._proxy.wait_for(self))
        except Exception as error:  # noqa: BLE001 - every failure becomes an answer and a record
            self.fail(error)

    def _go_at_once(self) -> bool:
        """Do all that can be done without waiting; whether the engine has the request now."""
        proxy = self._proxy
        head = self.head
        identity = proxy.authenticator.known(head.secret)
        if identity is None:
            return False
        self.identity = identity
        proxy.enter(self)
        engine = self.route.engine
        if engine is not None:
            self.assign(engine)
        if head.content_length is not None and head.content_length > proxy.max_body_bytes:
            raise proxy.too_large()
        if not self.body.is_complete:
            return False
        if engine is None:
            engine = self._named_engine()
            if engine is None:
                return False
            self.assign(engine)
        if not engine.admission.try_enter(identity.name, identity.priority):
            return False
        self.got_place()
        if not engine.is_ready:
            return False
        pool = engine.pool()
        link = pool.take()
        if link is None:
            return False
        memory = self.memory
        if memory is None:
            memory = self.memory = self.body.take()
        self.send(pool, link, memory, len(memory))
        return True

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

    def _named_engine(self) -> ServedEngine | None:
        """Return the engine that a small body names; None: the body has to be looked at otherwise."""
        head = self.head
        proxy = self._proxy
        if not head.has_body:
            return proxy.unnamed_engine(self.route)
        if self.body.size > model_field.SMALL_BODY_BYTES or is_multipart(head):
            return None
        if head.content_encoding:
            check_encoding(head)
        memory = self.memory = self.body.take()
        name = model_field.leading_model(memory)
        if name is None:
            name = model_name(model_field.parse_object(memory).get("model"))
        return proxy.engine_named(name, self.route)

    def got_place(self) -> None:
        """It holds a place at its model now."""
        self.has_place = True
        self._entered = time.monotonic()

    def send(
        self, pool: EnginePool, link: EngineConnection, payload: bytes, length: int | None
    ) -> None:
        """Send the request on a connection, with the beginning of its body.

        Args:
            pool: The connection's.
            link: The connection.
            payload: What of the body goes with the head.
            length: The whole body's; None: it goes in chunks.
        """
        head = self.head
        self._link = link
        self.record.start()
        lines = [head.method, b" ", self.route.target, pool.first_lines, *head.forwarded]
        lines += self._proxy.forwarded_lines(head, self._connection.peer, self._request_id)
        if head.content_length is not None or length:
            if length is None:
                lines.append(b"Transfer-Encoding: chunked\r\n")
            else:
                lines.append(b"Content-Length: %d\r\n" % length)
        elif head.is_chunked:
            lines.append(
                b"Transfer-Encoding: chunked\r\n" if length is None else b"Content-Length: 0\r\n"
            )
        lines += (b"\r\n", payload)
        link.send(self, b"".join(lines), is_head_request=head.method == b"HEAD")

    # What the engine's connection calls.

    def answer_came(self, payload: bytes, is_complete: bool) -> None:
        """Pass a piece of the answer on, at once."""
        out: list[bytes] = []
        if self._awaits_answer:
            self._awaits_answer = False
            self._begin(out)
        if payload:
            if self._late is not None:
                self._late.add(payload)
                payload = b""
            else:
                if self._may_have_usage:
                    if self._is_stream:
                        self.record.first_token()
                    self.record.saw(payload)
                framing = self._framing
                if framing == _CHUNKED:
                    out += (b"%x\r\n" % len(payload), payload, b"\r\n")
                    self._last = payload
                elif framing == _RAW:
                    out.append(payload)
                    self._last = payload
        if is_complete:
            if self._late is not None:
                self._end_late()
                return
            if self._framing == _CHUNKED:
                out.append(b"0\r\n\r\n")
        connection = self._connection
        if not connection.is_gone and out:
            if len(payload) > JOINED_BYTES:
                connection.transport.writelines(out)
            else:
                connection.transport.write(b"".join(out))
        if is_complete:
            self._complete()

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
        self._end(Outcome.OK, self._status)
        self._connection.answered(keeps_alive=self._keeps_alive)

    def fail(self, error: Exception) -> None:
        """End with an error, as well as it still can be told.

        Before the head is out: the answer with its status. In a stream of events: one ``error``
        event, if the stream stands between two events. Otherwise the connection breaks, which is
        the only way to say that a body is not whole.
        """
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
        self._drop(outcome, answer.status if self._framing == _NOT_BEGUN else self._status)
        if self._connection.is_gone:
            return
        if self._framing == _NOT_BEGUN:
            self.reply(answer.answer())
        else:
            self._tell_late(answer)

    def _tell_late(self, answer: ErrorAnswer) -> None:
        if self._is_stream and self._last.endswith((b"\n\n", b"\r\n\r\n")):
            event = answer.sse_event()
            if self._framing == _CHUNKED:
                event = b"%x\r\n%b\r\n0\r\n\r\n" % (len(event), event)
            self._connection.write(event)
            self._connection.answered(keeps_alive=self._keeps_alive)
        else:
            self._connection.cut()

    def _end_late(self) -> None:
        """The engine's refusal of a stream whose 200 is out already."""
        assert self._late is not None
        answer = self._late.answer()
        link, self._link = self._link, None
        if link is not None:
            link.release()
        self._end(Outcome.OK, self._status)
        if not self._connection.is_gone:
            self._tell_late(answer)

    def _end(self, outcome: Outcome, status: int) -> None:
        """Record the end and give everything back."""
        if self.is_over:
            return
        self.is_over = True
        usage = self.record.close(outcome, status)
        identity = self.identity
        if identity is not None:
            if self._is_limited:
                self._proxy.limiter.leave(identity, usage.prompt + usage.completion)
            if self.has_place and self.engine is not None:
                self.engine.admission.leave(time.monotonic() - self._entered, identity.name)
            self._proxy.leave(self)
        if self.kept is not None:
            self.kept.close()
        self.memory = None

    def _cancel_task(self) -> None:
        task, self.task = self.task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    # What the client gets.

    def _begin(self, out: list[bytes]) -> None:
        """Read the engine's head; add the client's to what goes out."""
        link = self._link
        assert link is not None
        answer = link.head
        assert answer is not None
        if self._framing != _NOT_BEGUN:  # heartbeats were sent: the 200 is out
            if answer.status != 200 or not answer.is_stream:
                self._late = LateError(answer.status)
            self._may_have_usage = True
            return
        head = self.head
        self._status = answer.status
        self._is_stream = answer.is_stream
        self._may_have_usage = answer.may_have_usage
        out += (self._proxy.status_lines.line(answer.status, answer.reason), *answer.forwarded)
        if not answer.has_date:
            out.append(self._proxy.date_line)
        length = answer.content_length
        if answer.has_no_body or head.method == b"HEAD":
            self._framing = _NO_BODY
            if length is not None and answer.status != 204:
                out.append(b"Content-Length: %d\r\n" % length)
        elif length is not None:
            self._framing = _RAW
            out.append(b"Content-Length: %d\r\n" % length)
        else:
            self._frame(out)
        self._end_head(out)
        if self._connection.is_blocked:
            link.pause()

    def _frame(self, out: list[bytes]) -> None:
        """Choose a framing for a body of unknown length."""
        if self.head.is_http10:
            self.head.keeps_alive = False  # the end of the connection is the end of the body
            self._framing = _RAW
        else:
            self._framing = _CHUNKED
            out.append(b"Transfer-Encoding: chunked\r\n")

    def _end_head(self, out: list[bytes]) -> None:
        proxy = self._proxy
        if (
            self.head.keeps_alive
            and self.body.is_complete
            and not (self.head.is_http10 or proxy.is_draining or proxy.cors.is_on)
        ):
            self._keeps_alive = True
            out += (b"X-Request-Id: ", self._request_id, b"\r\n\r\n")
            return
        self._keeps_alive = proxy.end_head(
            out, self._connection, self.head, self.body, self._request_id
        )

    def send_comment(self, comment: bytes) -> None:
        """Send a comment in a stream of events that waits for its engine; the first begins it."""
        connection = self._connection
        if connection.is_gone or connection.is_blocked:
            return
        out: list[bytes] = []
        if self._framing == _NOT_BEGUN:
            self._status = 200
            self._is_stream = True
            out += (
                self._proxy.status_lines.line(200),
                b"Content-Type: " + EVENT_STREAM + b"\r\nCache-Control: no-cache\r\n",
                self._proxy.date_line,
            )
            self._frame(out)
            self._end_head(out)
        if self._framing == _CHUNKED:
            out += (b"%x\r\n" % len(comment), comment, b"\r\n")
        else:
            out.append(comment)
        connection.write(b"".join(out))

    @property
    def has_begun(self) -> bool:
        """Whether the client has got a status."""
        return self._framing != _NOT_BEGUN

    def reply(self, answer: Answer) -> None:
        """Send a whole answer of our own."""
        self.head.request_id = self._request_id
        self._proxy.send_answer(self._connection, self.head, self.body, answer)


def outcome_of(error: Exception) -> Outcome:
    """Return how a request ends that fails with this error."""
    if isinstance(error, RequestError):
        return Outcome.REFUSED
    if isinstance(error, CapacityError):
        return Outcome.TIMEOUT
    if isinstance(error, EngineError):
        return Outcome.ENGINE_DIED
    return Outcome.REFUSED if isinstance(error, DeployError) else Outcome.INTERNAL

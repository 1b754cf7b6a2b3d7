"""One API call as the services see it: who asks, with what, on which state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from common.local_server.auth import Authenticator, User, can_read
from common.local_server.endpoints import with_external_endpoints
from common.local_server.event_log import EventLog
from common.local_server.store import Store
from common.local_server.wire import CallError, JsonDict

TASK = "task"
PROJECT = "project"
QUEUE = "queue"
MODEL = "model"
WORKER = "worker"
SERVING = "serving"

#: Subcode of "invalid id" per kind of document.
_INVALID_ID = {TASK: 101, MODEL: 201, PROJECT: 401, QUEUE: 701}


@dataclass(frozen=True)
class ServerSettings:
    """What the services know of the server itself.

    Attributes:
        company: Id of the one company.
        is_advanced: The advanced feature set was asked for.
        routes: Static routes that the advanced set offers.
        router_url: Address of the router that grants endpoints; empty: none answers.
    """

    company: str
    is_advanced: bool = False
    routes: tuple[str, ...] = ()
    router_url: str = ""


@dataclass(frozen=True)
class Call:
    """One call of one user.

    Attributes:
        data: The request's JSON object; query parameters are merged in.
        lines: The events of a JSON-lines body, None for any other call.
        remote_ip: Where the caller is.
    """

    store: Store
    events: EventLog
    auth: Authenticator
    settings: ServerSettings
    user: User
    data: JsonDict
    lines: list[JsonDict] | None = None
    remote_ip: str = "127.0.0.1"

    def text(self, name: str) -> str:
        """A required string of the request.

        Raises:
            CallError: 400/12, it is missing or no string.
        """
        value = self.data.get(name)
        if not isinstance(value, str) or not value:
            raise CallError(12, f"Validation error (field {name!r}: a string is required)")
        return value

    def items(self, name: str) -> list[Any]:
        """A required list of the request.

        Raises:
            CallError: 400/12, it is missing or no list.
        """
        value = self.data.get(name)
        if not isinstance(value, list):
            raise CallError(12, f"Validation error (field {name!r}: a list is required)")
        return value

    def dictionary(self, name: str) -> JsonDict:
        """An optional object of the request; empty when absent.

        Raises:
            CallError: 400/12, it is no object.
        """
        value = self.data.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise CallError(12, f"Validation error (field {name!r}: an object is required)")
        return value

    def granted(self, runtime: JsonDict, task_id: str) -> JsonDict:
        """A task's runtime properties with the endpoints that the router grants."""
        if not self.settings.router_url:
            return runtime
        settings = self.settings
        return with_external_endpoints(runtime, task_id, settings.router_url, settings.routes)

    def flag(self, name: str, default: bool = False) -> bool:
        """An optional boolean of the request."""
        value = self.data.get(name)
        return default if value is None else bool(value)

    def can_read(self, document: Mapping[str, Any]) -> bool:
        """Tell whether the caller may read a task, model or project."""
        project = document.get("project")
        return can_read(self.store, self.user, project)

    def find(self, kind: str, object_id: str) -> JsonDict:
        """A document that the caller may read.

        Raises:
            CallError: No such id, or not for this user; the two look alike on purpose.
        """
        document = self.store.get(kind, object_id)
        if document is not None and kind == PROJECT:
            readable = can_read(self.store, self.user, object_id)
        else:
            readable = document is not None and self.can_read(document)
        if document is None or not readable:
            raise CallError(_INVALID_ID[kind], f"Invalid {kind} id: id={object_id}", id=object_id)
        return document

    def readable(self, kind: str) -> list[JsonDict]:
        """All documents of a kind that the caller may read."""
        documents = self.store.all(kind)
        if self.user.is_owner:
            return documents
        if kind == PROJECT:
            return [d for d in documents if can_read(self.store, self.user, d["id"])]
        return [d for d in documents if self.can_read(d)]


#: A service's function for one call: reads and writes the store, returns `data` of the answer.
Handler = Callable[[Call], JsonDict]


def check_name(kind: str, name: Any) -> str:
    """Refuse a name of a task, model or queue below three characters (400/800).

    Raises:
        CallError: 400/800.
    """
    if not isinstance(name, str) or len(name.strip()) < 3:
        raise CallError(
            800, f"Value error ({kind} name {name!r} must have at least 3 characters)", name=name
        )
    return name

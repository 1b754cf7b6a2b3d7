"""From a request's path, headers and body to an answer, in the one thread that owns the store."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

from common.local_server import envelope
from common.local_server.auth import ADVANCED, BASIC, Authenticator
from common.local_server.call import Call, Handler, ServerSettings
from common.local_server.credentials import Credentials
from common.local_server.event_log import EventLog
from common.local_server.services import (
    events,
    identity,
    models,
    projects,
    queues,
    serving,
    task_contents,
    task_life,
    tasks,
    workers,
)
from common.local_server.store import Store
from common.local_server.wire import CallError, JsonDict

_log = logging.getLogger(__name__)
T = TypeVar("T")

SERVICES: Final[Mapping[str, Mapping[str, Handler]]] = MappingProxyType(
    {
        "auth": identity.AUTH,
        "users": identity.USERS,
        "routers": identity.ROUTERS,
        "server": identity.SERVER,
        "tasks": {**tasks.ENDPOINTS, **task_life.ENDPOINTS, **task_contents.ENDPOINTS},
        "projects": projects.ENDPOINTS,
        "queues": queues.ENDPOINTS,
        "workers": workers.ENDPOINTS,
        "models": models.ENDPOINTS,
        "events": events.ENDPOINTS,
        "serving": serving.ENDPOINTS,
    }
)

_PATH: Final = re.compile(r"^/(?:v(?P<version>\d+(?:\.\d+)?)/)?(?P<endpoint>\w+\.\w+)/?$")
_JSON_LINES_ENDPOINT: Final = "events.add_batch"


@dataclass(frozen=True)
class RawRequest:
    """One HTTP request, not understood yet."""

    path: str
    authorization: str | None
    body: bytes
    query: Mapping[str, str]
    remote_ip: str


class Dispatcher:
    """Owns the store and its thread; every call runs there as one transaction."""

    def __init__(
        self,
        database: Path,
        credentials: Credentials,
        settings: ServerSettings,
        record: Path | None = None,
    ) -> None:
        self._settings = settings
        self._record = record
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._pool.submit(self._open, database, credentials).result()

    def _open(self, database: Path, credentials: Credentials) -> None:
        self._store = Store(database)
        self._events = EventLog(self._store)
        features = ADVANCED if self._settings.is_advanced else BASIC
        self._auth = Authenticator(self._store, credentials, features)
        with self._store.transaction():
            self._auth.ensure_owner()
            queues.ensure_default(self._store, self._settings.company, credentials.owner)

    @property
    def pool(self) -> ThreadPoolExecutor:
        """The store's thread, to run `answer` and `with_store` in."""
        return self._pool

    def close(self) -> None:
        """Finish what is queued and close the store."""
        self._pool.submit(self._store.close).result()
        self._pool.shutdown()

    def with_store(self, function: Callable[[Store, Authenticator], T]) -> T:
        """Run a function on the store as one transaction (in the store's thread only)."""
        with self._store.transaction():
            return function(self._store, self._auth)

    def answer(self, request: RawRequest) -> tuple[int, bytes]:
        """Carry out one request (in the store's thread only); never raises."""
        match = _PATH.match(request.path)
        endpoint = match["endpoint"] if match else request.path.strip("/")
        version = (match["version"] or "") if match else ""
        try:
            with self._store.transaction():
                data = self._run(endpoint, request)
            status, content = 200, envelope.success(endpoint, version, data)
        except CallError as error:
            status, content = error.status, envelope.failure(endpoint, version, error)
        except Exception as error:  # noqa: BLE001
            # A mistake here must look like the real server's: the SDK logs a 500 and goes on.
            _log.exception("%s failed", endpoint)
            mistake = CallError(0, f"Internal error ({type(error).__name__})", status=500)
            status, content = 500, envelope.failure(endpoint, version, mistake)
        self._keep_record(endpoint, request, content)
        return status, json.dumps(content).encode()

    def _run(self, endpoint: str, request: RawRequest) -> JsonDict:
        user = self._auth.authenticate(request.authorization)
        service, _, action = endpoint.partition(".")
        handler = SERVICES.get(service, {}).get(action)
        if handler is None:
            raise envelope.unknown_endpoint(endpoint)
        lines: list[JsonDict] | None = None
        data: JsonDict = dict(request.query)
        if endpoint == _JSON_LINES_ENDPOINT:
            lines = _parse_lines(request.body)
        else:
            data.update(_parse_object(request.body))
        return handler(
            Call(
                store=self._store,
                events=self._events,
                auth=self._auth,
                settings=self._settings,
                user=user,
                data=data,
                lines=lines,
                remote_ip=request.remote_ip,
            )
        )

    def _keep_record(self, endpoint: str, request: RawRequest, content: JsonDict) -> None:
        """Append the pair to the record that the schema tests read; tokens are left out."""
        if self._record is None:
            return
        answer: Any = content
        if "token" in content["data"]:
            answer = {**content, "data": {"token": "masked"}}
        line = {
            "path": request.path,
            "endpoint": endpoint,
            "request": request.body.decode("utf-8", "replace"),
            "answer": answer,
        }
        with self._record.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")


def _parse_object(body: bytes) -> JsonDict:
    if not body.strip():
        return {}
    try:
        data = json.loads(body)
    except ValueError as error:
        raise CallError(12, f"Validation error (the body is no JSON: {error})") from error
    if not isinstance(data, dict):
        raise CallError(12, "Validation error (the body is no JSON object)")
    return data


def _parse_lines(body: bytes) -> list[JsonDict]:
    # Lines end with "\n" alone: other separators may stand inside a JSON string.
    try:
        return [json.loads(line) for line in body.split(b"\n") if line.strip()]
    except ValueError as error:
        raise CallError(12, f"Validation error (the body is no JSON lines: {error})") from error

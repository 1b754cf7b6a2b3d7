"""Users and readers of a data directory, whether its server runs or not.

SQLite lets a second process write; the server reads users and readers anew for each call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from common.errors import UserError
from common.local_server import auth
from common.local_server.credentials import load_or_create
from common.local_server.data_dir import DataDir
from common.local_server.services.projects import find_by_name
from common.local_server.store import Store
from common.local_server.wire import CallError, JsonDict

T = TypeVar("T")


def add_user(data_dir: Path, name: str) -> JsonDict:
    """Create a user; returns ``id``, ``name``, ``access_key``, ``secret_key``.

    Raises:
        UserError: The name is empty or taken.
    """

    def add(_: Store, authenticator: auth.Authenticator) -> JsonDict:
        try:
            return authenticator.add_user(name)
        except CallError as error:
            raise UserError(f"The user {name!r} cannot be added: {error}.") from error

    return _with_store(data_dir, add)


def restrict(data_dir: Path, project: str, readers: Sequence[str] | None) -> None:
    """Let only the owner and these users read a project and those below it; None lets all.

    Raises:
        UserError: No such project, or no such user.
    """

    def apply(store: Store, authenticator: auth.Authenticator) -> None:
        problems = []
        found = find_by_name(store, project)
        if found is None:
            known = ", ".join(sorted(p["name"] for p in store.all("project"))) or "none yet"
            problems.append(f"There is no project {project!r}; there are: {known}.")
        users = {user.name: user.id for user in authenticator.users()}
        for name in readers or ():
            if name not in users:
                problems.append(f"There is no user {name!r}; there are: {', '.join(users)}.")
        if problems or found is None:
            raise UserError(" ".join(problems))
        ids = None if readers is None else [users[name] for name in readers]
        auth.set_readers(store, found["id"], ids)

    _with_store(data_dir, apply)


def _with_store(data_dir: Path, function: Callable[[Store, auth.Authenticator], T]) -> T:
    paths = DataDir(data_dir.expanduser().resolve())
    paths.create()
    store = Store(paths.database)
    try:
        authenticator = auth.Authenticator(store, load_or_create(paths), auth.BASIC)
        with store.transaction():
            authenticator.ensure_owner()
            return function(store, authenticator)
    finally:
        store.close()

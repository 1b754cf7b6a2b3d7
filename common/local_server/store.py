"""State in SQLite: objects as JSON documents, events as rows.

One connection, used by one thread (`dispatch.py` runs every call in a single-thread executor, each
inside one transaction), so that no call sees half of another. WAL with ``synchronous=NORMAL`` loses
nothing when the process is killed; only a power failure may take the last transactions.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import ControlPlaneError
from common.local_server.wire import JsonDict

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE documents (
    seq  INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    id   TEXT NOT NULL,
    body TEXT NOT NULL,
    UNIQUE (kind, id)
);
CREATE TABLE events (
    seq       INTEGER PRIMARY KEY AUTOINCREMENT,
    owner     TEXT NOT NULL,
    type      TEXT NOT NULL,
    metric    TEXT NOT NULL,
    variant   TEXT NOT NULL,
    iter      INTEGER NOT NULL,
    timestamp INTEGER NOT NULL,
    body      TEXT NOT NULL
);
CREATE INDEX events_by_owner ON events (owner, type, metric, variant, iter);
CREATE TABLE serving_reports (
    url       TEXT NOT NULL,
    container TEXT NOT NULL,
    timestamp REAL NOT NULL,
    body      TEXT NOT NULL
);
CREATE INDEX serving_reports_by_url ON serving_reports (url, timestamp);
"""


class Store:
    """The server's database. Not thread-safe: open it and use it in one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Autocommit; `transaction` brackets explicitly. The thread check stays on.
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("PRAGMA synchronous=NORMAL")
        self._migrate()

    def _migrate(self) -> None:
        version = int(self.db.execute("PRAGMA user_version").fetchone()[0])
        if version == SCHEMA_VERSION:
            return
        if version > SCHEMA_VERSION:
            raise ControlPlaneError(
                f"The local server's database {self._path} has format {version}, which is newer"
                f" than this program's {SCHEMA_VERSION}. Update clearml-deploy or use another"
                " --data-dir."
            )
        with self.transaction():
            for statement in _SCHEMA.split(";"):
                self.db.execute(statement)
            self.db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; an exception inside undoes every write."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")

    def close(self) -> None:
        """Close the database; the write-ahead log is folded into it."""
        self.db.close()

    def get(self, kind: str, object_id: str) -> JsonDict | None:
        """One document by its id, None when there is none."""
        row = self.db.execute(
            "SELECT body FROM documents WHERE kind=? AND id=?", (kind, object_id)
        ).fetchone()
        return None if row is None else _load(row[0])

    def get_many(self, kind: str, ids: list[str]) -> list[JsonDict]:
        """Documents by id in the order of `ids`; unknown ids are left out."""
        found = (self.get(kind, object_id) for object_id in dict.fromkeys(ids))
        return [document for document in found if document is not None]

    def all(self, kind: str) -> list[JsonDict]:
        """Every document of a kind, oldest first."""
        rows = self.db.execute("SELECT body FROM documents WHERE kind=? ORDER BY seq", (kind,))
        return [_load(row[0]) for row in rows]

    def put(self, kind: str, document: JsonDict) -> None:
        """Insert or replace a document under its ``id``."""
        self.db.execute(
            "INSERT INTO documents (kind, id, body) VALUES (?, ?, ?)"
            " ON CONFLICT (kind, id) DO UPDATE SET body=excluded.body",
            (kind, document["id"], json.dumps(document)),
        )

    def delete(self, kind: str, object_id: str) -> None:
        """Forget a document; an unknown id is fine."""
        self.db.execute("DELETE FROM documents WHERE kind=? AND id=?", (kind, object_id))


def _load(body: str) -> JsonDict:
    document: JsonDict = json.loads(body)
    return document

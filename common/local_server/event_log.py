"""Events of tasks and models: console lines, scalars, plots, debug images.

A scalar, plot or image of the same metric, variant and iteration replaces the earlier one, as on
the real server; console lines only ever add up. Single values are scalars of the iteration -2**31.
"""

from __future__ import annotations

import json
from typing import Any

from common.local_server.store import Store
from common.local_server.wire import JsonDict

SINGLE_VALUE_ITERATION = -(2**31)
LOG = "log"
SCALAR = "training_stats_scalar"
PLOT = "plot"
IMAGE = "training_debug_image"


class EventLog:
    """The `events` table of a store."""

    def __init__(self, store: Store) -> None:
        self._db = store.db

    def add(self, owner: str, event: JsonDict) -> None:
        """Keep one event of the task or model `owner`."""
        kind = str(event.get("type"))
        key = (owner, kind, str(event.get("metric", "")), str(event.get("variant", "")))
        iteration = int(event.get("iter") or 0)
        if kind != LOG:
            self._db.execute(
                "DELETE FROM events WHERE owner=? AND type=? AND metric=? AND variant=? AND iter=?",
                (*key, iteration),
            )
        self._db.execute(
            "INSERT INTO events (owner, type, metric, variant, iter, timestamp, body)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*key, iteration, int(event.get("timestamp") or 0), json.dumps(event)),
        )

    def delete(self, owner: str) -> int:
        """Forget all events of a task or model; returns how many there were."""
        return self._db.execute("DELETE FROM events WHERE owner=?", (owner,)).rowcount

    def count(self, owner: str, kind: str) -> int:
        """How many events of a type there are."""
        row = self._db.execute(
            "SELECT COUNT(*) FROM events WHERE owner=? AND type=?", (owner, kind)
        ).fetchone()
        return int(row[0])

    def page(
        self, owner: str, kind: str, *, newest_first: bool, size: int, offset: int = 0
    ) -> list[JsonDict]:
        """Events of one type by time, `size` of them from `offset`."""
        order = "DESC" if newest_first else "ASC"
        rows = self._db.execute(
            "SELECT body FROM events WHERE owner=? AND type=?"
            f" ORDER BY timestamp {order}, seq {order} LIMIT ? OFFSET ?",
            (owner, kind, size, offset),
        )
        return [json.loads(row[0]) for row in rows]

    def log_lines(
        self, owner: str, *, earlier: bool, from_ms: float | None, size: int
    ) -> list[JsonDict]:
        """Console events after a moment, or before it (`earlier`): `size`, and all of the last one's moment.

        So a client that asks from the last timestamp on misses none.
        """
        order, compare, until = ("DESC", "<", ">=") if earlier else ("ASC", ">", "<=")
        limit: float = from_ms if from_ms is not None else (2**62 if earlier else -1)
        within = f"owner=? AND type=? AND timestamp {compare} ?"
        edge = self._db.execute(
            f"SELECT timestamp FROM events WHERE {within}"
            f" ORDER BY timestamp {order}, seq {order} LIMIT 1 OFFSET ?",
            (owner, LOG, limit, max(size, 1) - 1),
        ).fetchone()
        last: float = edge[0] if edge else (-1 if earlier else 2**62)
        rows = self._db.execute(
            f"SELECT body FROM events WHERE {within} AND timestamp {until} ?"
            f" ORDER BY timestamp {order}, seq {order}",
            (owner, LOG, limit, last),
        )
        return [json.loads(row[0]) for row in rows]

    def scalars(self, owner: str) -> list[tuple[str, str, int, int, float]]:
        """(metric, variant, iteration, timestamp in ms, value), single values left out."""
        rows: Any = self._db.execute(
            "SELECT metric, variant, iter, timestamp, json_extract(body, '$.value') FROM events"
            " WHERE owner=? AND type=? AND iter<>? ORDER BY metric, variant, iter",
            (owner, SCALAR, SINGLE_VALUE_ITERATION),
        )
        return [(m, v, i, t, float(value or 0)) for m, v, i, t, value in rows]

    def single_values(self, owner: str) -> list[JsonDict]:
        """The events of the single values."""
        rows = self._db.execute(
            "SELECT body FROM events WHERE owner=? AND type=? AND iter=? ORDER BY seq",
            (owner, SCALAR, SINGLE_VALUE_ITERATION),
        )
        return [json.loads(row[0]) for row in rows]

    def of_type(self, owner: str, kind: str) -> list[JsonDict]:
        """All events of a type, by metric, variant and iteration."""
        rows = self._db.execute(
            "SELECT body FROM events WHERE owner=? AND type=? ORDER BY metric, variant, iter DESC",
            (owner, kind),
        )
        return [json.loads(row[0]) for row in rows]

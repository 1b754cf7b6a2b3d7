"""Values as ClearML's API has them: ids, times, and the error that a call may end with.

The forms are those of the open-source server's API 2.34: ids are 32 lower-case hex digits, times in
objects are ISO-8601 with offset, times of events are integer milliseconds.
"""

from __future__ import annotations

import time
import uuid
from datetime import datetime, timezone
from typing import Any

from common.errors import UserError

#: A JSON object; the shape of each is the SDK's schema for the call.
JsonDict = dict[str, Any]


class CallError(UserError):
    """One API call that is refused, in the terms of ClearML's envelope.

    Attributes:
        status: HTTP status and `result_code`. Only 400, 401, 403, 404 and 500 are ever used: the
            SDK repeats 501 and 504 for ever without a pause.
        subcode: ClearML's `result_subcode`.
        data: Extra fields of `meta.error_data`.
    """

    code = "clearml_call"

    def __init__(self, subcode: int, message: str, *, status: int = 400, **data: Any) -> None:
        super().__init__(message)
        self.status = status
        self.http_status = status
        self.subcode = subcode
        self.data = data


def new_id() -> str:
    """Make an id for a task, model, project, queue or call."""
    return uuid.uuid4().hex


def now_ms() -> int:
    """Wall clock in milliseconds since the epoch, as events and workers carry it."""
    return int(time.time() * 1000)


def iso_time(epoch_s: float | None = None) -> str:
    """Render a time as objects carry it; now unless `epoch_s` is given."""
    moment = datetime.fromtimestamp(time.time() if epoch_s is None else epoch_s, tz=timezone.utc)
    return moment.isoformat(timespec="microseconds")


def parse_iso(text: str) -> datetime:
    """Read a time of an object or of a filter; one without offset is UTC."""
    # Python 3.10 knows no "Z" suffix.
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)

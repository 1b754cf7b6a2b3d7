"""One thread that carries out everything slow towards ClearML, so that nothing else ever waits for it."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from common.errors import ServerAwayError

_RETRY_S = 5.0
# All jobs of an instance have keys and read what is to be sent when they run, so that they are few.
_LIMIT = 20_000


class Outbox:
    """Carries out jobs in order on its own daemon thread; a job that fails for want of a server is retried.

    Jobs with the same key replace each other while they wait: only the newest state is worth sending.
    """

    def __init__(
        self, warn: Callable[[str], None], *, retry_s: float = _RETRY_S, limit: int = _LIMIT
    ) -> None:
        self._warn = warn
        self._retry_s = retry_s
        self._limit = limit
        self._jobs: OrderedDict[str, Callable[[], None]] = OrderedDict()
        self._changed = threading.Condition()
        self._busy = False
        self._closing = False
        self._count = 0
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="clearml-outbox", daemon=True)
        self._thread.start()

    def put(self, key: str, job: Callable[[], None]) -> None:
        """Have `job` done soon; it replaces a waiting job of the same non-empty key."""
        with self._changed:
            self._count += 1
            name = key or f"#{self._count}"
            self._jobs[name] = job
            while len(self._jobs) > self._limit:
                self._jobs.popitem(last=False)
                self._dropped += 1
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything so far was sent; False when the time ran out first."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._jobs or self._busy:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
        return True

    def close(self, timeout_s: float) -> bool:
        """Flush, then take no more retries; the thread is left behind if it hangs in the network."""
        done = self.flush(timeout_s)
        with self._changed:
            self._closing = True
            self._jobs.clear()
            self._changed.notify_all()
        return done

    def _run(self) -> None:
        is_away = False
        failure = ""
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                while not self._jobs:
                    if self._closing:
                        return
                    self._changed.wait()
                key, job = self._jobs.popitem(last=False)
                self._busy = True
            try:
                job()
            except ServerAwayError as error:
                if not is_away:
                    self._warn(f"Reports to ClearML are delayed: {error}")
                is_away = True
                self._put_back(key, job)
            except Exception as error:  # noqa: BLE001 - the SDK raises bare exceptions; a report must not end us
                said, failure = (
                    failure,
                    f"A report to ClearML failed: {type(error).__name__}: {error}",
                )
                if failure != said:  # every few seconds the same is no news
                    self._warn(failure)
            else:
                if is_away:
                    self._warn(self._back_again())
                is_away = False

    def _back_again(self) -> str:
        lost, self._dropped = self._dropped, 0
        told = f" {lost} of the oldest were too many to keep and are lost." if lost else ""
        return f"The ClearML server answers again; the delayed reports are being sent.{told}"

    def _put_back(self, key: str, job: Callable[[], None]) -> None:
        with self._changed:
            if key not in self._jobs:  # a newer state of the same key makes this one worthless
                self._jobs[key] = job
                self._jobs.move_to_end(key, last=False)
            self._busy = False
            self._changed.notify_all()
            if not self._closing:
                self._changed.wait_for(lambda: self._closing, self._retry_s)

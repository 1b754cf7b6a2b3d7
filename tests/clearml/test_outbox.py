"""The outbox: nothing waits for the server, nothing is lost while it is away."""

from __future__ import annotations

import threading
import time

from common.clearml.outbox import Outbox
from common.errors import ServerAwayError


def test_jobs_run_in_order() -> None:
    done: list[int] = []
    outbox = Outbox(lambda line: None)
    for number in range(50):
        outbox.put("", lambda number=number: done.append(number))
    assert outbox.close(5)
    assert done == list(range(50))


def test_waiting_jobs_of_one_key_are_replaced_by_the_newest() -> None:
    gate = threading.Event()
    done: list[str] = []
    outbox = Outbox(lambda line: None)
    outbox.put("block", lambda: gate.wait(5) and None)
    for value in ("a", "b", "c"):
        outbox.put("status", lambda value=value: done.append(value))
    gate.set()
    assert outbox.close(5)
    assert done == ["c"]


def test_a_job_is_retried_until_the_server_is_back_and_order_is_kept() -> None:
    lines: list[str] = []
    done: list[str] = []
    is_away = threading.Event()
    is_away.set()

    def flaky() -> None:
        if is_away.is_set():
            raise ServerAwayError("no server")
        done.append("first")

    outbox = Outbox(lines.append, retry_s=0.01)
    outbox.put("", flaky)
    outbox.put("", lambda: done.append("second"))
    assert not outbox.flush(0.1)
    is_away.clear()
    assert outbox.flush(5)
    assert done == ["first", "second"]
    assert len(lines) == 2  # said once when it went and once when it came back
    assert outbox.close(1)


def test_a_hanging_server_holds_up_neither_put_nor_close() -> None:
    hang = threading.Event()
    outbox = Outbox(lambda line: None)
    started = time.monotonic()
    outbox.put("", lambda: hang.wait(30) and None)
    outbox.put("", lambda: None)
    assert not outbox.close(0.2)
    assert time.monotonic() - started < 5
    hang.set()


def test_an_error_of_a_job_is_said_and_the_next_one_runs() -> None:
    lines: list[str] = []
    done: list[int] = []
    outbox = Outbox(lines.append)
    outbox.put("", lambda: 1 // 0)
    outbox.put("", lambda: done.append(1))
    assert outbox.close(5)
    assert done == [1]
    assert "ZeroDivisionError" in lines[0]


def test_what_was_too_much_to_keep_is_told_with_its_number() -> None:
    lines: list[str] = []
    done: list[int] = []
    is_away = threading.Event()
    is_away.set()

    def send(number: int) -> None:
        if is_away.is_set():
            raise ServerAwayError("no server")
        done.append(number)

    outbox = Outbox(lines.append, retry_s=0.01, limit=3)
    outbox.put("", lambda: send(0))
    deadline = time.monotonic() + 5
    while not lines and time.monotonic() < deadline:
        time.sleep(0.005)
    assert "delayed" in lines[0]
    for number in range(1, 20):
        outbox.put("", lambda number=number: send(number))
    is_away.clear()
    assert outbox.close(5)
    assert done[-1] == 19
    assert len(done) <= 4  # three kept, and one that was under way
    assert f" {20 - len(done)} of the oldest" in lines[-1]

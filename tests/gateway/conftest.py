from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from gateway_harness import StubProcess


@pytest.fixture(scope="session")
def stub() -> Iterator[StubProcess]:
    """A well-behaved stub engine, shared: compare its statistics with earlier ones."""
    process = StubProcess("--name", "plain")
    yield process
    process.stop()


@pytest.fixture(autouse=True)
def no_errors_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a client does, the HTTP server below must not print tracebacks."""
    yield
    assert [r.getMessage() for r in caplog.records if r.levelname == "ERROR"] == []


@pytest.fixture
def start_stub() -> Iterator[Callable[..., StubProcess]]:
    """Start stub engines with flags; they end with the test."""
    started: list[StubProcess] = []

    def start(*flags: str, wait: bool = True) -> StubProcess:
        started.append(StubProcess(*flags, wait=wait))
        return started[-1]

    yield start
    for process in started:
        process.stop()

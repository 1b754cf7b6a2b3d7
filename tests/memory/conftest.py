"""What the tests with real engines share."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.engines_process.conftest import launcher, no_process_left, wait_for

__all__ = ["launcher", "no_process_left"]

MIB = 1 << 20
WEIGHTS_BYTES = 40 * MIB


@pytest.fixture
def no_orphan(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing that a test's engines started is left anywhere, whoever its parent is by now."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv("TEST_MARK", mark)  # engines inherit it, and what they start

    def left() -> list[int]:
        return [process.pid for process in psutil.process_iter() if _mark_of(process) == mark]

    yield
    wait_for(lambda: not left(), 3.0)


def _mark_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("TEST_MARK")
    except psutil.Error:  # ended, or somebody else's
        return None


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A model's file of 40 MiB."""
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(MIB) * (WEIGHTS_BYTES // MIB))
    return path

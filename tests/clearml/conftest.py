"""Fixtures for the ClearML side."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import pytest

from common.local_server import dispatch
from tests.clearml.own_server import Change


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Change], None]:
    """Change the services of servers in this process."""

    def change(how: Change) -> None:
        services = dict(dispatch.SERVICES)
        how(services)
        monkeypatch.setattr(dispatch, "SERVICES", MappingProxyType(services))

    return change

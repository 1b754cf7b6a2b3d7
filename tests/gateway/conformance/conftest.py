from __future__ import annotations

from collections.abc import Iterator

import pytest
from conformance_rig import RawEngineProcess, Rig, gateway, model


@pytest.fixture(scope="session")
def engine() -> Iterator[RawEngineProcess]:
    """One raw engine, shared."""
    process = RawEngineProcess()
    yield process
    process.stop()


@pytest.fixture(scope="module")
def shared(engine: RawEngineProcess) -> Iterator[Rig]:
    """One gateway for the tests of a module that do not look at what it counts."""
    with gateway([model(engine)]) as rig:
        yield rig
        assert rig.is_idle()


@pytest.fixture
def rig(engine: RawEngineProcess) -> Iterator[Rig]:
    """A gateway of the test's own; nothing may be left of its requests."""
    with gateway([model(engine)]) as own:
        yield own


@pytest.fixture(autouse=True)
def empty_log(engine: RawEngineProcess) -> None:
    """Each test looks at its own requests."""
    engine.log()

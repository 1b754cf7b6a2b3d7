"""One rule for the exit codes of all commands and runs."""

from __future__ import annotations

import pytest

from common.errors import (
    CapacityError,
    ConfigurationError,
    ControlPlaneError,
    DeployError,
    EngineCrashError,
    EngineMissingError,
    InternalError,
    ModelFormatError,
    ModelNotFoundError,
    RequestError,
    UserError,
)
from common.runtime.exit_codes import exit_code_of


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigurationError([]), 2),
        (UserError("no checkout"), 2),
        (RequestError("no such route"), 2),
        (ModelNotFoundError("no such model"), 1),
        (ModelFormatError("truncated"), 1),
        (CapacityError("no space"), 1),
        (EngineMissingError("none"), 1),
        (EngineCrashError("died"), 1),
        (ControlPlaneError("no queue"), 1),
        (InternalError("ours"), 1),
    ],
)
def test_what_is_asked_wrongly_is_told_from_what_failed(error: DeployError, code: int) -> None:
    assert exit_code_of(error) == code

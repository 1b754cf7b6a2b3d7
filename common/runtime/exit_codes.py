"""The exit codes of every command: 0 done, 1 failed, 2 wrong usage or configuration."""

from __future__ import annotations

from common.errors import DeployError, ModelError, UserError


def exit_code_of(error: DeployError) -> int:
    """2 for what was asked wrongly, 1 for what was tried and failed, a model that cannot be had included."""
    return 2 if isinstance(error, UserError) and not isinstance(error, ModelError) else 1

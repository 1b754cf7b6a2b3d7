"""The exit codes of every command: 0 done, 1 failed, 2 wrong usage or configuration."""

from __future__ import annotations

from common.errors import DeployError, UserError


def exit_code_of(error: DeployError) -> int:
    """2 for what the user gave and would fail again as it is, 1 for all else."""
    return 2 if isinstance(error, UserError) else 1

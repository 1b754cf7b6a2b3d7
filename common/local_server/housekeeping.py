"""Keeps the logs of the server and the agent from growing without end."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import Final

from common.local_server.data_dir import DataDir

MAX_LOG_BYTES: Final = 8 << 20
_PERIOD_S: Final = 60.0


async def trim_logs(paths: DataDir) -> None:
    """Once a minute, for ever: start a log anew that grew too long; one older part is kept."""
    while True:
        for path in (paths.server_log, paths.agent_log):
            await asyncio.to_thread(trim, path, MAX_LOG_BYTES)
        await asyncio.sleep(_PERIOD_S)


def trim(path: Path, limit_bytes: int) -> None:
    """Copy a long log aside and empty it; its writers append, so they go on at the start."""
    try:
        if path.stat().st_size <= limit_bytes:
            return
    except FileNotFoundError:
        return
    shutil.copyfile(path, path.with_suffix(".log.1"))
    os.truncate(path, 0)

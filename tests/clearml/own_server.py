"""A real local server in the test's own process, whose services the test may change."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.local_server import LocalServer, RunningServer, ServerOptions

Services = dict[str, Any]
Change = Callable[[Services], None]


@contextmanager
def server_in_this_process(folder: Path) -> Iterator[RunningServer]:
    """A real server whose services a test may change."""
    loop = asyncio.new_event_loop()
    server = LocalServer(folder, ServerOptions(api_port=0, files_port=0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        credentials = asyncio.run_coroutine_threadsafe(server.start(), loop).result(30)
        yield RunningServer(
            data_dir=folder,
            api_url=server.addresses.api_url,
            files_url=server.addresses.files_url,
            config_file=folder / "clearml.conf",
            access_key=credentials.access_key,
            secret_key=credentials.secret_key,
            pid=0,
        )
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

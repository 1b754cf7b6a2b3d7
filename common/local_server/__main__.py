"""The server process: ``python -m common.local_server --data-dir DIR``; `process.py` starts it."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import get_args

import filelock
import psutil

from common.errors import ControlPlaneError, DeployError
from common.local_server.app import LocalServer, RouterMode, ServerOptions
from common.local_server.data_dir import DataDir, write_private
from common.local_server.housekeeping import trim_logs


async def serve(data_dir: Path, options: ServerOptions) -> None:
    """Run the server until SIGTERM or SIGINT; one process per data directory.

    Raises:
        ControlPlaneError: Another process serves the data directory, or the start failed.
    """
    paths = DataDir(data_dir)
    paths.create()
    lock = filelock.FileLock(paths.server_lock)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise ControlPlaneError(
            f"A local server runs on {data_dir} already. See it with"
            " `clearml-deploy local status`, end it with `clearml-deploy local down`."
        ) from error
    server = LocalServer(data_dir, options)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await server.start()
        write_private(paths.server_state, json.dumps(_state(server, options)))
        logging.info("API at %s, files at %s", server.addresses.api_url, server.addresses.files_url)
        trimming = asyncio.create_task(trim_logs(paths))
        await stop.wait()
        trimming.cancel()
    finally:
        await server.stop()
        paths.server_state.unlink(missing_ok=True)
        lock.release()


def _state(server: LocalServer, options: ServerOptions) -> dict[str, object]:
    return {
        "pid": os.getpid(),
        "create_time": psutil.Process().create_time(),
        "api_url": server.addresses.api_url,
        "files_url": server.addresses.files_url,
        "router_url": server.router_url,
        "skipped_ports": list(server.skipped_ports),
        "is_advanced": options.is_advanced,
    }


def main() -> int:
    """Parse the arguments and serve."""
    parser = argparse.ArgumentParser(prog="python -m common.local_server", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--api-port", type=int)
    parser.add_argument("--files-port", type=int)
    parser.add_argument("--advanced", action="store_true")
    parser.add_argument("--route", action="append", default=[])
    parser.add_argument("--router", choices=get_args(RouterMode), default="strip")
    parser.add_argument("--router-port", type=int)
    parser.add_argument("--record", type=Path)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    options = ServerOptions(
        host=args.host,
        api_port=args.api_port,
        files_port=args.files_port,
        is_advanced=args.advanced,
        routes=tuple(args.route),
        router=args.router,
        router_port=args.router_port,
        record=args.record,
    )
    try:
        asyncio.run(serve(args.data_dir.resolve(), options))
    except DeployError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The proxy of the ClearML SDK's HttpRouter, which needs no licence without its external route.

Run by a Python that has ``clearml[router]``, so it imports nothing of this repository.
"""

from __future__ import annotations

import argparse
import signal
from typing import Any

import uvicorn
from clearml.router.proxy import HttpProxy


def main() -> None:
    """Run the proxy until SIGTERM."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--engine", required=True, help="URL of the engine, without a path.")
    given = parser.parse_args()
    serve = uvicorn.run

    def on_loopback(*args: Any, **options: Any) -> None:
        # The SDK has all interfaces fixed.
        serve(*args, **(options | {"host": "127.0.0.1"}))

    uvicorn.run = on_loopback
    # Not HttpRouter.create_local_route: that one wants a task.
    proxy = HttpProxy(port=given.port, access_log=False)
    proxy.add_route("/", given.engine, endpoint_telemetry=False)
    signal.signal(signal.SIGTERM, lambda *_: proxy.base_proxy.stop())
    proxy.base_proxy.uvicorn_subprocess.join()


if __name__ == "__main__":
    main()

"""The gateway of an instance by itself, in front of an engine that is there already.

With all that an instance has in place: a key, a limit of concurrent requests, telemetry. Only what
`common.gateway` offers to the runtime is used, so that it stays the same benchmark whatever is inside.
"""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks.gateway import loop
from common.engines.contract import EngineAddress
from common.gateway.app import Gateway
from common.gateway.auth import ApiKeyAuthenticator
from common.gateway.models import GatewaySettings, MemoryView, ModelStatus, ServedModel
from common.telemetry.recorder import Recorder

KEY_VARIABLE = "BENCH_GATEWAY_KEY"
_LOAD_WAIT_S = 60.0
_BODY_BYTES = 64 * 2**20


@dataclass
class ReadyUpstream:
    """An engine that always runs."""

    name: str
    address: EngineAddress
    status: ModelStatus = "ready"
    failure: str | None = None
    memory: MemoryView | None = None

    async def ensure_ready(self, timeout_s: float | None) -> None:
        """Return: it is."""


async def serve(port: int, model: str, address: EngineAddress, limit: int) -> None:
    """Serve one model until SIGTERM."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    settings = GatewaySettings(
        host="127.0.0.1",
        ports=(port,),
        max_body_bytes=_BODY_BYTES,
        load_wait_s=_LOAD_WAIT_S,
        public_url=None,
        task_id=None,
        instance_name="benchmark",
    )
    served = ServedModel(
        name=model,
        upstream=ReadyUpstream(model, address),
        max_concurrent_requests=limit,
        max_input_tokens=None,
        max_total_tokens=None,
        created=0,
    )
    gateway = Gateway(
        settings,
        [served],
        ApiKeyAuthenticator(os.environ[KEY_VARIABLE]),
        Recorder([model]),
        None,
        click.echo,
    )
    await gateway.start()
    try:
        await ended.wait()
    finally:
        await gateway.stop()


@click.command()
@click.option("--port", type=int, required=True)
@click.option("--model", required=True)
@click.option("--engine-port", type=int, help="Where the engine listens.")
@click.option("--engine-socket", type=click.Path(path_type=Path), help="The same: a Unix socket.")
@click.option("--limit", type=int, default=4096, show_default=True, help="Concurrent requests.")
def main(
    port: int, model: str, engine_port: int | None, engine_socket: Path | None, limit: int
) -> None:
    """Run the gateway in front of one engine; the key is in the environment."""
    address = EngineAddress(socket_path=engine_socket, port=engine_port)
    loop.run(serve(port, model, address, limit))


if __name__ == "__main__":
    main()

"""A ClearML-compatible server for a laptop and for tests: API and files on loopback, one process.

It stands in for a ClearML server; it is not one: no web UI, one company, a few hundred tasks. The
unmodified clearml SDK and `clearml-agent` work with it.

Public interface::

    start_background(data_dir: Path, *, host="127.0.0.1", api_port=None, files_port=None,
                     advanced=False, routes=(), router="strip", router_port=None,
                     agent_queue: str | None = "default", record=None) -> RunningServer
    wait_for_agent(server: RunningServer, timeout_s=30.0) -> None
    running(data_dir: Path) -> RunningServer | None
    stop(data_dir: Path) -> bool
    add_user(data_dir: Path, name: str) -> dict        id, name, access_key, secret_key
    restrict(data_dir: Path, project: str, readers: Sequence[str] | None) -> None
    default_data_dir() -> Path

    RunningServer: data_dir, api_url, files_url, config_file, access_key, secret_key, pid,
        agent_pid, agent_queue, worker, skipped_ports, was_running, router_url, environment, client()

    LocalServer(data_dir, ServerOptions(...)): async start(), stop(), for use in one's own loop

All but `LocalServer` block: call them outside an event loop or in a thread.
"""

from common.local_server.administration import add_user, restrict
from common.local_server.app import LocalServer, ServerOptions
from common.local_server.data_dir import default_data_dir
from common.local_server.process import (
    RunningServer,
    running,
    start_background,
    stop,
    wait_for_agent,
)

__all__ = [
    "LocalServer",
    "RunningServer",
    "ServerOptions",
    "add_user",
    "default_data_dir",
    "restrict",
    "running",
    "start_background",
    "stop",
    "wait_for_agent",
]

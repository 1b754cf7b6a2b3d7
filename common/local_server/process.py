"""The server as a background process of one data directory: start, find, stop."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import filelock
import psutil

import common
from common.errors import ControlPlaneError
from common.local_server import agent as agents
from common.local_server import processes
from common.local_server.app import RouterMode
from common.local_server.client import ServerClient
from common.local_server.config import environment
from common.local_server.credentials import load_or_create
from common.local_server.data_dir import DataDir

_START_TIMEOUT_S: Final = 30.0
_STOP_GRACE_S: Final = 8.0
_COMMAND_LOCK_S: Final = 60.0


@dataclass(frozen=True, repr=False)
class RunningServer:
    """A live local server.

    Attributes:
        data_dir: Where its state is.
        api_url: Address of the API server.
        files_url: Address of the file server.
        config_file: The `clearml.conf` that points the SDK here.
        access_key: The owner's key.
        secret_key: The owner's secret.
        pid: The server process.
        agent_pid: The agent process, None without one.
        agent_queue: The agent's queue, None without one.
        worker: The agent's name on the server, None without one.
        skipped_ports: Ports that were in use at the start.
        was_running: It was there before this call.
        router_url: Address of the router of the advanced feature set; empty without one.
    """

    data_dir: Path
    api_url: str
    files_url: str
    config_file: Path
    access_key: str
    secret_key: str
    pid: int
    agent_pid: int | None = None
    agent_queue: str | None = None
    worker: str | None = None
    skipped_ports: tuple[int, ...] = ()
    was_running: bool = False
    router_url: str = ""

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables for a process that is to use this server."""
        return environment(DataDir(self.data_dir))

    def client(self) -> ServerClient:
        """A blocking client with the owner's keys; close it, or use it in a `with`."""
        return ServerClient(self.api_url, self.access_key, self.secret_key)


def start_background(
    data_dir: Path,
    *,
    host: str = "127.0.0.1",
    api_port: int | None = None,
    files_port: int | None = None,
    advanced: bool = False,
    routes: tuple[str, ...] = (),
    router: RouterMode = "strip",
    router_port: int | None = None,
    agent_queue: str | None = "default",
    record: Path | None = None,
) -> RunningServer:
    """Start the server of a data directory, and an agent, unless they run already.

    Returns when the server answers; the agent may need two more seconds (`wait_for_agent`).

    Args:
        data_dir: State and files; created if need be.
        host: Address to bind.
        api_port: Wanted port; ports in use are stepped over.
        files_port: As `api_port`, for the files.
        advanced: Offer the advanced feature set.
        routes: Static routes of the advanced feature set.
        router: Whether its router strips a route's part of the path or keeps it, or is off.
        router_port: As `api_port`, for the router.
        agent_queue: Queue for an agent, None for no agent.
        record: File that gets every call and answer (tests).

    Raises:
        ControlPlaneError: The server or the agent can not be started.
    """
    paths = DataDir(data_dir.expanduser().resolve())
    paths.create()
    with _command_lock(paths):
        was_running = _server_state(paths) is not None
        if not was_running:
            argv = ["--data-dir", str(paths.root), "--host", host]
            argv += ["--api-port", str(api_port)] if api_port is not None else []
            argv += ["--files-port", str(files_port)] if files_port is not None else []
            argv += ["--advanced"] if advanced else []
            argv += [part for route in routes for part in ("--route", route)]
            argv += ["--router", router]
            argv += ["--router-port", str(router_port)] if router_port is not None else []
            argv += ["--record", str(record)] if record else []
            _start_server(paths, argv)
        server = _describe(paths, was_running=was_running)
        assert server is not None  # it just answered
        if agent_queue is not None:
            _ensure_agent(paths, agent_queue, server)
            server = _describe(paths, was_running=was_running)
            assert server is not None
    return server


def wait_for_agent(server: RunningServer, timeout_s: float = 30.0) -> None:
    """Wait until the agent of a server has registered.

    Raises:
        ControlPlaneError: There is no agent, it ended, or it did not register in time.
    """
    paths = DataDir(server.data_dir)
    agent = agents.running_agent(paths)
    if agent is None:
        raise ControlPlaneError(
            "No agent runs on the local server. Its last lines:\n"
            + processes.last_lines(paths.agent_log)
        )
    with server.client() as client:
        agents.wait_for_agent(paths, agent, client, timeout_s)


def running(data_dir: Path) -> RunningServer | None:
    """The server of a data directory, None if none runs."""
    return _describe(DataDir(data_dir.expanduser().resolve()), was_running=True)


def stop(data_dir: Path) -> bool:
    """End the agent, its task and the server, and wait; False if nothing ran."""
    paths = DataDir(data_dir.expanduser().resolve())
    if not paths.root.exists():
        return False
    with _command_lock(paths):
        server = _describe(paths, was_running=True)
        if server is None:
            return agents.stop_agent(paths, None)
        with server.client() as client:
            agents.stop_agent(paths, client)
        processes.end_process(psutil.Process(server.pid), _STOP_GRACE_S)
        processes.reap(server.pid)
        paths.server_state.unlink(missing_ok=True)
    return True


def _start_server(paths: DataDir, arguments: list[str]) -> None:
    process = processes.start_detached(
        [sys.executable, "-m", "common.local_server", *arguments],
        log=paths.server_log,
        env=_server_environment(),
        cwd=paths.root,
    )

    def is_settled() -> bool:
        return process.poll() is not None or _server_state(paths) is not None

    try:
        is_in_time = processes.wait_until(is_settled, _START_TIMEOUT_S)
    except BaseException:  # Ctrl-C: nobody would find a server that has not noted itself yet
        process.kill()
        process.wait()
        raise
    if is_in_time and process.poll() is None:
        process.returncode = 0  # it outlives this process: no warning about a child left behind
        return
    if process.poll() is None:
        process.kill()
        process.wait()
    reason = "ended at its start" if is_in_time else f"did not start within {_START_TIMEOUT_S:g} s"
    raise ControlPlaneError(
        f"The local server {reason}. Its last lines in {paths.server_log}:\n"
        + processes.last_lines(paths.server_log)
    )


def _server_environment() -> dict[str, str]:
    # The child must find this very package, installed or not.
    here = str(Path(common.__file__).parent.parent)
    path = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{path}" if path else here}


def _ensure_agent(paths: DataDir, queue: str, server: RunningServer) -> None:
    agent = agents.running_agent(paths)
    if agent is not None and (agent.queue, agent.api_url) == (queue, server.api_url):
        return
    if agent is not None and agent.api_url == server.api_url:
        with server.client() as client:
            task = agents.running_task(agent, client)
        if task is not None:
            raise ControlPlaneError(
                f"The agent runs the task {task} of the queue {agent.queue}, so it cannot be put on the "
                f"queue {queue}. Stop the task first: clearml-deploy stop {task}"
            )
    # Another queue, or a server that came back on another port.
    agents.stop_agent(paths, None)
    agents.start_agent(paths, queue, server.api_url)


def _server_state(paths: DataDir) -> Mapping[str, Any] | None:
    recorded = processes.read_state(paths.server_state)
    return None if recorded is None else recorded.state


def _describe(paths: DataDir, *, was_running: bool) -> RunningServer | None:
    state = _server_state(paths)
    if state is None:
        return None
    credentials = load_or_create(paths)
    agent = agents.running_agent(paths)
    return RunningServer(
        data_dir=paths.root,
        api_url=state["api_url"],
        files_url=state["files_url"],
        config_file=paths.config_file,
        access_key=credentials.access_key,
        secret_key=credentials.secret_key,
        pid=int(state["pid"]),
        agent_pid=agent.pid if agent else None,
        agent_queue=agent.queue if agent else None,
        worker=agent.worker if agent else None,
        skipped_ports=tuple(state["skipped_ports"]),
        was_running=was_running,
        router_url=str(state.get("router_url") or ""),
    )


@contextmanager
def _command_lock(paths: DataDir) -> Iterator[None]:
    lock = filelock.FileLock(paths.command_lock)
    try:
        lock.acquire(timeout=_COMMAND_LOCK_S)
    except filelock.Timeout as error:
        raise ControlPlaneError(
            f"Another command has been starting or stopping the local server of {paths.root} for"
            f" {_COMMAND_LOCK_S:g} s. End it, then try again."
        ) from error
    try:
        yield
    finally:
        lock.release()

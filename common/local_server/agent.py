"""A real `clearml-agent` daemon on the local server, in the Python environment at hand."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from common.errors import ControlPlaneError
from common.local_server import processes
from common.local_server.client import ServerClient
from common.local_server.data_dir import DataDir, write_private

#: Seconds between two looks into the queue, and at the running task's process.
POLL_S: Final = 1.0
_START_TIMEOUT_S: Final = 30.0
#: A task's process gets this long to end by itself after SIGTERM.
_TASK_GRACE_S: Final = 10.0
_AGENT_GRACE_S: Final = 5.0


@dataclass(frozen=True)
class RunningAgent:
    """A live agent.

    Attributes:
        worker: Name under which the server knows it.
        queue: The queue that it serves.
    """

    pid: int
    worker: str
    queue: str
    api_url: str


def worker_name(root: Path) -> str:
    """The same name at each start, and another one for each data directory of this machine."""
    return f"local-{hashlib.sha256(str(root).encode()).hexdigest()[:8]}"


def running_agent(paths: DataDir) -> RunningAgent | None:
    """The agent of a data directory, None if none lives."""
    recorded = processes.read_state(paths.agent_state)
    if recorded is None:
        return None
    state = recorded.state
    return RunningAgent(recorded.pid, state["worker"], state["queue"], state["api_url"])


def start_agent(paths: DataDir, queue: str, api_url: str) -> RunningAgent:
    """Start the agent; it creates the queue if there is none. Returns before it is registered.

    Raises:
        ControlPlaneError: `clearml-agent` is not installed.
    """
    if importlib.util.find_spec("clearml_agent") is None:
        raise ControlPlaneError(
            f"clearml-agent is not installed in the environment of {sys.executable}, so no task can"
            " be run. Install it with `pip install clearml-agent virtualenv`, or start the server"
            " alone with --no-agent."
        )
    worker = worker_name(paths.root)
    argv = [sys.executable, "-u", "-m", "clearml_agent"]
    argv += ["daemon", "--queue", queue, "--create-queue", "--foreground"]
    _write_git_config(paths)
    process = processes.start_detached(
        argv, log=paths.agent_log, env=agent_environment(paths, worker), cwd=paths.agent_home
    )
    try:
        processes.write_state(
            paths.agent_state, process.pid, worker=worker, queue=queue, api_url=api_url
        )
    except BaseException:  # what is not noted could not be stopped
        process.kill()
        process.wait()
        raise
    # Its end is noticed through the state file; the exit status is of no use.
    process.returncode = 0
    return RunningAgent(process.pid, worker, queue, api_url)


def agent_environment(paths: DataDir, worker: str) -> dict[str, str]:
    """The agent's variables: the user's own, without those that point to another server."""
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CLEARML_", "TRAINS_"))
    }
    loopback = "127.0.0.1,localhost,::1"
    for name in ("NO_PROXY", "no_proxy"):
        env[name] = ",".join(filter(None, [env.get(name, ""), loopback]))
    env.update(
        # `python` of a task is this environment's.
        GIT_CONFIG_GLOBAL=str(paths.git_config),
        PATH=os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)]),
        CLEARML_CONFIG_FILE=str(paths.agent_config_file),
        CLEARML_WORKER_ID=worker,
        CLEARML_WORKER_NAME=worker,
        CLEARML_AGENT_SKIP_PYTHON_ENV_INSTALL="1",
        CLEARML_AGENT_QUEUE_POLL_FREQ_SEC=str(POLL_S),
        CLEARML_AGENT_TEMP_STDOUT_FILE_DIR=str(paths.agent_home),
        CLEARML_CACHE_DIR=str(paths.cache / "sdk"),
    )
    return env


def _write_git_config(paths: DataDir) -> None:
    """Give the agent a global git configuration of its own, which reads the user's.

    The agent sets ``safe.directory = *`` in it, which would hold for all the user does with git.
    """
    theirs = os.environ.get("GIT_CONFIG_GLOBAL")
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    included = [theirs] if theirs else [f"{base}/git/config", "~/.gitconfig"]
    # A JSON string is one of git's; what does not exist is passed over.
    lines = [f"[include]\n\tpath = {json.dumps(path, ensure_ascii=False)}" for path in included]
    write_private(paths.git_config, "\n".join(lines) + "\n")


def wait_for_agent(
    paths: DataDir, agent: RunningAgent, client: ServerClient, timeout_s: float = _START_TIMEOUT_S
) -> None:
    """Wait until the agent has registered with the server.

    Raises:
        ControlPlaneError: It ended or did not register in time; its last lines are in the message.
    """

    def is_settled() -> bool:
        processes.reap(agent.pid)
        return running_agent(paths) is None or is_registered(agent, client)

    is_in_time = processes.wait_until(is_settled, timeout_s)
    if not is_in_time or running_agent(paths) is None:
        reason = "ended at its start" if is_in_time else f"did not register within {timeout_s:g} s"
        raise ControlPlaneError(
            f"The agent {reason}. Its last lines in {paths.agent_log}:\n"
            + processes.last_lines(paths.agent_log)
        )


def is_registered(agent: RunningAgent, client: ServerClient) -> bool:
    """Tell whether the server sees the agent."""
    workers = client.call("workers.get_all", last_seen=120)["workers"]
    return any(worker["id"] == agent.worker for worker in workers)


def running_task(agent: RunningAgent, client: ServerClient) -> str | None:
    """ID of the task that the agent runs now, None if it waits for one."""
    for worker in client.call("workers.get_all", last_seen=120)["workers"]:
        if worker["id"] == agent.worker and worker.get("task"):
            return str(worker["task"]["id"])
    return None


def stop_agent(paths: DataDir, client: ServerClient | None) -> bool:
    """End the agent and the task it runs; False if none lived.

    The task gets SIGTERM and time to end by itself; what it left open is marked stopped.
    """
    agent = running_agent(paths)
    if agent is None:
        paths.agent_state.unlink(missing_ok=True)
        return False
    process = psutil.Process(agent.pid)
    below = processes.tree(process)[1:]
    # First the agent: else it would start the next task of the queue.
    processes.end_process(process, _AGENT_GRACE_S)
    processes.reap(agent.pid)
    processes.end_all(below, _TASK_GRACE_S)
    paths.agent_state.unlink(missing_ok=True)
    if client is not None:
        _stop_tasks(client, agent.worker)
    return True


def _stop_tasks(client: ServerClient, worker: str) -> None:
    running = client.call(
        "tasks.get_all", status=["in_progress"], only_fields=["last_worker"], search_hidden=True
    )["tasks"]
    for task in running:
        if task.get("last_worker") == worker:
            client.call(
                "tasks.stopped", task=task["id"], force=True, status_reason="the agent was stopped"
            )
    client.call("workers.unregister", worker=worker)

"""``clearml-deploy local``: the ClearML-compatible local server and its agent.

Data goes to stdout, remarks to stderr, so that ``--json`` output can be read by a program.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from common.cli.errors import ErrorsEndIt

if TYPE_CHECKING:
    from common.local_server import RunningServer
    from common.local_server.app import RouterMode

_LOOPBACK = "127.0.0.1"
_EPILOG = "It stands in for a ClearML server on one machine; see docs/local-server.md."


def _data_dir(_: click.Context, __: click.Parameter, value: Path | None) -> Path:
    from common.local_server import default_data_dir

    return (value or default_data_dir()).expanduser().resolve()


data_dir_option = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    callback=_data_dir,
    envvar="CLEARML_DEPLOY_LOCAL_DIR",
    help="State and files of the server.  [default: ~/.clearml-deploy/local]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group("local", cls=ErrorsEndIt, epilog=_EPILOG)
def local() -> None:
    """A ClearML-compatible server and an agent on this machine."""


@local.command(epilog=_EPILOG)
@data_dir_option
@json_option
@click.option("--host", default=_LOOPBACK, show_default=True, help="Address to listen on.")
@click.option("--api-port", type=click.IntRange(0, 65535), help="API port; the next free one.")
@click.option("--files-port", type=click.IntRange(0, 65535), help="File port; the next free one.")
@click.option("--advanced", is_flag=True, help="Offer the advanced feature set's endpoints.")
@click.option("--route", "routes", multiple=True, help="Static route (with --advanced).")
@click.option(
    "--router",
    type=click.Choice(["strip", "keep", "off"]),
    default="strip",
    show_default=True,
    help="Whether the router takes a route's part off the path; off: none (with --advanced).",
)
@click.option(
    "--router-port", type=click.IntRange(0, 65535), help="Router port; the next free one."
)
@click.option("--agent/--no-agent", default=True, help="Run an agent too.", show_default=True)
@click.option("--queue", default="default", show_default=True, help="The agent's queue.")
@click.option("--foreground", is_flag=True, help="The server alone, until Ctrl-C.")
def up(
    data_dir: Path,
    as_json: bool,
    host: str,
    api_port: int | None,
    files_port: int | None,
    advanced: bool,
    routes: tuple[str, ...],
    router: RouterMode,
    router_port: int | None,
    agent: bool,
    queue: str,
    foreground: bool,
) -> None:
    """Start the server, and an agent, in the background; wait until they answer.

    It prints what to set in a shell, so that the ClearML SDK and this program use it.

    \b
    Examples:
      clearml-deploy local up
      clearml-deploy local up --queue gpu --data-dir ./clearml
    """
    from common.local_server import start_background, wait_for_agent

    if foreground:
        from common.local_server.app import ServerOptions

        options = ServerOptions(host, api_port, files_port, advanced, routes, router, router_port)
        _serve_in_foreground(data_dir, options)
        return
    server = start_background(
        data_dir,
        host=host,
        api_port=api_port,
        files_port=files_port,
        advanced=advanced,
        routes=routes,
        router=router,
        router_port=router_port,
        agent_queue=queue if agent else None,
    )
    if agent:
        wait_for_agent(server)
    if server.was_running:
        click.echo(f"The local server runs already (process {server.pid}).", err=True)
        if host != _LOOPBACK or api_port or files_port or advanced or routes:
            click.echo("It keeps its addresses and features: `local down` first.", err=True)
    else:
        for port in server.skipped_ports:
            click.echo(f"Port {port} is in use; took the next free one.", err=True)
        if host not in (_LOOPBACK, "localhost", "::1"):
            click.echo(f"Listening on {host}: plain HTTP, so for a trusted network only.", err=True)
    if as_json:
        click.echo(json.dumps(_as_dict(server)))
        return
    _print_server(server)


@local.command(epilog=_EPILOG)
@data_dir_option
@json_option
def down(data_dir: Path, as_json: bool) -> None:
    """Stop the agent, its task and the server, and wait until they are gone.

    Data stays: the next `up` goes on with it.

    \b
    Example:
      clearml-deploy local down
    """
    from common.local_server import stop

    was_running = stop(data_dir)
    if as_json:
        click.echo(json.dumps({"was_running": was_running}))
    else:
        click.echo("Stopped." if was_running else f"No local server ran on {data_dir}.")


@local.command(epilog=_EPILOG)
@data_dir_option
@json_option
def status(data_dir: Path, as_json: bool) -> None:
    """Tell what runs: server, agent, queues, tasks. Exit code 1 if the server does not.

    \b
    Example:
      clearml-deploy local status --json
    """
    from common.local_server import running

    server = running(data_dir)
    if server is None:
        if as_json:
            click.echo(json.dumps({"running": False, "data_dir": str(data_dir)}))
        else:
            click.echo(f"No local server runs on {data_dir}. Start it: clearml-deploy local up")
        sys.exit(1)
    state = _state(server)
    if as_json:
        click.echo(json.dumps({"running": True, **_as_dict(server), **state}))
        return
    _print_server(server)
    _print_state(server, state)


@local.group()
def user() -> None:
    """Users beside the owner, to try out who may read what."""


@user.command("add")
@click.argument("name")
@data_dir_option
@json_option
def add_user(name: str, data_dir: Path, as_json: bool) -> None:
    """Create a user and print the new credentials, once.

    \b
    Example:
      clearml-deploy local user add guest
    """
    from common.local_server import add_user as add

    created = add(data_dir, name)
    if as_json:
        click.echo(json.dumps(created))
        return
    click.echo(f"User {created['name']} ({created['id']}). The secret is not shown again:")
    click.echo(f"  CLEARML_API_ACCESS_KEY={created['access_key']}")
    click.echo(f"  CLEARML_API_SECRET_KEY={created['secret_key']}")


@local.command()
@click.argument("project")
@click.option("--readers", default="", help="Users who may read it, separated by commas.")
@click.option("--everybody", is_flag=True, help="Lift the limit.")
@data_dir_option
def restrict(project: str, readers: str, everybody: bool, data_dir: Path) -> None:
    """Let only the owner and the named users read PROJECT and the projects below it.

    \b
    Examples:
      clearml-deploy local restrict "LLM services" --readers alice,bob
      clearml-deploy local restrict "LLM services" --everybody
    """
    from common.local_server import restrict as set_readers

    names = [name.strip() for name in readers.split(",") if name.strip()]
    if everybody and names:
        raise click.UsageError("--everybody and --readers exclude each other.")
    set_readers(data_dir, project, None if everybody else names)
    allowed = "everybody" if everybody else ", ".join(["the owner", *names])
    click.echo(f"{project}: {allowed} may read it.")


def _serve_in_foreground(data_dir: Path, options: Any) -> None:
    import logging

    from common.local_server.__main__ import serve

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(serve(data_dir, options))


def _as_dict(server: RunningServer) -> dict[str, Any]:
    return {
        "data_dir": str(server.data_dir),
        "api_url": server.api_url,
        "router_url": server.router_url,
        "files_url": server.files_url,
        "config_file": str(server.config_file),
        "environment": dict(server.environment),
        "pid": server.pid,
        "agent_pid": server.agent_pid,
        "agent_queue": server.agent_queue,
        "worker": server.worker,
        "skipped_ports": list(server.skipped_ports),
        "was_running": server.was_running,
    }


def _state(server: RunningServer) -> dict[str, Any]:
    with server.client() as client:
        workers = client.call("workers.get_all")["workers"]
        queues = client.call("queues.get_all")["queues"]
        tasks = client.call("tasks.get_all", only_fields=["status"], search_hidden=True)["tasks"]
    counts: dict[str, int] = {}
    for task in tasks:
        counts[task["status"]] = counts.get(task["status"], 0) + 1
    return {
        "workers": [
            {"id": worker["id"], "task": (worker.get("task") or {}).get("id")} for worker in workers
        ],
        "queues": {queue["name"]: len(queue["entries"]) for queue in queues},
        "tasks": counts,
    }


def _print_server(server: RunningServer) -> None:
    click.echo(f"API      {server.api_url}")
    click.echo(f"Files    {server.files_url}")
    if server.router_url:
        click.echo(f"Router   {server.router_url}")
    click.echo(f"Config   {server.config_file}")
    if server.agent_pid:
        click.echo(f"Agent    {server.worker} on queue {server.agent_queue}")
    else:
        click.echo("Agent    none")
    click.echo("\nTo use it in a shell:")
    for name, value in server.environment.items():
        click.echo(f"  export {name}={shlex.quote(value)}")


def _print_state(server: RunningServer, state: dict[str, Any]) -> None:
    seen = {worker["id"]: worker["task"] for worker in state["workers"]}
    click.echo("")
    if server.worker and server.worker not in seen:
        click.echo(f"Agent {server.worker} lives but has not reported.")
    for worker, task in seen.items():
        click.echo(f"Worker   {worker}: {f'runs {task}' if task else 'idle'}")
    for name, waiting in state["queues"].items():
        click.echo(f"Queue    {name}: {waiting} waiting")
    tasks = ", ".join(f"{count} {status}" for status, count in sorted(state["tasks"].items()))
    click.echo(f"Tasks    {tasks or 'none'}")


if __name__ == "__main__":
    local(prog_name="clearml-deploy local")

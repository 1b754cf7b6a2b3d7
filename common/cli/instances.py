"""``list``, ``status``, ``logs``, ``stop`` and ``open``: the instances on any ClearML server."""

from __future__ import annotations

import json
import sys
import time
import webbrowser
from collections.abc import Iterable, Mapping, Sequence

import click
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from common.clearml.api import ClearMLApi
from common.cli.inputs import APP_NAMES
from common.cli.progress import show_stopping
from common.errors import UserError
from common.launch.follow import Followed
from common.launch.instances import Instance, list_instances, read_instance
from common.launch.logs import LogLine, TaskLog, follow_log
from common.launch.stop import stop_task

_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command("list")
@click.option("--project", default="", help="Only those of this project and the ones below it.")
@click.option("--app", "app_name", type=click.Choice(APP_NAMES), help="Only those of this app.")
@click.option("--all", "ended", is_flag=True, help="Also those that have ended, and drafts.")
@_json_option
def list_(project: str, app_name: str | None, ended: bool, as_json: bool) -> None:
    """List the instances that wait or run on the configured server, the newest first.

    \b
    Examples:
      clearml-deploy list
      clearml-deploy list --project "LLM services" --all
      clearml-deploy list --app vllm --json
    """
    found = list_instances(ClearMLApi(), project=project, app=app_name or "", ended=ended)
    if as_json:
        click.echo(json.dumps([i.record() for i in found], indent=2, ensure_ascii=False))
        return
    if not found:
        where = f' in "{project}"' if project else ""
        click.echo(f"No instance waits or runs{where}." if not ended else f"No instance{where}.")
        return
    _print_instances(found, Console(highlight=False))
    for instance in found:
        if instance.remark:
            click.echo(f"{instance.id}: {instance.remark}")


@click.command()
@click.argument("task_id")
@_json_option
def status(task_id: str, as_json: bool) -> None:
    """Show the instance TASK_ID: what it does, its models and endpoints, what it waits for.

    \b
    Examples:
      clearml-deploy status TASK_ID
      clearml-deploy status TASK_ID --json | jq -r .endpoint
    """
    instance = read_instance(ClearMLApi(), task_id)
    if as_json:
        click.echo(json.dumps(instance.record(), indent=2, ensure_ascii=False))
        return
    state = instance.state
    click.echo(f"{instance.status} (task {state.task_status})  {state.reason}".rstrip())
    if instance.remark:
        click.echo(instance.remark)
    _print_facts({"Name": instance.name, **_facts(instance), "ClearML": instance.web_url})
    _print_models(instance)


@click.command()
@click.argument("task_id")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until the task ends.")
@click.option(
    "--tail", type=click.IntRange(min=0), help="Only the last lines, so many; default: all."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each line.")
def logs(task_id: str, follow: bool, tail: int | None, as_json: bool) -> None:
    """Print the console of TASK_ID as the server has it.

    \b
    Examples:
      clearml-deploy logs TASK_ID --tail 50
      clearml-deploy logs -f TASK_ID
    """
    api = ClearMLApi()
    instance = read_instance(api, task_id)
    log = TaskLog(api, task_id)
    try:
        _print_lines(log.new() if tail is None else log.tail(tail), as_json)
        remark = "It is a draft and has no console." if _is_draft(instance) else instance.remark
        if remark and not as_json:
            click.echo(remark, err=True)
        if follow:
            _follow(api, log, task_id, as_json)
    except KeyboardInterrupt:
        sys.exit(130)


@click.command()
@click.argument("task_id")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=120.0,
    show_default=True,
    help="Seconds to wait for its end.",
)
@_json_option
def stop(task_id: str, timeout: float, as_json: bool) -> None:
    """Stop the instance TASK_ID and wait: the requests in flight finish first.

    They may take as long as its General/drain_seconds says. Exit code 1 if it still drains after
    --timeout; it stops all the same.

    \b
    Examples:
      clearml-deploy stop TASK_ID
      clearml-deploy stop TASK_ID --timeout 600
    """
    api = ClearMLApi()
    instance = read_instance(api, task_id)
    if instance.state.stage == "ready":
        limit = f"up to {instance.drain_seconds} s" if instance.drain_seconds else "time"
        click.echo(f"Requests in flight have {limit} to finish (General/drain_seconds).", err=True)
    started = time.monotonic()
    log = TaskLog(api, task_id)
    log.tail(0)
    with show_stopping(log) as show:
        state = stop_task(
            api,
            task_id,
            reason="stopped by clearml-deploy stop",
            timeout_s=timeout,
            on_state=show,
        )
    is_over = state.stage == "ended" or state.task_status == "created"
    if as_json:
        record = {
            "id": task_id,
            "ended": is_over,
            "task_status": state.task_status,
            "seconds": round(time.monotonic() - started, 1),
        }
        click.echo(json.dumps(record, indent=2))
    elif is_over:
        click.echo(f"{task_id} {'is a draft' if _is_draft(instance) else state.task_status}")
    if not is_over:
        click.echo(f"{task_id} is still draining after {timeout:g} s", err=True)
        sys.exit(1)


@click.command("open")
@click.argument("task_id")
@click.option("--endpoint", is_flag=True, help="The instance's own page instead of the task's.")
@click.option("--print", "print_only", is_flag=True, help="Only print the address.")
@_json_option
def open_(task_id: str, endpoint: bool, print_only: bool, as_json: bool) -> None:
    """Open the task of TASK_ID in the ClearML UI, or the page that the instance serves.

    The address is printed; a browser is opened only from a terminal.

    \b
    Examples:
      clearml-deploy open TASK_ID
      clearml-deploy open TASK_ID --endpoint --print
    """
    instance = read_instance(ClearMLApi(), task_id)
    if as_json:
        click.echo(json.dumps({"task": instance.web_url, "endpoint": instance.endpoint}, indent=2))
        return
    address = instance.endpoint if endpoint else instance.web_url
    if not address:
        raise UserError(f"The instance {task_id} has no page now: it is {instance.status}.")
    click.echo(address)
    if not print_only and sys.stdout.isatty():
        webbrowser.open(address)


def _is_draft(instance: Instance) -> bool:
    return instance.state.task_status == "created"


def _print_instances(instances: Sequence[Instance], console: Console) -> None:
    """Print a table, or where its lines would have to be broken, a few lines for each instance."""
    table = _table(instances)
    if not console.is_terminal:
        console.width = 400  # a pipe has none: nothing is cut there
    unbound = console.options.update(width=10_000)
    if Measurement.get(console, unbound, table).maximum <= console.width:
        console.print(table)
        return
    for instance in instances:
        console.print(Text(f"{instance.name}  {instance.status}", style="bold"))
        _print_facts({"Task": instance.id, **_facts(instance)})
        _print_models(instance)


def _table(instances: Iterable[Instance]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    titles = ("Task", "App", "Name", "Status", "Idle", "Models", "Endpoint", "Queue", "Worker")
    for title in titles:
        table.add_column(title, no_wrap=True)
    for instance in instances:
        models = "\n".join(
            f"{model['name']} ({model.get('status') or '?'})" for model in instance.state.models
        )
        cells = (
            instance.id,
            instance.app,
            instance.name,
            instance.status,
            instance.idle,
            models,
            instance.endpoint,
            instance.queue,
            instance.worker,
        )
        table.add_row(*map(Text, cells))
    return table


def _facts(instance: Instance) -> dict[str, str]:
    return {
        "App": instance.app,
        "Project": instance.project,
        "Queue": instance.queue,
        "Worker": instance.worker,
        "Idle": instance.idle,
        "Endpoint": instance.endpoint,
    }


def _print_facts(facts: Mapping[str, str]) -> None:
    for title, value in facts.items():
        if value:
            click.echo(f"{title:<9} {value}")


def _print_models(instance: Instance) -> None:
    for model in instance.state.models:
        click.echo(f"  {model['name']}  {model.get('status', '')}  {model['url']}".rstrip())


def _follow(api: ClearMLApi, log: TaskLog, task_id: str, as_json: bool) -> None:
    for item in follow_log(api, log, task_id):
        if isinstance(item, Followed):
            reason = f": {item.reason}" if item.reason else ""
            click.echo(f"The task has ended ({item.task_status}){reason}", err=True)
        else:
            _print_lines([item], as_json)


def _print_lines(lines: Iterable[LogLine], as_json: bool) -> None:
    for line in lines:
        click.echo(json.dumps(line.record(), ensure_ascii=False) if as_json else line.text)

"""``key``, ``status`` and ``stop``: an instance by its task ID, on any ClearML server."""

from __future__ import annotations

import json
import sys

import click

from common.clearml.api import ClearMLApi
from common.errors import UserError
from common.launch.follow import read_task
from common.launch.stop import stop_task
from common.runtime.offline_keys import read_key


@click.command()
@click.argument("task_id")
def key(task_id: str) -> None:
    """Print the API key that the instance TASK_ID generated or was given at its start."""
    found = read_key(task_id)
    if task_id.startswith("offline-") and found is None:
        raise UserError(f"No instance {task_id} runs on this machine for this user.")
    if found is None:
        state = read_task(ClearMLApi(), task_id)
        found = state.given_key or state.status.get("api_key")
        if not found and state.stage in ("queued", "picked up"):
            raise UserError(
                f"The task {task_id} is {state.stage}: its key is made when it starts to serve."
            )
        if not found:
            raise UserError(
                f"The task {task_id} has no key: it ended before it served, or has General/auth = none."
            )
    click.echo(found)


@click.command()
@click.argument("task_id")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(task_id: str, as_json: bool) -> None:
    """Show the state of the instance TASK_ID."""
    state = read_task(ClearMLApi(), task_id)
    shown = {name: value for name, value in state.status.items() if name != "api_key"}
    if as_json:
        record = {"stage": state.stage, "task_status": state.task_status, **shown}
        record["models"] = list(state.models)  # type: ignore[assignment]
        click.echo(json.dumps(record, indent=2, ensure_ascii=False))
        return
    click.echo(
        f"{shown.get('status', state.stage)} (task {state.task_status})  {state.reason}".rstrip()
    )
    for model in state.models:
        click.echo(f"  {model['name']}  {model['status']}  {model['url']}")


@click.command()
@click.argument("task_id")
@click.option("--timeout", default=120.0, show_default=True, help="Seconds to wait for its end.")
def stop(task_id: str, timeout: float) -> None:
    """Stop the instance TASK_ID: requests in flight finish first (General/drain_seconds)."""
    state = stop_task(
        ClearMLApi(), task_id, reason="stopped by clearml-deploy stop", timeout_s=timeout
    )
    if state.stage == "ended" or state.task_status == "created":
        click.echo(f"{task_id} {state.task_status}")
        return
    click.echo(f"{task_id} is still draining after {timeout:g} s", err=True)
    sys.exit(1)

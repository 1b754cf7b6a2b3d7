"""``clearml-deploy keys``: further API keys, in a key file on the worker or for a task's configuration."""

from __future__ import annotations

import json
import os
import re
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click

from common.gateway.key_file import (
    KEY_FILE_VARIABLE,
    add_key,
    default_key_file,
    list_keys,
    revoke_key,
)
from common.gateway.keys import KeyEntry, KeyLimits, Role, entry_to_json, make_entry
from common.runtime.access import KEYS_CONFIGURATION

_FILE_OPTION = click.option(
    "--file",
    "key_file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help=f"Key file; default: {KEY_FILE_VARIABLE}, else ~/.clearml-deploy/keys.json.",
)

_UNITS = {"h": 3600, "d": 86400, "w": 7 * 86400}


def _when(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Read a time in the future, a duration or a day of UTC, as Unix time in seconds."""
    if value is None:
        return None
    text = value.strip().lower()
    duration = re.fullmatch(r"([1-9]\d{0,4})([hdw])", text)
    if duration:
        return int(time.time()) + int(duration[1]) * _UNITS[duration[2]]
    try:
        day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=timezone.utc)
    except ValueError:
        message = f"{value!r} is neither a duration such as 30d nor a day such as 2027-01-01."
        raise click.BadParameter(message) from None
    if day.timestamp() <= time.time():
        raise click.BadParameter(f"{value} is over.")
    return int(day.timestamp())


@click.group()
def keys() -> None:
    """Create, list and revoke API keys for the instances of this machine.

    They work beside an instance's own key, at once and without a restart. Only hashes are kept.
    """


@keys.command()
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    help="What it may do: use the models (the default), read the metrics alone, or also operate the models.",
)
@click.option("--admin", is_flag=True, help="The same as --role admin.")
@click.option(
    "--model", "models", multiple=True, help="Endpoint it may use; again for more. Default: all."
)
@click.option(
    "--requests-per-minute",
    type=click.IntRange(min=1),
    help="Requests that may begin in any 60 seconds.",
)
@click.option(
    "--tokens-per-minute",
    type=click.IntRange(min=1),
    help="Tokens of prompts and answers in any 60 seconds.",
)
@click.option("--concurrent", type=click.IntRange(min=1), help="Requests at the same time.")
@click.option(
    "--priority",
    type=click.IntRange(-100, 100),
    default=0,
    help="Higher goes first where requests wait for a model. Default: 0.",
)
@click.option(
    "--expires",
    callback=_when,
    metavar="WHEN",
    help="When it ends: after 12h, 30d, 4w, or on a day of UTC.",
)
@click.option(
    "--print-entry",
    is_flag=True,
    help="Write no file: print the hashed entry, for a task's configuration object, and the key on stderr.",
)
@_FILE_OPTION
def create(
    name: str,
    role: str | None,
    admin: bool,
    models: tuple[str, ...],
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    concurrent: int | None,
    priority: int,
    expires: int | None,
    print_entry: bool,
    key_file: Path | None,
) -> None:
    """Create a key called NAME and print it: it is shown only now.

    \b
    Examples:
      clearml-deploy keys create ci-pipeline --expires 30d
      clearml-deploy keys create batch --model Qwen/Qwen3-8B --requests-per-minute 60 --priority -1
      clearml-deploy keys create prometheus --role metrics
      clearml-deploy keys create operator --role admin
      clearml-deploy keys create team --print-entry
    """
    if admin and role not in (None, Role.ADMIN.value):
        raise click.UsageError(f"--admin and --role {role} contradict each other.")
    if print_entry and key_file is not None:
        raise click.UsageError("--print-entry writes no file: leave --file out.")
    entry, secret = make_entry(
        name,
        Role.ADMIN if admin else Role(role or Role.USE),
        models=models or None,
        limits=KeyLimits(requests_per_minute, tokens_per_minute, concurrent),
        priority=priority,
        expires=expires,
    )
    if not print_entry:
        add_key(_file(key_file), entry)
        click.echo(secret)
        return
    click.echo(json.dumps(entry_to_json(entry)))
    click.echo(f"The key, shown only now: {secret}", err=True)
    click.echo(
        f"Put the entry into the task's configuration object {KEYS_CONFIGURATION!r} before it is launched.",
        err=True,
    )


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_FILE_OPTION
def list_(as_json: bool, key_file: Path | None) -> None:
    """List the keys with what they may do; never the keys themselves.

    \b
    Examples:
      clearml-deploy keys list
      clearml-deploy keys list --json
    """
    entries = list_keys(_file(key_file))
    if as_json:
        click.echo(json.dumps([_shown(entry) for entry in entries], indent=2))
        return
    for entry in entries:
        day = datetime.fromtimestamp(entry.created, tz=timezone.utc).date()
        click.echo("  ".join([entry.id, entry.name, entry.role.value, str(day), *_details(entry)]))


@keys.command()
@click.argument("name")
@_FILE_OPTION
def revoke(name: str, key_file: Path | None) -> None:
    """Revoke the key called NAME (or with this ID): it stops working within a second.

    \b
    Example:
      clearml-deploy keys revoke ci-pipeline
    """
    entry = revoke_key(_file(key_file), name)
    click.echo(f"revoked {entry.name}")


def _shown(entry: KeyEntry) -> dict[str, Any]:
    """An entry for a script: without its hash, which nobody needs."""
    item = entry_to_json(entry)
    del item["sha256"]
    return item


def _details(entry: KeyEntry) -> list[str]:
    """What is not as in every key, in words."""
    limits = entry.limits
    found = []
    if entry.models is not None:
        found.append(f"models: {', '.join(sorted(entry.models))}")
    if limits.requests_per_minute is not None:
        found.append(f"{limits.requests_per_minute} requests/min")
    if limits.tokens_per_minute is not None:
        found.append(f"{limits.tokens_per_minute} tokens/min")
    if limits.concurrent is not None:
        found.append(f"{limits.concurrent} at once")
    if entry.priority:
        found.append(f"priority {entry.priority}")
    if entry.expires is not None:
        end = datetime.fromtimestamp(entry.expires, tz=timezone.utc)
        is_over = entry.expires <= time.time()
        found.append(f"{'expired' if is_over else 'expires'} {end:%Y-%m-%d %H:%M} UTC")
    return found


def _file(given: Path | None) -> Path:
    return given or default_key_file(os.environ)

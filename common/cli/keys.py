"""``clearml-deploy keys``: further API keys, in a key file on the worker."""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from pathlib import Path

import click

from common.gateway.key_file import (
    KEY_FILE_VARIABLE,
    create_key,
    default_key_file,
    list_keys,
    revoke_key,
)
from common.gateway.keys import Role

_FILE_OPTION = click.option(
    "--file",
    "key_file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help=f"Key file; default: {KEY_FILE_VARIABLE}, else ~/.clearml-deploy/keys.json.",
)


@click.group()
def keys() -> None:
    """Create, list and revoke API keys for the instances of this machine.

    They work beside an instance's own key, at once and without a restart. Only hashes are kept.
    """


@keys.command()
@click.argument("name")
@click.option("--admin", is_flag=True, help="The key may also load and unload models.")
@_FILE_OPTION
def create(name: str, admin: bool, key_file: Path | None) -> None:
    """Create a key called NAME and print it: it is shown only now.

    \b
    Examples:
      clearml-deploy keys create ci-pipeline
      clearml-deploy keys create operator --admin
    """
    _, secret = create_key(_file(key_file), name, Role.ADMIN if admin else Role.USE)
    click.echo(secret)


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_FILE_OPTION
def list_(as_json: bool, key_file: Path | None) -> None:
    """List the keys by name, role and date.

    \b
    Example:
      clearml-deploy keys list
    """
    entries = list_keys(_file(key_file))
    if as_json:
        rows = [
            {"id": e.id, "name": e.name, "role": e.role.value, "created": e.created}
            for e in entries
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    for entry in entries:
        day = datetime.fromtimestamp(entry.created, tz=timezone.utc).date()
        click.echo(f"{entry.id}  {entry.name}  {entry.role.value}  {day}")


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


def _file(given: Path | None) -> Path:
    return given or default_key_file(os.environ)

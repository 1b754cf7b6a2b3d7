"""``clearml-deploy cache``: the models on this machine's disk."""

from __future__ import annotations

import json
import time

import click

from common.models.cache import CachedModel, PruneResult, list_cached, prune
from common.models.progress import render_bytes


@click.group("cache")
def cache() -> None:
    """List and remove the models that are cached on this machine."""


@cache.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_command(as_json: bool) -> None:
    """List cached models, most recently used first.

    \b
    Example:
      clearml-deploy cache list
    """
    models = list_cached()
    if as_json:
        click.echo(json.dumps([_as_json(model) for model in models], indent=2))
        return
    if not models:
        click.echo("No model is cached on this machine.")
        return
    now = time.time()
    for model in models:
        note = "in use" if model.is_in_use else _ago(now - model.last_used_at)
        other = "" if model.is_ours else "  (not used by clearml-deploy)"
        revision = f"@{model.revision[:8]}" if model.revision else ""
        size = render_bytes(model.size_bytes)
        click.echo(f"{size:>10}  {note:<14}  {model.origin:<12}  {model.name}{revision}{other}")
    click.echo(f"{render_bytes(_disk_bytes(models)):>10}  in all")


@cache.command("prune")
@click.option(
    "--keep-gib",
    type=click.FloatRange(min=0),
    required=True,
    help="Keep the most recently used models up to this size in GiB.",
)
@click.option("--dry-run", is_flag=True, help="Only tell what would be removed.")
@click.option(
    "--all",
    "all_programs",
    is_flag=True,
    help="Also models in the Hugging Face cache that only other programs have used. Whether one of "
    "those uses a model at this moment cannot be told.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def prune_command(keep_gib: float, dry_run: bool, all_programs: bool, as_json: bool) -> None:
    """Remove the models that were not used for longest. Never one that is in use.

    \b
    Examples:
      clearml-deploy cache prune --keep-gib 200 --dry-run
      clearml-deploy cache prune --keep-gib 0 --all
    """
    result = prune(round(keep_gib * 2**30), dry_run=dry_run, all_programs=all_programs)
    if as_json:
        click.echo(json.dumps(_result_as_json(result, dry_run), indent=2))
        return
    verb = "would remove" if dry_run else "removed"
    for model in result.removed:
        click.echo(f"{verb} {model.name} ({render_bytes(model.size_bytes)}, {model.origin})")
    for model in result.kept_in_use:
        click.echo(f"kept {model.name} ({render_bytes(model.size_bytes)}): in use")
    click.echo(
        f"{'would free' if dry_run else 'freed'} {render_bytes(result.freed_bytes)}, "
        f"{render_bytes(result.left_bytes)} left"
    )


def _result_as_json(result: PruneResult, dry_run: bool) -> dict[str, object]:
    return {
        "dry_run": dry_run,
        "removed": [_as_json(model) for model in result.removed],
        "kept_in_use": [_as_json(model) for model in result.kept_in_use],
        "freed_bytes": result.freed_bytes,
        "left_bytes": result.left_bytes,
    }


def _as_json(model: CachedModel) -> dict[str, object]:
    return {
        "name": model.name,
        "origin": model.origin,
        "revision": model.revision or None,
        "size_bytes": model.size_bytes,
        "last_used_at": model.last_used_at,
        "used_by_clearml_deploy": model.is_ours,
        "in_use": model.is_in_use,
        "files": [str(path) for path in model.files],
    }


def _disk_bytes(models: tuple[CachedModel, ...]) -> int:
    files = {file for model in models for file in model.files}
    return sum(file.stat().st_size for file in files if file.exists())


def _ago(seconds: float) -> str:
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"


if __name__ == "__main__":
    cache()

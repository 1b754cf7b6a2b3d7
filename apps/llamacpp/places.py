"""Where this app keeps what it builds and learns: one folder of the user's, outside any project."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

MARKER = "built.json"
"""Lies in the folder of an engine whose build was finished; one without it is not used."""


def cache_folder(environ: Mapping[str, str]) -> Path:
    """The cache of this program: ``CLEARML_DEPLOY_CACHE``, else under the user's cache folder."""
    if given := environ.get("CLEARML_DEPLOY_CACHE"):
        return Path(given).expanduser()
    base = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "clearml-deploy"


def engines_folder(environ: Mapping[str, str]) -> Path:
    """Where built engines are, a folder for each name and version."""
    return cache_folder(environ) / "engines"


def built_engines(environ: Mapping[str, str]) -> list[Path]:
    """Folders of finished builds of llama-cpp-python, the newest first."""
    markers = engines_folder(environ).glob(f"llama-cpp-python-*/{MARKER}")
    by_age = sorted(markers, key=lambda marker: marker.stat().st_mtime, reverse=True)
    return [marker.parent for marker in by_age]

"""Where engines that this program installed or built are kept: the user's cache, outside any project."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def cache_folder(environ: Mapping[str, str]) -> Path:
    """The cache of this program: ``CLEARML_DEPLOY_CACHE``, else under the user's cache folder."""
    if given := environ.get("CLEARML_DEPLOY_CACHE"):
        return Path(given).expanduser()
    base = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "clearml-deploy"


def engines_folder(environ: Mapping[str, str]) -> Path:
    """Where the engines are, a folder for each name, version and build."""
    return cache_folder(environ) / "engines"

"""Where this app keeps what it builds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from common.engines.places import cache_folder, engines_folder

__all__ = ["MARKER", "built_engines", "cache_folder", "engines_folder"]

MARKER = "built.json"
"""Lies in the folder of an engine whose build was finished; one without it is not used."""


def built_engines(environ: Mapping[str, str]) -> list[Path]:
    """Folders of finished builds of llama-cpp-python, the newest first."""
    markers = engines_folder(environ).glob(f"llama-cpp-python-*/{MARKER}")
    by_age = sorted(markers, key=lambda marker: marker.stat().st_mtime, reverse=True)
    return [marker.parent for marker in by_age]

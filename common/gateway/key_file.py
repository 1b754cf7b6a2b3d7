"""Where the key file of a machine is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

KEY_FILE_VARIABLE = "CLEARML_DEPLOY_KEY_FILE"


def default_key_file(environ: Mapping[str, str]) -> Path:
    """The file that `CLEARML_DEPLOY_KEY_FILE` names, else ``~/.clearml-deploy/keys.json``."""
    named = environ.get(KEY_FILE_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".clearml-deploy" / "keys.json"

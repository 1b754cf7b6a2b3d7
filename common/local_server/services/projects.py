"""The `projects` service. A project named ``a/b`` lives below the project ``a``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from common.local_server import query
from common.local_server.call import MODEL, PROJECT, TASK, Call, Handler
from common.local_server.store import Store
from common.local_server.wire import CallError, JsonDict, iso_time, new_id

FIELDS: Final = frozenset(
    "id name basename description user company created last_update tags system_tags parent"
    " default_output_destination dataset_stats own_models own_tasks stats sub_projects".split()
)
_EDITABLE: Final = ("description", "tags", "system_tags", "default_output_destination")


def find_by_name(store: Store, name: str) -> JsonDict | None:
    """A project by its full name."""
    for project in store.all(PROJECT):
        if project["name"] == name:
            return project
    return None


def ensure(call: Call, name: str) -> str:
    """The id of the project of that name, created (with those above it) if need be."""
    found = find_by_name(call.store, name)
    return found["id"] if found else _create(call, name, {})


def _create(call: Call, name: str, extra: JsonDict) -> str:
    parts = [part.strip() for part in name.split("/")]
    if len(parts[-1]) < 3:
        raise CallError(12, f"Validation error (project name {name!r}: last part cannot be blank)")
    return _put(call, "/".join(parts), extra)


def _put(call: Call, name: str, extra: JsonDict) -> str:
    above = name.rpartition("/")[0]
    parent = None
    if above:
        found = find_by_name(call.store, above)
        parent = found["id"] if found else _put(call, above, {})
    now = iso_time()
    document = {
        "id": new_id(),
        "name": name,
        "basename": name.rpartition("/")[2],
        "description": "",
        "user": call.user.id,
        "company": call.settings.company,
        "created": now,
        "last_update": now,
        "tags": [],
        "system_tags": [],
        **({"parent": parent} if parent else {}),
        **extra,
    }
    call.store.put(PROJECT, document)
    return str(document["id"])


def create(call: Call) -> JsonDict:
    """Create a project; 400/801 if the name is taken."""
    name = call.text("name")
    if find_by_name(call.store, name) is not None:
        raise CallError(801, f"Value is not unique (project {name!r} exists already)", name=name)
    extra = {key: call.data[key] for key in _EDITABLE if call.data.get(key) is not None}
    return {"id": _create(call, name, extra)}


def get_by_id(call: Call) -> JsonDict:
    """One project."""
    return {"project": call.find(PROJECT, call.text("project"))}


def get_all(call: Call) -> JsonDict:
    """Projects by filters; `shallow_search` keeps to the top level or to the given parents."""
    request = dict(call.data)
    found = query.select(call.readable(PROJECT), request, FIELDS)
    if call.flag("shallow_search") and not request.get("parent"):
        found = [project for project in found if not project.get("parent")]
    found, extra = query.page(found, request)
    return {
        "projects": query.project_fields(found, request.get("only_fields"), FIELDS),
        **extra,
    }


def update(call: Call) -> JsonDict:
    """Change a project's fields."""
    project = call.find(PROJECT, call.text("project"))
    fields = {key: call.data[key] for key in _EDITABLE if call.data.get(key) is not None}
    call.store.put(PROJECT, {**project, **fields, "last_update": iso_time()})
    return {"updated": 1, "fields": fields}


def delete(call: Call) -> JsonDict:
    """Delete a project; 400/402 while it holds tasks or models and `force` is not given."""
    project = call.find(PROJECT, call.text("project"))
    held = [
        (kind, document)
        for kind in (TASK, MODEL)
        for document in call.store.all(kind)
        if document.get("project") == project["id"]
    ]
    if held and not call.flag("force"):
        raise CallError(402, f"Project {project['name']!r} has tasks or models; use force")
    for kind, document in held:
        if call.flag("delete_contents"):
            call.events.delete(document["id"])
            call.store.delete(kind, document["id"])
        else:
            document.pop("project")
            call.store.put(kind, document)
    call.store.delete(PROJECT, project["id"])
    return {"deleted": 1, "disassociated_tasks": len(held)}


ENDPOINTS: Final[Mapping[str, Handler]] = MappingProxyType(
    {
        "create": create,
        "get_by_id": get_by_id,
        "get_all": get_all,
        "get_all_ex": get_all,
        "update": update,
        "delete": delete,
    }
)

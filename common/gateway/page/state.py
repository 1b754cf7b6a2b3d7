"""The page's data: what the gateway knows and what the instance adds, as one JSON object (pure)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote

from common.gateway.auth import Identity
from common.gateway.keys import Role
from common.gateway.models import GatewaySettings, MemoryView, ServedModel
from common.telemetry.recorder import ModelSnapshot, Snapshot

UNTITLED = "Model deployment"

Credential = Literal["none", "key", "token"]
"""What clients have to send: nothing, a key of the instance, or a token of a ClearML server."""


def shared_state(
    settings: GatewaySettings,
    models: Sequence[ServedModel],
    snapshot: Snapshot,
    view: Mapping[str, Any] | None,
    *,
    in_flight: Callable[[str], int],
    is_draining: bool,
    started: float,
) -> dict[str, Any]:
    """Return what everybody who may see the page sees alike.

    Args:
        settings: The gateway's.
        models: What is served.
        snapshot: The recorder's totals.
        view: `InstanceView.state`; None: there is no instance around the gateway.
        in_flight: Requests that hold a place at a model, by its name.
        is_draining: The instance is about to end.
        started: When this run began, in Unix time: tells it apart from others at the same address.
    """
    view = view or {}
    details: Mapping[str, Mapping[str, Any]] = view.get("models", {})
    instance = {
        "name": settings.instance_name or UNTITLED,
        "task_id": settings.task_id,
        "public_url": settings.public_url.rstrip("/") if settings.public_url else None,
        "status": _status(models),
        "is_draining": is_draining,
        "started": started,
    }
    return {
        "instance": {**instance, **view.get("instance", {})},
        "models": [
            {
                **_model(model, snapshot.models.get(model.name), in_flight(model.name)),
                **details.get(model.name, {}),
            }
            for model in models
        ],
        "charts": view.get("charts", {}),
        "memory": view.get("memory"),
    }


def own_state(
    shared: Mapping[str, Any],
    identity: Identity,
    console: Mapping[str, Any] | None,
    *,
    credential: Credential,
    has_session: bool,
    has_operations: bool,
    charts_after: float,
) -> dict[str, Any]:
    """Return what one visitor gets.

    Args:
        shared: `shared_state`.
        identity: Who asks.
        console: The lines that this visitor has not got yet; None: none of its business.
        credential: What clients have to send.
        has_session: The visitor has logged in with the page's form.
        has_operations: The instance can load and unload models.
        charts_after: Time of the last point that the visitor has.
    """
    names = identity.models
    return {
        **shared,
        **_memory_for(shared, names),
        "charts": points_after(shared["charts"], charts_after, names),
        "console": console,
        "access": {
            "name": identity.name,
            "credential": credential,
            "can_log_out": has_session,
            "can_operate": has_operations and identity.role is Role.ADMIN,
        },
    }


def _memory_for(shared: Mapping[str, Any], names: frozenset[str] | None) -> dict[str, Any]:
    """The models and moves that a visitor may know of; pools keep their sums.

    A reason may name the model for which another one was moved, so who may use some models only
    gets none.
    """
    if names is None:
        return {"models": shared["models"], "memory": shared["memory"]}
    models = [model for model in shared["models"] if model["name"] in names]
    memory = shared["memory"]
    if memory is not None:
        moves = [{**m, "reason": ""} for m in memory["moves"] if m["model"] in names]
        memory = {**memory, "moves": moves}
    return {
        "models": [
            {**model, "memory": {**model["memory"], "reason": ""}} if model["memory"] else model
            for model in models
        ],
        "memory": memory,
    }


def points_after(
    charts: Mapping[str, Any], after: float, names: frozenset[str] | None
) -> dict[str, Any]:
    """Return a history's points after a time, of these models; its lists are parallel to `times`."""
    times: Sequence[float] = charts.get("times", ())
    first = next((i for i, at in enumerate(times) if at > after), len(times))
    return {
        "every_s": charts.get("every_s"),
        "times": list(times[first:]),
        "models": {
            name: {title: values[first:] for title, values in series.items()}
            for name, series in charts.get("models", {}).items()
            if names is None or name in names
        },
    }


def may_read_console(identity: Identity, credential: Credential) -> bool:
    """Whether a visitor sees the console: engines may write there what other clients sent.

    Who comes with a ClearML token may read the task, and the same lines there.
    """
    return identity.role is Role.ADMIN or credential != "key"


def _status(models: Sequence[ServedModel]) -> str:
    """The instance's status where only its models are known."""
    states = [model.upstream.status for model in models]
    if any(state == "ready" for state in states):
        return "active"
    if states and all(state == "failed" for state in states):
        return "failed"
    return "loading" if "loading" in states else "idle"


def _memory(memory: MemoryView | None) -> dict[str, Any] | None:
    if memory is None:
        return None
    return {
        "tier": memory.tier,
        "moving_to": memory.moving_to,
        "waiting": memory.waiting,
        "pools": dict(memory.bytes_by_pool),
        "reason": memory.reason,
        "priority": memory.priority,
        "is_pinned": memory.is_pinned,
        "can_sleep": memory.can_sleep,
    }


def _model(model: ServedModel, totals: ModelSnapshot | None, in_flight: int) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": model.name,
        "path": f"{quote(model.name, safe='/')}/v1",
        "status": model.upstream.status,
        "failure": model.upstream.failure,
        "progress": "",
        "adapters": list(model.adapters),
        "is_embedding": False,
        "memory_bytes": None,
        "memory": _memory(model.upstream.memory),
        "in_flight": in_flight,
        "limit": model.max_concurrent_requests,
        "waiting": 0,
        "requests": 0,
        "failed": 0,
        "prompt_tokens": 0,
        "generated_tokens": 0,
    }
    if totals is not None:
        entry |= {
            "waiting": totals.waiting,
            "requests": totals.requests,
            "failed": sum(n for (_, status), n in totals.results.items() if status >= 400),
            "prompt_tokens": totals.prompt_tokens,
            "generated_tokens": totals.generated_tokens,
        }
    return entry

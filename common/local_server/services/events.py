"""The `events` service: what runs report, and how it is read back."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from common.local_server import task_status
from common.local_server.call import MODEL, TASK, Call, Handler
from common.local_server.event_log import IMAGE, LOG, PLOT, SCALAR, SINGLE_VALUE_ITERATION
from common.local_server.last_metrics import with_scalar
from common.local_server.wire import CallError, JsonDict, iso_time

TYPES: Final = frozenset({LOG, SCALAR, PLOT, IMAGE, "training_stats_vector"})

#: Points of one curve when the request names no number, as on the real server.
DEFAULT_SAMPLES: Final = 10_000


def add_batch(call: Call) -> JsonDict:
    """Keep a batch of events; the good ones count even when others are refused."""
    lines = call.lines if call.lines is not None else call.data.get("events")
    if not lines:
        raise CallError(17, "Batch contains no items")
    owners: dict[tuple[str, str], JsonDict] = {}
    reasons: dict[str, int] = {}
    added = 0
    for event in lines:
        try:
            _add(call, event, owners)
            added += 1
        except CallError as error:
            reasons[str(error)] = reasons.get(str(error), 0) + 1
    for (kind, _), owner in owners.items():
        call.store.put(kind, {**owner, "last_update": iso_time()})
    if not added:
        raise CallError(131, f"Events not added ({'; '.join(reasons)})")
    return {
        "added": added,
        "errors": len(lines) - added,
        "errors_info": reasons,
    }


def add(call: Call) -> JsonDict:
    """Keep one event."""
    owners: dict[tuple[str, str], JsonDict] = {}
    _add(call, call.data, owners)
    for (kind, _), owner in owners.items():
        call.store.put(kind, {**owner, "last_update": iso_time()})
    return {}


def _add(call: Call, event: Any, owners: dict[tuple[str, str], JsonDict]) -> None:
    if not isinstance(event, dict) or event.get("type") not in TYPES:
        raise CallError(130, "Invalid event type")
    kind = MODEL if event.get("model_event") else TASK
    owner_id = str(event.get("task"))
    key = (kind, owner_id)
    if key not in owners:
        owners[key] = call.find(kind, owner_id)
    owner = owners[key]
    is_locked = owner.get("status") == task_status.PUBLISHED
    if is_locked and not event.get("allow_locked"):
        raise CallError(110, "Invalid task status (the task is published)")
    call.events.add(owner_id, event)
    if event["type"] == SCALAR:
        owner = with_scalar(owner, event)
    iteration = event.get("iter")
    if event["type"] != LOG and isinstance(iteration, int) and iteration > SINGLE_VALUE_ITERATION:
        owner = {**owner, "last_iteration": max(iteration, int(owner.get("last_iteration") or 0))}
    owners[key] = owner


def _owner_id(call: Call, owner_id: str) -> str:
    kind = MODEL if call.flag("model_events") else TASK
    return str(call.find(kind, owner_id)["id"])


def scalar_metrics_iter_histogram(call: Call) -> JsonDict:
    """Curves: ``{metric: {variant: {name, x, y}}}``, thinned to `samples` points."""
    by_time = call.data.get("key") in ("timestamp", "iso_time")
    samples = int(call.data.get("samples") or DEFAULT_SAMPLES)
    wanted = {item["metric"]: item.get("variants") for item in call.data.get("metrics") or ()}
    curves: dict[str, dict[str, JsonDict]] = {}
    for metric, variant, iteration, timestamp, value in call.events.scalars(
        _owner_id(call, call.text("task"))
    ):
        if wanted and (metric not in wanted or variant not in (wanted[metric] or [variant])):
            continue
        curve = curves.setdefault(metric, {}).setdefault(
            variant, {"name": variant, "x": [], "y": []}
        )
        x: Any = timestamp if by_time else iteration
        curve["x"].append(iso_time(x / 1000) if call.data.get("key") == "iso_time" else x)
        curve["y"].append(value)
    return {
        metric: {variant: _thinned(curve, samples) for variant, curve in variants.items()}
        for metric, variants in curves.items()
    }


def _thinned(curve: JsonDict, samples: int) -> JsonDict:
    """Every n-th point and the last, so that at most about `samples` remain."""
    step = max(1, -(-len(curve["x"]) // max(samples, 1)))
    if step == 1:
        return curve
    return {
        "name": curve["name"],
        "x": [*curve["x"][:-1:step], curve["x"][-1]],
        "y": [*curve["y"][:-1:step], curve["y"][-1]],
    }


def get_task_single_value_metrics(call: Call) -> JsonDict:
    """Single values of tasks."""
    answer = []
    for task_id in call.items("tasks"):
        values = [
            {key: event[key] for key in ("metric", "variant", "value", "timestamp") if key in event}
            for event in call.events.single_values(_owner_id(call, task_id))
        ]
        answer.append({"task": task_id, "values": values})
    return {"tasks": answer}


def get_task_log(call: Call) -> JsonDict:
    """Console lines from a moment on; without one from the end (or the start) of the log."""
    owner = _owner_id(call, call.text("task"))
    earlier = call.flag("navigate_earlier", default=True)
    events = call.events.log_lines(
        owner,
        earlier=earlier,
        from_ms=call.data.get("from_timestamp"),
        size=int(call.data.get("batch_size") or 500),
    )
    walks = "desc" if earlier else "asc"
    if (call.data.get("order") or walks) != walks:
        events.reverse()
    return {"events": events, "returned": len(events), "total": call.events.count(owner, LOG)}


def get_task_plots(call: Call) -> JsonDict:
    """Plots of the last `iters` iterations of each metric and variant."""
    plots = _last_iterations(call, PLOT, _owner_id(call, call.text("task")))
    wanted = {item["metric"]: item.get("variants") for item in call.data.get("metrics") or ()}
    if wanted:
        plots = [
            plot
            for plot in plots
            if plot["metric"] in wanted
            and plot["variant"] in (wanted[plot["metric"]] or [plot["variant"]])
        ]
    return {"plots": plots, "returned": len(plots), "total": len(plots)}


def _last_iterations(call: Call, kind: str, owner: str) -> list[JsonDict]:
    iters = int(call.data.get("iters") or 1)
    kept: list[JsonDict] = []
    seen: dict[tuple[str, str], int] = {}
    for event in call.events.of_type(owner, kind):
        key = (str(event.get("metric")), str(event.get("variant")))
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= iters:
            kept.append(event)
    return kept


def get_task_events(call: Call) -> JsonDict:
    """Events of one type in pages; the scroll id is the position."""
    owner = _owner_id(call, call.text("task"))
    kind = str(call.data.get("event_type") or LOG)
    start = int(call.data.get("scroll_id") or 0)
    events = call.events.page(
        owner,
        kind,
        newest_first=call.data.get("order") != "asc",
        size=int(call.data.get("batch_size") or 500),
        offset=start,
    )
    return {
        "events": events,
        "returned": len(events),
        "total": call.events.count(owner, kind),
        "scroll_id": str(start + len(events)),
    }


def debug_images(call: Call) -> JsonDict:
    """Debug images of the last `iters` iterations, grouped by metric and iteration."""
    answer = []
    for wanted in call.items("metrics"):
        owner = _owner_id(call, str(wanted.get("task")))
        iterations: dict[int, list[JsonDict]] = {}
        for event in _last_iterations(call, IMAGE, owner):
            if wanted.get("metric") in (None, event.get("metric")):
                iterations.setdefault(int(event.get("iter") or 0), []).append(event)
        answer.append(
            {
                "task": owner,
                "metric": wanted.get("metric"),
                "iterations": [
                    {"iter": number, "events": iterations[number]}
                    for number in sorted(iterations, reverse=True)
                ],
            }
        )
    return {"metrics": answer, "scroll_id": "0"}


ENDPOINTS: Final[Mapping[str, Handler]] = MappingProxyType(
    {
        "add": add,
        "add_batch": add_batch,
        "scalar_metrics_iter_histogram": scalar_metrics_iter_histogram,
        "get_task_single_value_metrics": get_task_single_value_metrics,
        "get_task_log": get_task_log,
        "get_task_plots": get_task_plots,
        "get_task_events": get_task_events,
        "debug_images": debug_images,
    }
)

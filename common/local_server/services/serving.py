"""The `serving` service: live model endpoints. An entry expires when no report follows in time."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from common.local_server.call import SERVING, Call, Handler
from common.local_server.wire import CallError, JsonDict, iso_time

TIMEOUT_S: Final = 600

#: Seconds; the real server draws no finer chart.
MIN_INTERVAL_S: Final = 40

#: History is kept for a week.
HISTORY_S: Final = 7 * 24 * 3600

#: Metric of the history -> (path in a report, does the total add up over instances).
METRICS: Final[Mapping[str, tuple[str, bool]]] = MappingProxyType(
    {
        "requests": ("requests_num", True),
        "requests_min": ("requests_min", True),
        "latency_ms": ("latency_ms", False),
        "cpu_count": ("machine_stats.cpu_count", True),
        "gpu_count": ("machine_stats.gpu_count", True),
        "cpu_util": ("machine_stats.cpu_usage", False),
        "gpu_util": ("machine_stats.gpu_usage", False),
        "ram_total": ("machine_stats.memory_total", True),
        "ram_used": ("machine_stats.memory_used", True),
        "ram_free": ("machine_stats.memory_free", True),
        "gpu_ram_total": ("machine_stats.gpu_memory_total", True),
        "gpu_ram_used": ("machine_stats.gpu_memory_used", True),
        "gpu_ram_free": ("machine_stats.gpu_memory_free", True),
        "network_rx": ("machine_stats.network_rx", True),
        "network_tx": ("machine_stats.network_tx", True),
    }
)
_INFO: Final = ("model_source", "model_version", "preprocess_artifact", "input_type", "input_size")


def _entry(call: Call) -> JsonDict:
    for name in ("container_id", "endpoint_name", "model_name"):
        call.text(name)
    data = {key: value for key, value in call.data.items() if key != "method"}
    return {
        **data,
        "id": call.data["container_id"],
        "register_s": time.time(),
        "last_update_s": time.time(),
        "timeout_s": call.data.get("timeout") or TIMEOUT_S,
    }


def register_container(call: Call) -> JsonDict:
    """Announce an instance; it counts as loading until a report gives its address."""
    call.store.put(SERVING, _entry(call))
    return {}


def unregister_container(call: Call) -> JsonDict:
    """Take an instance off the list."""
    call.store.delete(SERVING, call.text("container_id"))
    return {}


def container_status_report(call: Call) -> JsonDict:
    """Replace an instance's whole entry, and add a point to its history."""
    url = call.text("endpoint_url")
    entry = _entry(call)
    old = call.store.get(SERVING, entry["id"])
    if old is not None:
        entry["register_s"] = old.get("register_s", old["last_update_s"])
    if old is not None and not call.data.get("timeout"):
        entry["timeout_s"] = old["timeout_s"]
    call.store.put(SERVING, entry)
    call.store.db.execute(
        "INSERT INTO serving_reports (url, container, timestamp, body) VALUES (?, ?, ?, ?)",
        (url, entry["id"], entry["last_update_s"], json.dumps(_with_totals(entry))),
    )
    call.store.db.execute(
        "DELETE FROM serving_reports WHERE timestamp < ?", (time.time() - HISTORY_S,)
    )
    return {}


def _with_totals(entry: JsonDict) -> JsonDict:
    """Add what the history has beside the report: numbers of processors and GPUs, and whole memories."""
    stats = entry.get("machine_stats")
    if not isinstance(stats, Mapping):
        return entry
    more: JsonDict = _counts(entry)
    for kind in ("memory", "gpu_memory"):
        parts = [_number(stats, f"{kind}_{part}") for part in ("free", "used")]
        if any(part is not None for part in parts):
            more[f"{kind}_total"] = sum(part or 0.0 for part in parts)
    return {**entry, "machine_stats": {**stats, **more}}


def _counts(entry: Mapping[str, Any]) -> JsonDict:
    """`cpu_count` and `gpu_count`: the lists of a report have a value for each."""
    stats = entry.get("machine_stats")
    usage = (
        {k: stats.get(f"{k}_usage") for k in ("cpu", "gpu")} if isinstance(stats, Mapping) else {}
    )
    return {f"{kind}_count": len(each) for kind, each in usage.items() if isinstance(each, list)}


def _live(call: Call) -> list[JsonDict]:
    now = time.time()
    return [
        entry
        for entry in call.store.all(SERVING)
        if now - entry["last_update_s"] <= entry["timeout_s"]
    ]


def _by_url(call: Call) -> dict[str, list[JsonDict]]:
    groups: dict[str, list[JsonDict]] = {}
    for entry in _live(call):
        if entry.get("endpoint_url"):
            groups.setdefault(entry["endpoint_url"], []).append(entry)
    return groups


def get_endpoints(call: Call) -> JsonDict:
    """One line per address: the sums and averages of its instances."""
    return {"endpoints": [_summary(url, group) for url, group in _by_url(call).items()]}


def _summary(url: str, group: list[JsonDict]) -> JsonDict:
    first = group[0]
    return {
        "endpoint": first["endpoint_name"],
        "model": first["model_name"],
        "url": url,
        "instances": len(group),
        "uptime_sec": max(int(entry.get("uptime_sec") or 0) for entry in group),
        "requests": sum(int(entry.get("requests_num") or 0) for entry in group),
        "requests_min": _mean(group, "requests_min", 2),
        "latency_ms": _mean(group, "latency_ms", None),
        "last_update": iso_time(max(entry["last_update_s"] for entry in group)),
    }


def _mean(group: list[JsonDict], name: str, digits: int | None) -> float | None:
    """Mean over the instances that tell a figure; None when none does."""
    values = [float(entry[name]) for entry in group if entry.get(name) is not None]
    return round(sum(values) / len(values), digits) if values else None


def get_loading_instances(call: Call) -> JsonDict:
    """Instances without an address yet."""
    return {
        "instances": [
            {
                "id": entry["id"],
                **_model_info(entry),
                "uptime_sec": int(entry.get("uptime_sec") or 0),
                "age_sec": int(time.time() - (entry.get("register_s") or entry["last_update_s"])),
                "last_update": iso_time(entry["last_update_s"]),
            }
            for entry in _live(call)
            if not entry.get("endpoint_url")
        ]
    }


def _model_info(entry: Mapping[str, Any]) -> JsonDict:
    info = {"endpoint": entry["endpoint_name"], "model": entry["model_name"]}
    if entry.get("endpoint_url"):
        info["url"] = entry["endpoint_url"]
    return {**info, **{key: entry[key] for key in _INFO if entry.get(key) is not None}}


def get_endpoint_details(call: Call) -> JsonDict:
    """One address with its instances."""
    group = _by_url(call).get(call.text("endpoint_url"))
    if not group:
        raise CallError(10, f"General data error (no endpoint {call.data['endpoint_url']!r})")
    summary = _summary(call.data["endpoint_url"], group)
    return {
        **_model_info(group[0]),
        "uptime_sec": summary["uptime_sec"],
        "last_update": summary["last_update"],
        "instances": [
            {
                "id": entry["id"],
                "uptime_sec": int(entry.get("uptime_sec") or 0),
                "requests": int(entry.get("requests_num") or 0),
                "requests_min": float(entry.get("requests_min") or 0),
                "latency_ms": int(entry.get("latency_ms") or 0),
                "last_update": iso_time(entry["last_update_s"]),
                **_counts(entry),
                "reference": entry.get("reference") or [],
            }
            for entry in group
        ],
    }


def get_endpoint_metrics_history(call: Call) -> JsonDict:
    """A metric of one address over time, each instance and the total."""
    metric = call.data.get("metric_type") or "requests"
    if metric not in METRICS:
        raise CallError(12, f"Validation error (metric_type {metric!r}: {', '.join(METRICS)})")
    path, is_sum = METRICS[metric]
    try:
        begin, end = float(call.data["from_date"]), float(call.data["to_date"])
        interval = max(MIN_INTERVAL_S, int(call.data["interval"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CallError(12, "Validation error (from_date, to_date and interval needed)") from error
    buckets: dict[str, dict[int, list[float]]] = {}
    rows = call.store.db.execute(
        "SELECT container, timestamp, body FROM serving_reports"
        " WHERE url=? AND timestamp BETWEEN ? AND ? ORDER BY timestamp",
        (call.text("endpoint_url"), begin, end),
    )
    for container, timestamp, body in rows:
        value = _number(json.loads(body), path)
        if value is not None:
            bucket = int(timestamp // interval * interval)
            buckets.setdefault(container, {}).setdefault(bucket, []).append(value)
    series = {
        container: {date: sum(values) / len(values) for date, values in points.items()}
        for container, points in buckets.items()
    }
    answer: JsonDict = {
        "computed_interval": interval,
        "total": _series(metric, _total(list(series.values()), is_sum)),
    }
    if call.flag("instance_charts", default=True):
        answer["instances"] = {c: _series(c, points) for c, points in series.items()}
    return answer


def _total(series: list[dict[int, float]], is_sum: bool) -> dict[int, float]:
    dates = sorted({date for points in series for date in points})
    total = {}
    for date in dates:
        values = [points[date] for points in series if date in points]
        total[date] = sum(values) if is_sum else sum(values) / len(values)
    return total


def _series(title: str, points: Mapping[int, float]) -> JsonDict:
    dates = sorted(points)
    return {"title": title, "dates": dates, "values": [points[date] for date in dates]}


def _number(report: Mapping[str, Any], path: str) -> float | None:
    value: Any = report
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, list):
        numbers = [float(item) for item in value if isinstance(item, (int, float))]
        return sum(numbers) / len(numbers) if numbers else None
    return float(value) if isinstance(value, (int, float)) else None


ENDPOINTS: Final[Mapping[str, Handler]] = MappingProxyType(
    {
        "register_container": register_container,
        "unregister_container": unregister_container,
        "container_status_report": container_status_report,
        "get_endpoints": get_endpoints,
        "get_loading_instances": get_loading_instances,
        "get_endpoint_details": get_endpoint_details,
        "get_endpoint_metrics_history": get_endpoint_metrics_history,
    }
)

"""`last_metrics` of a task or model: the newest, least and greatest value of each scalar.

``{md5(metric): {md5(variant): {metric, variant, value, min_value, ...}}}``; the SDK's
`get_last_scalar_metrics` reads nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from common.local_server.wire import JsonDict


def with_scalar(owner: Mapping[str, Any], event: Mapping[str, Any]) -> JsonDict:
    """The task or model with one scalar event counted in; a value that is no number is left out."""
    result = dict(owner)
    value = event.get("value")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return result
    metric, variant = str(event.get("metric", "")), str(event.get("variant", ""))
    outer, inner = _key(metric), _key(variant)
    metrics = dict(owner.get("last_metrics") or {})
    variants = dict(metrics.get(outer) or {})
    variants[inner] = _updated(variants.get(inner), metric, variant, event)
    metrics[outer] = variants
    result["last_metrics"] = metrics
    return result


def _updated(
    old: Mapping[str, Any] | None, metric: str, variant: str, event: Mapping[str, Any]
) -> JsonDict:
    value, iteration = event["value"], int(event.get("iter") or 0)
    if old is None:
        return {
            "metric": metric,
            "variant": variant,
            "value": value,
            "x_axis_label": event.get("x_axis_label", ""),
            "iteration": iteration,
            "min_value": value,
            "min_value_iteration": iteration,
            "max_value": value,
            "max_value_iteration": iteration,
            "first_value": value,
            "first_value_iteration": iteration,
            "count": 1,
            "mean_value": value,
        }
    result = dict(old)
    # Events of one batch may come out of order: an older iteration does not become the last.
    if iteration >= old["iteration"]:
        result.update(value=value, iteration=iteration)
    if value < old["min_value"]:
        result.update(min_value=value, min_value_iteration=iteration)
    if value > old["max_value"]:
        result.update(max_value=value, max_value_iteration=iteration)
    result["count"] = old["count"] + 1
    result["mean_value"] = old["mean_value"] + (value - old["mean_value"]) / result["count"]
    return result


def _key(name: str) -> str:
    # The wire's own key; nothing secret is hashed.
    return hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()

"""The table of metrics in docs/telemetry.md, from the declarations in `common.telemetry.names`. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from common.errors import UserError
from common.telemetry.names import METRICS, Metric, MetricKind

BEGIN = "<!-- table of metrics: written by `clearml-deploy docs build` -->"
END = "<!-- end of the table of metrics -->"

_HEAD = (
    "| Metric | Type | Unit | Labels | ClearML scalar | What it is |",
    "|---|---|---|---|---|---|",
)


def render_table(metrics: Iterable[Metric] = METRICS) -> str:
    """Return the table of metrics and the bounds of the histograms, as Markdown."""
    listed = list(metrics)
    histograms = [metric for metric in listed if metric.kind is MetricKind.HISTOGRAM]
    by_bounds: dict[tuple[float, ...], list[str]] = {}
    for metric in histograms:
        by_bounds.setdefault(metric.bounds, []).append(f"`{metric.name}`")
    return "\n".join(
        [
            *_HEAD,
            *map(_row, listed),
            "",
            "Upper bounds of the buckets, in seconds:",
            "",
            *(
                f"* {', '.join(found)}: {', '.join(f'{bound:g}' for bound in bounds)}"
                for bounds, found in by_bounds.items()
            ),
        ]
    )


def with_table(page: str) -> str:
    """Return a page with the table between its two marks made anew.

    Args:
        page: Markdown that has the lines `BEGIN` and `END`.

    Raises:
        UserError: It has not.
    """
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise UserError(
            f"The page of the metrics has no place for their table: it needs the line {BEGIN} and "
            f"after it the line {END}."
        )
    return f"{head}{BEGIN}\n\n{render_table()}\n\n{END}{tail}"


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return (
        f"| `{metric.name}` | {metric.kind.value} | {metric.unit} | {labels} "
        f"| {metric.scalar_title} | {metric.help} |"
    )

"""The dashboard of a form: what it shows of a running instance. Pure.

Metrics are the titles that an instance reports its scalars under; the machine's are those of the
ClearML SDK's resource monitor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.forms import panels
from common.forms.names import has_model_list
from common.forms.outline import AnySettings

Line = dict[str, Any]

MACHINE_METRIC = ":monitor:machine"
GPU_METRIC = ":monitor:gpu"

# The GPUs of one worker; those that are not there have no series.
_GPUS = range(8)
_PLOT_HEIGHT = "320px"
_LOG_HEIGHT = "600px"


def write_dashboard(settings: AnySettings) -> dict[str, Any]:
    """Write the section ``dashboard`` of an app's form."""
    return {"lines": [*(_lines(settings)), *_machine_lines(), _log_line()]}


def _lines(settings: AnySettings) -> list[Line]:
    if not has_model_list(settings):
        return [
            _panel_line("Status", panels.LEGACY_STATUS),
            _panel_line("Access", panels.LEGACY_ACCESS),
            _plot_line(_plot("Requests", "Total Number of Requests")),
            _plot_line(_plot("Latency", "Latency (ms)")),
        ]
    return [
        _panel_line("Status", panels.STATUS),
        _panel_line("Models", panels.MODELS),
        _panel_line("Model access", panels.ACCESS),
        _plot_line(_plot("Total Number of Requests", "Total Number of Requests")),
        _plot_line(_plot("Tokens per Second", "Tokens per Second")),
        _plot_line(_plot("Latency", "Latency (ms)")),
    ]


def _machine_lines() -> list[Line]:
    machine = {
        "CPU usage": ("cpu_usage",),
        "Memory performance": ("memory_used_gb", "memory_free_gb"),
        "Network throughput": ("network_rx_mbs", "network_tx_mbs"),
        "Disk performance": ("io_read_mbs", "io_write_mbs"),
    }
    gpu = {
        "GPU utilization": "utilization",
        "GPU memory usage": "mem_used_gb",
        "GPU temperature": "temperature",
    }
    plots = [_plot(title, MACHINE_METRIC, series) for title, series in machine.items()]
    gpu_plots = [
        _plot(title, GPU_METRIC, [f"gpu_{number}_{series}" for number in _GPUS])
        for title, series in gpu.items()
    ]
    return [_plot_line(*plots[:2]), _plot_line(*plots[2:]), _plot_line(*gpu_plots)]


def _panel_line(title: str, text: str) -> Line:
    return {
        "style": {"height": "initial"},
        "contents": [{"title": title, "type": "html", "text": text}],
    }


def _plot_line(*plots: dict[str, Any]) -> Line:
    return {"style": {"height": _PLOT_HEIGHT}, "contents": [*plots]}


def _plot(title: str, metric: str, variants: Sequence[str] = ()) -> dict[str, Any]:
    """A plot over time; without variants it has all series, one for each model."""
    plot: dict[str, Any] = {
        "title": title,
        "type": "scalar-histogram",
        "metric": metric,
        "key": "iso_time",
        "hide_legend": False,
    }
    return plot | ({"variant": [*variants]} if variants else {})


def _log_line() -> Line:
    return {
        "style": {"height": _LOG_HEIGHT},
        "contents": [{"title": "Console log", "type": "log"}],
    }

"""What an instance tells of its requests, read where people read it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import requests
from prometheus_client.parser import text_string_to_metric_families

from common.local_server import RunningServer

Point = tuple[float, float]
"""Seconds and value."""

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


@dataclass(frozen=True)
class Exposition:
    """The instance's Prometheus text."""

    samples: Samples

    def value(self, name: str, **labels: str) -> float:
        """The one sample of that name whose labels have these values."""
        (found,) = self.of(name, **labels).values()
        return found

    def of(self, name: str, **labels: str) -> dict[Mapping[str, str], float]:
        wanted = labels.items()
        return {
            _Labels(pairs): value
            for (sample, pairs), value in self.samples.items()
            if sample == name and wanted <= dict(pairs).items()
        }


class _Labels(dict[str, str]):
    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))


@dataclass(frozen=True)
class Reports:
    """Where the instance at `url` with a task on `server` is read."""

    url: str
    key: str
    server: RunningServer
    task: str

    def exposition(self) -> Exposition:
        text = self._get("/metrics").text
        return Exposition(
            {
                (sample.name, frozenset(sample.labels.items())): sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
            }
        )

    def page(self) -> dict[str, Any]:
        found: dict[str, Any] = self._get("/?data=state&since=0").json()
        return found

    def row(self, model: str) -> dict[str, Any]:
        """A model's line of the table of Model Endpoints."""
        with self.server.client() as client:
            rows = client.call("serving.get_endpoints")["endpoints"]
        (row,) = [row for row in rows if row["url"] == f"{self.url}/{model}/v1"]
        found: dict[str, Any] = row
        return found

    def details(self, model: str) -> dict[str, Any]:
        """The instance's own part of the page of a model's endpoint."""
        with self.server.client() as client:
            answer = client.call(
                "serving.get_endpoint_details", endpoint_url=f"{self.url}/{model}/v1"
            )
        (only,) = answer["instances"]
        found: dict[str, Any] = only
        return found

    def curve(self, title: str, series: str, key: str = "timestamp") -> list[Point]:
        """A scalar's points by their time in milliseconds, or by their iteration."""
        with self.server.client() as client:
            curves = client.call(
                "events.scalar_metrics_iter_histogram", task=self.task, samples=10_000, key=key
            )
        found = curves.get(title, {}).get(series, {"x": [], "y": []})
        return list(zip(found["x"], found["y"], strict=True))

    def plot(self, title: str) -> dict[str, Any]:
        with self.server.client() as client:
            answer = client.call("events.get_task_plots", task=self.task)
        (only,) = [event for event in answer["plots"] if event["metric"] == title]
        figure: dict[str, Any] = json.loads(only["plot_str"])
        return figure

    def hyperparameter(self, section: str, name: str) -> str:
        with self.server.client() as client:
            task = client.call("tasks.get_by_id", task=self.task)["task"]
        return str(task["hyperparams"].get(section, {}).get(name, {}).get("value", ""))

    def _get(self, path: str) -> requests.Response:
        answer = requests.get(
            f"{self.url}{path}", headers={"Authorization": f"Bearer {self.key}"}, timeout=60
        )
        assert answer.status_code == 200, answer.text
        return answer

"""A server to launch on, and the command line pointed at it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from common.clearml.api import ClearMLApi
from common.local_server import RunningServer
from tests.fixtures_clearml import clearml_environment

ROOT = Path(__file__).parents[2]


class ApiOf(ClearMLApi):
    """`ClearMLApi` for one server; the SDK's own session reads its configuration once per process."""

    def __init__(self, server: RunningServer) -> None:
        super().__init__()
        self._url = server.api_url
        self._client = server.client()

    def call(self, service: str, action: str, **body: Any) -> dict[str, Any]:
        return self._client.call(f"{service}.{action}", **body)

    def close(self) -> None:
        self._client.__exit__()

    @property
    def host(self) -> str:
        return self._url

    def task(self, task_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call("tasks", "get_by_id", task=task_id)["task"]
        return found

    def tasks(self, project: str) -> list[dict[str, Any]]:
        """The tasks of a project, by its name."""
        known = self.call("projects", "get_all")["projects"]
        ids = [row["id"] for row in known if row["name"] == project]
        return list(self.call("tasks", "get_all", project=ids)["tasks"]) if ids else []


@pytest.fixture(scope="session")
def api(clearml_server: RunningServer) -> Iterator[ApiOf]:
    api = ApiOf(clearml_server)
    yield api
    api.close()


@pytest.fixture(scope="session")
def queue(api: ApiOf) -> str:
    """A queue that nobody serves."""
    api.call("queues", "create", name="nobody-serves")
    return "nobody-serves"


@pytest.fixture
def cli(
    clearml_server: RunningServer, tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``clearml-deploy``, without a terminal."""

    def run(
        *arguments: str, env: Mapping[str, str] = MappingProxyType({})
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "common.cli.main", *arguments],
            env={**clearml_environment(clearml_server, tmp_path), **env},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def models(*references: str) -> str:
    """A list of models, as the parameter ``Models/models`` holds it."""
    return json.dumps([{"model": reference} for reference in references])

"""How `list` shows instances: a table, or blocks where a terminal is too narrow for one."""

from __future__ import annotations

import pytest
from rich.console import Console

from common.cli.instances import _print_instances
from common.launch.follow import Followed
from common.launch.instances import Instance

MODEL = {"name": "org/repo/model.gguf", "url": "http://w:8800/m/v1", "status": "ready"}
STATE = Followed(
    "ready",
    "in_progress",
    status={
        "status": "active",
        "idle_hours": "0.1",
        "idle_limit": "2",
        "endpoint": "http://w:8800",
    },
    models=(MODEL,),
)
INSTANCE = Instance("a" * 32, "vllm", "mine", "Project", "gpu", "w:0", "page", STATE)


@pytest.mark.parametrize("width", [60, 200])
def test_nothing_is_cut_on_a_terminal(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(width=width, force_terminal=True, color_system=None)
    _print_instances([INSTANCE], console)
    shown = capsys.readouterr().out
    assert ("Endpoint  http://w:8800\n" in shown) == (width == 60)
    for value in ("a" * 32, "vllm", "mine", "active", "0.1 h of 2", MODEL["name"], "gpu", "w:0"):
        assert value in shown


def test_a_pipe_gets_a_row_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    _print_instances([INSTANCE], Console(width=40))
    header, row = capsys.readouterr().out.splitlines()
    assert header.split()[0] == "Task"
    assert row.split()[0] == INSTANCE.id

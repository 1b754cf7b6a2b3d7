"""What is told of models that share memory: state for the page, words for ClearML's tables."""

from __future__ import annotations

import html
import json
import re

import pytest

from common.gateway.models import MemoryTier, MemoryView
from common.memory.contract import Footprint, MemoryPolicy, Tier
from common.runtime.engine_memory import pool_bytes
from common.runtime.memory_view import (
    FinishedMove,
    MoveLog,
    SharedMemory,
    memory_state,
    model_memory,
    move_kind,
    taken,
)
from common.runtime.memory_words import memory_words, status_words, tier_words
from common.runtime.status import ModelRow, models_table, status_values
from common.telemetry.machine import GpuUsage, MachineUsage
from common.telemetry.plots import ModelLine, models_figure

GIB = 2**30
APART = Footprint({"gpu0": 8, "host": 1}, {"gpu0": 1, "host": 8})
SHARED = Footprint({"resident": 6, "host": 6}, {"host": 4}, is_shared=True)


@pytest.mark.parametrize(
    ("footprint", "tier", "moving_to", "expected"),
    [
        (APART, Tier.GPU, None, {"gpu0": 8, "host": 1}),
        (APART, Tier.DISK, None, {}),
        (APART, Tier.GPU, Tier.CPU, {"gpu0": 9, "host": 9}),
        (APART, Tier.CPU, Tier.DISK, {"gpu0": 1, "host": 8}),
        (SHARED, Tier.CPU, Tier.GPU, {"resident": 6, "host": 6}),
        (SHARED, Tier.DISK, Tier.GPU, {"resident": 6, "host": 6}),
        (APART, Tier.GPU, Tier.GPU, {"gpu0": 8, "host": 1}),
    ],
)
def test_a_model_that_moves_takes_both_places(
    footprint: Footprint, tier: Tier, moving_to: Tier | None, expected: dict[str, int]
) -> None:
    assert taken(footprint, tier, moving_to) == expected


def test_the_state_has_the_sums_of_the_pools_and_the_last_moves() -> None:
    log = MoveLog(length=2)
    for number in range(3):
        log.add(FinishedMove(f"m{number}", Tier.GPU, Tier.CPU, 1.23456, "idle", 1_800_000_000.06))
    policy = MemoryPolicy(priority=2, pinned=True)
    a = model_memory(Tier.GPU, None, APART, policy)
    b = model_memory(Tier.CPU, Tier.GPU, APART, MemoryPolicy(), waiting=3, reason="3 wait")
    assert (a.priority, a.is_pinned, b.moving_to, b.waiting, b.reason) == (
        2,
        True,
        "gpu",
        3,
        "3 wait",
    )
    state = memory_state(SharedMemory({"gpu0": 20, "host": 64}, log), [a, None, b])
    assert state is not None
    assert state["pools"] == [
        {"name": "gpu0", "capacity_bytes": 20, "held_bytes": 17},
        {"name": "host", "capacity_bytes": 64, "held_bytes": 10},
    ]
    assert [move["model"] for move in state["moves"]] == ["m1", "m2"]
    assert state["moves"][0] == {
        "model": "m1",
        "from": "gpu",
        "to": "cpu",
        "seconds": 1.235,
        "reason": "idle",
        "at": 1_800_000_000.1,
    }
    json.dumps(state)
    assert memory_state(None, [None]) is None


def test_each_move_is_of_the_kind_that_the_telemetry_counts() -> None:
    kinds = {(a.value, b.value): move_kind(a, b) for a in Tier for b in Tier if a is not b}
    assert kinds == {
        ("disk", "gpu"): "load",
        ("cpu", "gpu"): "wake",
        ("gpu", "cpu"): "sleep",
        ("disk", "cpu"): "sleep",
        ("gpu", "disk"): "stop",
        ("cpu", "disk"): "stop",
    }


@pytest.mark.parametrize(
    ("status", "tier", "moving_to", "waiting", "words"),
    [
        ("ready", "gpu", None, 0, "ready"),
        ("sleeping", "cpu", None, 0, "asleep, wakes with a request"),
        ("offloaded", "disk", None, 0, "unloaded, loads with a request"),
        ("loading", "cpu", "gpu", 1, "waking, 1 request waits"),
        ("loading", "disk", "gpu", 4, "loading, 4 requests wait"),
        ("sleeping", "gpu", "cpu", 0, "going to sleep"),
        ("offloaded", "gpu", "disk", 0, "unloading"),
        ("sleeping", "gpu", None, 0, "giving way"),
        ("failed", "disk", "gpu", 2, "failed"),
    ],
)
def test_a_status_in_words(
    status: str, tier: MemoryTier, moving_to: MemoryTier | None, waiting: int, words: str
) -> None:
    assert status_words(status, MemoryView(tier, moving_to, waiting)) == words


def test_statuses_of_models_that_are_not_moved_are_in_words_as_well() -> None:
    assert status_words("offloaded", None) == "unloaded, loads with a request"
    assert status_words("ready", None) == "ready"


AWAKE = MemoryView("gpu", None, 0, {"host": GIB, "held": GIB, "gpu1": 5 * GIB // 2})
ASLEEP = MemoryView("cpu", "gpu", 2, {"host": 3 * GIB}, "for <it>")


def test_the_table_tells_tier_and_memory_where_models_are_moved() -> None:
    assert tier_words(ASLEEP) == "asleep in RAM → loaded"
    assert memory_words(AWAKE) == "GPU 1 2.50 GiB, RAM 1.00 GiB"
    rows = [
        ModelRow("a", "http://h/a/v1", "ready", memory=AWAKE),
        ModelRow("b", "http://h/b/v1", "loading", memory=ASLEEP),
    ]
    table = models_table(rows)
    assert re.findall("<th>(.*?)</th>", table) == [
        *("Model Name", "Endpoint", "Status", "Tier", "Memory")
    ]
    cells = [html.unescape(text) for text in re.findall("<td>(.*?)</td>", table)]
    assert cells[2:5] == ["ready", "loaded", "GPU 1 2.50 GiB, RAM 1.00 GiB"]
    assert cells[7:] == ["waking, 2 requests wait", "asleep in RAM → loaded", "RAM 3.00 GiB"]
    values = status_values("active", rows, idle_s=0, limit_hours=None)
    assert json.loads(values["models"])[1] == {
        "name": "b",
        "url": "http://h/b/v1",
        "status": "loading",
        "progress": "",
        "is_embedding": False,
        "tier": "cpu",
        "moving_to": "gpu",
        "waiting": 2,
        "bytes_by_pool": {"host": 3 * GIB},
    }


def test_the_table_of_models_that_are_not_moved_is_as_ever() -> None:
    row = ModelRow("a", "http://h/a/v1", "ready")
    assert re.findall("<th>(.*?)</th>", models_table([row])) == ["Model Name", "Endpoint", "Status"]
    values = status_values("active", [row], idle_s=0, limit_hours=None)
    assert list(json.loads(values["models"])[0]) == [
        *("name", "url", "status", "progress", "is_embedding")
    ]


def test_the_plot_of_the_models_tells_tier_and_memory_where_models_are_moved() -> None:
    plain, moved = (
        ModelLine("a", "ready", "u"),
        ModelLine("b", "ready", "u", 1, 2, 3, "loaded", "x"),
    )

    def columns(*lines: ModelLine) -> dict[str, list[object]]:
        (table,) = models_figure(lines)["data"]
        return dict(zip(table["header"]["values"], table["cells"]["values"], strict=True))

    assert "Tier" not in columns(plain)
    shown = columns(plain, moved)
    assert (shown["Tier"], shown["Memory"]) == (["", "loaded"], ["", "x"])
    assert shown["Generated Tokens"] == [0, 3]


def test_gpus_are_counted_in_the_order_in_which_the_instance_sees_them() -> None:
    machine = MachineUsage(
        gpus=(
            GpuUsage("GPU-a", 1, 1, by_pid={1: 10, 2: 5, 9: 99}),
            GpuUsage("GPU-b", 1, 1, by_pid={2: 7}),
            GpuUsage("GPU-c", 1, 1, by_pid={9: 99}),
        )
    )
    assert pool_bytes(machine, [1, 2], None) == {"gpu0": 15, "gpu1": 7}
    assert pool_bytes(machine, [1, 2], ("GPU-b", "GPU-a")) == {"gpu0": 7, "gpu1": 15}
    assert pool_bytes(machine, [3], None) == {}

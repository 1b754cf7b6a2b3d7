"""What clients and operators see of models that are moved between the tiers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from gateway_harness import ManualUpstream, Running, StubProcess, running, served

from common.gateway.models import MemoryTier, MemoryView, ServedModel

NAME = "org/repo/M.gguf"
WAKING = MemoryView(
    "cpu",
    "gpu",
    waiting=2,
    bytes_by_pool={"gpu0": 7, "host": 3},
    reason='for "org/repo/M.gguf"',
    priority=5,
    is_pinned=True,
)


def moved(stub: StubProcess, memory: MemoryView | None, **values: Any) -> ServedModel:
    model = served(stub, **values)
    assert isinstance(model.upstream, ManualUpstream)
    model.upstream.memory = memory
    return model


async def get(run: Running, path: str) -> Any:
    async with run.session.get(run.base + path) as answer:
        assert answer.status == 200
        return await answer.json()


async def test_the_model_list_tells_tier_and_move(stub: StubProcess) -> None:
    waking = replace(moved(stub, WAKING, status="loading"), adapters=("adapter",))
    models = [waking, moved(stub, MemoryView("disk"), name="b", status="offloaded")]
    models.append(served(stub, "c"))
    async with running(models) as run:
        listed = (await get(run, "/v1/models"))["data"]
        told = {m["id"]: (m.get("tier"), m.get("moving_to")) for m in listed}
        assert told == {
            NAME: ("cpu", "gpu"),
            "adapter": ("cpu", "gpu"),
            "b": ("disk", None),
            "c": (None, None),
        }
        # What others do is no client's business.
        assert not {"memory", "reason", "priority"} & set(listed[0])
        assert (await get(run, f"/v1/models/{NAME}"))["moving_to"] == "gpu"


async def test_operators_see_memory_waiting_requests_and_why(stub: StubProcess) -> None:
    models = [moved(stub, WAKING, status="loading"), served(stub, "c")]
    async with running(models) as run:
        first, second = (await get(run, "/admin/models"))["data"]
    assert (first["tier"], first["moving_to"], first["in_flight"]) == ("cpu", "gpu", 0)
    assert first["memory"] == {
        "bytes_by_pool": {"gpu0": 7, "host": 3},
        "waiting": 2,
        "reason": 'for "org/repo/M.gguf"',
        "priority": 5,
        "pinned": True,
    }
    assert "memory" not in second


@pytest.mark.parametrize(
    ("status", "tier", "moving_to", "expected"),
    [
        ("ready", "gpu", None, 200),
        ("sleeping", "cpu", None, 200),
        ("offloaded", "disk", None, 200),
        ("loading", "cpu", "gpu", 200),
        ("loading", "disk", "gpu", 503),
        ("failed", "disk", None, 503),
    ],
)
async def test_an_instance_whose_models_rest_keeps_the_traffic_that_wakes_them(
    stub: StubProcess,
    status: str,
    tier: MemoryTier,
    moving_to: MemoryTier | None,
    expected: int,
) -> None:
    async with (
        running([moved(stub, MemoryView(tier, moving_to), status=status)]) as run,
        run.session.get(f"{run.base}/ready") as answer,
    ):
        assert answer.status == expected

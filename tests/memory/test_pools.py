"""Amounts of memory in words."""

from __future__ import annotations

import pytest

from common.memory.contract import Bytes, Tier
from common.memory.planner import plan
from common.memory.pools import amounts_text
from common.runtime.memory_capacity import Capacity
from common.runtime.universal_memory import capacity_text

from .worlds import Footprint, gib, model, world


@pytest.mark.parametrize(
    ("amounts", "words"),
    [
        ({}, "no memory"),
        (gib(gpu0=4), "4.00 GiB of GPU 0"),
        (gib(gpu0=4, host=1), "4.00 GiB of GPU 0 and 1.00 GiB of host RAM"),
        # Without a GPU the two are one thing.
        (gib(resident=4, host=4), "4.00 GiB"),
        (gib(resident=4, host=5), "5.00 GiB of host RAM and 4.00 GiB of RAM (Max CUDA Memory)"),
        # A part of the host's RAM that has a bound of its own is not more RAM.
        (gib(host=4, held=4), "4.00 GiB of host RAM"),
        (gib(held=4), "4.00 GiB of host RAM for models put aside"),
    ],
)
def test_amounts_in_words(amounts: Bytes, words: str) -> None:
    assert amounts_text(amounts) == words


@pytest.mark.parametrize(
    ("pools", "words"),
    [
        (
            gib(resident=1, host=7),
            "1.00 GiB of RAM (Max CUDA Memory), 7.00 GiB of host RAM; idle ones go to disk",
        ),
        (gib(resident=7, host=7), "7.00 GiB of host RAM; idle ones go to disk"),
        (gib(gpu0=8, host=7), "8.00 GiB of GPU 0, 7.00 GiB of host RAM; idle ones go to disk"),
    ],
)
def test_the_capacity_in_words(pools: Bytes, words: str) -> None:
    assert capacity_text(Capacity(pools, (Tier.DISK,))) == f"the models share {words}"


@pytest.mark.parametrize(("resident", "place"), [(1.0, "RAM (Max CUDA Memory)"), (7.0, "host RAM")])
def test_a_refusal_names_the_budget_only_where_there_is_one(resident: float, place: str) -> None:
    large = model("a", footprint=Footprint(gib(resident=8, host=8)), waited=1)
    decided = plan(world(large, capacity=gib(resident=resident, host=7)))
    assert (
        f"needs 8.00 GiB of {place}, and the instance may take {resident:.2f}"
        in (decided.refused["a"])
    )

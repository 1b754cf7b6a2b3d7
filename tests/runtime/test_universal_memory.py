"""An instance whose models take turns: real engine processes, a real gateway, a budget for some of them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil

from tests.runtime.running_instance import Running, until
from tests.runtime.sharing_instance import OFFLOAD, SWAP, models, operate, sharing


async def test_the_first_models_that_fit_are_loaded_and_the_others_at_their_first_request(
    tmp_path: Path,
) -> None:
    async with sharing(tmp_path, "abcd", OFFLOAD) as running:
        await running.ready("a", "b")
        for name in "cdab":
            status, text = await running.chat(name)
            assert status == 200, text
        tiers = [entry["tier"] for entry in (await models(running)).values()]
        assert sorted(tiers) == ["cpu", "cpu", "gpu", "gpu"]
        assert "goes to CPU RAM: " in running.said


async def test_never_more_models_run_than_the_budget_has_room_for(tmp_path: Path) -> None:
    most = 0

    async def watch(running: Running) -> None:
        nonlocal most
        while True:
            pids = [m.supervisor.pid for m in running.instance.models if m.supervisor]
            most = max(most, sum(pid is not None and psutil.pid_exists(pid) for pid in pids))
            await asyncio.sleep(0.02)

    flags = {name: ("--load-seconds", "0.2") for name in "abcd"}
    async with sharing(tmp_path, "abcd", SWAP, flags=flags) as running:
        await until(lambda: "ready" in [m.status for m in running.instance.models])
        watching = asyncio.ensure_future(watch(running))
        answers = await asyncio.gather(*(running.chat(name) for name in "abcdabcdabcd"))
        watching.cancel()
        assert [status for status, _ in answers] == [200] * 12
        assert most == 2
        tiers = [entry["tier"] for entry in (await models(running)).values()]
        assert sorted(tiers) == ["disk", "disk", "gpu", "gpu"]


async def test_a_running_stream_is_never_cut_by_another_models_turn(tmp_path: Path) -> None:
    slow = ("--tokens", "20", "--token-delay", "0.1")
    async with sharing(tmp_path, "ab", SWAP, budget_gib=1.0, flags={"a": slow}) as running:
        await running.ready("a")
        stream = asyncio.ensure_future(running.chat("a", stream=True))
        await asyncio.sleep(0.3)
        other = asyncio.ensure_future(running.chat("b"))
        status, text = await stream
        assert status == 200
        assert text.rstrip().endswith("[DONE]")
        assert (await other)[0] == 200


async def test_an_operator_puts_a_model_to_sleep_unloads_and_loads_it(tmp_path: Path) -> None:
    async with sharing(tmp_path, "ab", OFFLOAD) as running:
        await running.ready("a", "b")
        assert await operate(running, "a", "sleep") == 200
        assert (await models(running))["a"]["status"] == "sleeping"
        assert await operate(running, "a", "unload") == 200
        assert (await models(running))["a"]["status"] == "offloaded"
        assert await operate(running, "a", "load") == 200
        listed = await models(running, "/admin/models")
        assert listed["a"]["status"] == "ready"
        assert listed["a"]["tier"] == "gpu"


async def test_sleep_is_refused_where_models_go_to_disk(tmp_path: Path) -> None:
    async with sharing(tmp_path, "ab", SWAP) as running:
        await running.ready("a")
        assert await operate(running, "a", "sleep") == 409


async def test_a_model_that_nobody_uses_is_put_aside_by_itself(tmp_path: Path) -> None:
    options = {"a": {"idle_offload_minutes": 0.01}}
    async with sharing(tmp_path, "a", OFFLOAD, options=options) as running:
        await running.ready("a")
        await until(lambda: running.status("a") == "sleeping")
        assert (await running.chat("a"))[0] == 200


async def test_a_model_that_is_larger_than_the_budget_is_refused_with_the_numbers(
    tmp_path: Path,
) -> None:
    async with sharing(tmp_path, "a", SWAP, budget_gib=0.5) as running:
        await until(lambda: running.instance.models[0].turns is not None)
        status, text = await running.chat("a")
        assert status == 503
        assert "1.00 GiB" in text
        assert "0.50 GiB" in text


async def test_a_model_that_crashes_at_its_load_fails_alone(tmp_path: Path) -> None:
    flags = {"b": ("--print", "bad option --x", "--exit-code", "2")}
    options = {"b": {"preload": False}}
    async with sharing(tmp_path, "ab", SWAP, flags=flags, options=options) as running:
        await running.ready("a")
        status, text = await running.chat("b")
        assert status == 502, text
        assert "bad option" in text
        assert (await models(running))["b"]["status"] == "failed"
        assert (await running.chat("a"))[0] == 200
        assert not running.stop.is_set


async def test_nothing_is_left_when_the_instance_ends_in_the_middle_of_a_move(
    tmp_path: Path,
) -> None:
    flags = {"b": ("--load-seconds", "30")}
    async with sharing(tmp_path, "ab", OFFLOAD, budget_gib=1.0, flags=flags) as running:
        await running.ready("a")
        waiting = asyncio.ensure_future(running.chat("b"))
        await until(lambda: running.status("b") == "loading")
        children = running.processes()
        assert children
    assert not [child for child in children if child.is_running()]
    await asyncio.gather(waiting, return_exceptions=True)

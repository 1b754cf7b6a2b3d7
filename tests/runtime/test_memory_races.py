"""What happens at the same time in an instance whose models take turns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from common.engines.contract import EngineState
from common.memory.engine_ways import EngineOffloads
from tests.runtime.running_instance import HEADERS, Running, until
from tests.runtime.sharing_instance import (
    BALLAST,
    OFFLOAD,
    QUICK,
    SWAP,
    StubSleep,
    ask,
    is_known,
    operate,
    sharing,
    starts,
    supervisor,
    tier,
    waiting,
)


def failures(running: Running, name: str) -> Mapping[tuple[str, int], int]:
    """How requests of a model ended that were not answered with 200, by outcome and status."""
    return running.instance.recorder.totals_of(name).failures


# A request that comes while its model moves.


@pytest.mark.parametrize("mode", [OFFLOAD, SWAP], ids=["to RAM", "to disk"])
async def test_a_request_that_comes_while_its_model_leaves_is_answered_afterwards(
    tmp_path: Path, mode: dict[str, str]
) -> None:
    flags = {"a": ("--ignore-term",)}  # it leaves half a second later
    limits = replace(QUICK, supervisor=replace(QUICK.supervisor, stop_grace_s=0.5))
    async with sharing(
        tmp_path, "ab", mode, budget_gib=1.0, first="a", flags=flags, limits=limits
    ) as running:
        await running.ready("a")
        for_b = asyncio.ensure_future(ask(running, "b"))
        await until(lambda: supervisor(running, "a").state is EngineState.STOPPING)
        for_a = asyncio.ensure_future(ask(running, "a"))
        assert [(await each).status for each in (for_b, for_a)] == [200, 200]


async def test_requests_that_come_during_a_wake_wait_for_that_wake(tmp_path: Path) -> None:
    way = StubSleep()
    ways = {"ways": EngineOffloads(asleep=(way,))}
    async with sharing(
        tmp_path, "a", OFFLOAD, flags={"a": BALLAST}, limits=QUICK, installed=ways
    ) as running:
        await running.ready("a")
        first = running.pid("a")
        assert await operate(running, "a", "sleep") == 200
        way.back_goes_on.clear()
        asked = [asyncio.ensure_future(ask(running, "a"))]
        await until(lambda: "back" in way.calls)
        asked += [asyncio.ensure_future(ask(running, "a")) for _ in range(3)]
        await until(lambda: waiting(running, "a") == 4)
        way.back_goes_on.set()
        assert [(await each).status for each in asked] == [200] * 4
        assert way.calls == ["aside", "back"]
        assert running.pid("a") == first


async def test_a_request_that_comes_while_its_model_falls_asleep_wakes_it(tmp_path: Path) -> None:
    way = StubSleep()
    way.aside_goes_on.clear()
    ways = {"ways": EngineOffloads(asleep=(way,))}
    async with sharing(
        tmp_path, "a", OFFLOAD, flags={"a": BALLAST}, limits=QUICK, installed=ways
    ) as running:
        await running.ready("a")
        first = running.pid("a")
        falling = asyncio.ensure_future(operate(running, "a", "sleep"))
        await until(lambda: way.calls == ["aside"])
        asked = asyncio.ensure_future(ask(running, "a"))
        await until(lambda: waiting(running, "a") == 1)
        way.aside_goes_on.set()
        assert (await asked).status == 200
        assert await falling == 200
        assert way.calls == ["aside", "back"]
        assert running.pid("a") == first


@pytest.mark.parametrize("late_s", [-0.02, 0.0, 0.02, 0.1])
async def test_a_request_at_the_moment_of_an_idle_offload_is_answered(
    tmp_path: Path, late_s: float
) -> None:
    options = {"a": {"idle_offload_minutes": 0.01}}  # 0.6 s
    async with sharing(tmp_path, "a", OFFLOAD, options=options, limits=QUICK) as running:
        await running.ready("a")
        assert (await ask(running, "a")).status == 200
        await asyncio.sleep(0.6 + late_s)
        assert (await ask(running, "a")).status == 200
        assert not failures(running, "a")


# Models that exclude each other.


async def test_two_cold_models_that_exclude_each_other_are_both_served(tmp_path: Path) -> None:
    async with sharing(tmp_path, "ab", OFFLOAD, first="", budget_gib=1.0, limits=QUICK) as running:
        await until(lambda: is_known(running, "a", "b"))
        told = await asyncio.gather(ask(running, "a"), ask(running, "b"))
        assert [each.status for each in told] == [200, 200]
        assert {name: starts(tmp_path, name) for name in "ab"} == {"a": 1, "b": 1}


async def test_a_loaded_model_serves_its_own_request_before_it_gives_way(tmp_path: Path) -> None:
    # All who wait have waited too long at once: nobody keeps a place for longer than it must.
    options = {name: {"max_wait_seconds": 0.01} for name in "ab"}
    async with sharing(
        tmp_path, "ab", OFFLOAD, first="", budget_gib=1.0, options=options, limits=QUICK
    ) as running:
        await until(lambda: is_known(running, "a", "b"))
        told = await asyncio.gather(*(ask(running, name) for name in "abab"))
        assert [each.status for each in told] == [200] * 4
        # Each load served all who waited for it: more loads than models were in vain.
        assert {name: starts(tmp_path, name) for name in "ab"} == {"a": 1, "b": 1}


async def test_all_who_wait_for_a_model_share_one_load(tmp_path: Path) -> None:
    flags = {"a": ("--load-seconds", "0.5")}
    async with sharing(tmp_path, "a", SWAP, first="", flags=flags, limits=QUICK) as running:
        await until(lambda: is_known(running, "a"))
        asked = [asyncio.ensure_future(ask(running, "a")) for _ in range(2)]
        await until(lambda: running.status("a") == "loading")
        asked += [asyncio.ensure_future(ask(running, "a")) for _ in range(2)]
        assert [(await each).status for each in asked] == [200] * 4
        assert starts(tmp_path, "a") == 1


async def test_a_load_whose_client_has_gone_is_dropped_for_another_model(tmp_path: Path) -> None:
    flags = {"a": ("--load-seconds", "60")}
    async with sharing(
        tmp_path, "ab", SWAP, first="", budget_gib=1.0, flags=flags, limits=QUICK
    ) as running:
        await until(lambda: is_known(running, "a", "b"))
        leaves = asyncio.ensure_future(ask(running, "a"))
        await until(lambda: supervisor(running, "a").pid)
        leaves.cancel()
        await until(lambda: waiting(running, "a") == 0)
        # Nobody else wants the place yet.
        assert supervisor(running, "a").pid
        assert (await ask(running, "b")).status == 200
        assert 'the load of "a" was stopped: nobody waits for it any more' in running.said
        assert supervisor(running, "a").pid is None
        # Not an answer, and none of its failures either.
        assert failures(running, "a") == {("client_closed", 499): 1}


async def test_a_client_that_leaves_does_not_end_the_load_of_one_that_stays(
    tmp_path: Path,
) -> None:
    flags = {"a": ("--load-seconds", "1")}
    async with sharing(
        tmp_path, "ab", SWAP, first="", budget_gib=1.0, flags=flags, limits=QUICK
    ) as running:
        await until(lambda: is_known(running, "a", "b"))
        leaves, stays = (asyncio.ensure_future(ask(running, "a")) for _ in range(2))
        await until(lambda: waiting(running, "a") == 2)
        for_b = asyncio.ensure_future(ask(running, "b"))
        await until(lambda: waiting(running, "b") == 1)
        leaves.cancel()
        assert (await stays).status == 200
        assert (await for_b).status == 200
        assert starts(tmp_path, "a") == 1
        assert failures(running, "a") == {("client_closed", 499): 1}


async def test_a_long_stream_is_never_cut_however_long_another_model_waits(
    tmp_path: Path,
) -> None:
    options = {"b": {"max_wait_seconds": 0.2}}
    limits = replace(QUICK, load_wait_s=1.0)
    async with sharing(
        tmp_path, "ab", OFFLOAD, budget_gib=1.0, first="a", options=options, limits=limits
    ) as running:
        await running.ready("a")
        stream = asyncio.ensure_future(ask(running, "a", stream=True, stub_seconds=2.5))
        await until(lambda: running.instance.recorder.open_requests)
        for_b = asyncio.ensure_future(ask(running, "b"))
        await until(lambda: running.status("a") != "ready")  # closed: it gives way
        late = asyncio.ensure_future(ask(running, "a"))
        told = await for_b
        assert told.status == 503
        assert int(told.headers["Retry-After"]) >= 1
        assert '"a" (1 request) holds the memory that it needs' in told.text.replace('\\"', '"')
        whole = await stream
        assert whole.status == 200
        assert whole.text.rstrip().endswith("data: [DONE]")
        # Nobody waits for the place any more, so that who came to the busy model goes on there.
        assert (await late).status == 200
        assert starts(tmp_path, "a") == 1


async def test_new_requests_of_a_busy_model_wait_for_the_turn_of_one_that_waited_too_long(
    tmp_path: Path,
) -> None:
    options = {"b": {"max_wait_seconds": 0.2}}
    async with sharing(
        tmp_path, "ab", OFFLOAD, budget_gib=1.0, first="a", options=options, limits=QUICK
    ) as running:
        await running.ready("a")
        order: list[str] = []

        async def asks(name: str, label: str, **body: object) -> int:
            told = await ask(running, name, **body)
            order.append(label)
            return told.status

        stream = asyncio.ensure_future(asks("a", "stream", stream=True, stub_seconds=1.5))
        await until(lambda: running.instance.recorder.open_requests)
        for_b = asyncio.ensure_future(asks("b", "b"))
        await until(lambda: running.status("a") != "ready")
        late = asyncio.ensure_future(asks("a", "late"))
        assert [await each for each in (stream, for_b, late)] == [200] * 3
        assert order == ["stream", "b", "late"]


async def test_a_model_that_can_never_be_loaded_is_refused_at_once(tmp_path: Path) -> None:
    options: dict[str, dict[str, object]] = {"a": {"pinned": True}}
    async with sharing(
        tmp_path, "ab", OFFLOAD, budget_gib=1.5, first="a", options=options, limits=QUICK
    ) as running:
        await running.ready("a")
        began = time.monotonic()
        told = await ask(running, "b")
        assert time.monotonic() - began < 1.0
        assert told.status == 503
        for words in ("needs 1.00 GiB", "may take 1.50 GiB", '"a" (pinned) keeps 1.00 GiB'):
            assert words in told.text.replace('\\"', '"')
        assert (await ask(running, "a")).status == 200


# Times.


async def test_idle_time_counts_from_the_end_of_the_last_request(tmp_path: Path) -> None:
    options = {"a": {"idle_offload_minutes": 0.02}}  # 1.2 s
    async with sharing(tmp_path, "a", OFFLOAD, options=options, limits=QUICK) as running:
        await running.ready("a")
        told = await ask(running, "a", stream=True, stub_seconds=1.8)
        ended = time.monotonic()
        assert told.status == 200
        await until(lambda: running.status("a") == "sleeping")
        assert 1.1 <= time.monotonic() - ended <= 3.0
        assert starts(tmp_path, "a") == 1


async def read_all(answer: aiohttp.ClientResponse) -> tuple[list[str], list[str]]:
    """The comments and the data of a stream."""
    lines = (await answer.text()).split("\n")
    comments = [each for each in lines if each.startswith(":")]
    return comments, [each for each in lines if each.startswith("data:")]


async def test_a_stream_that_waits_for_its_model_gets_heartbeats_and_no_other_answer_does(
    tmp_path: Path,
) -> None:
    flags = {"a": ("--load-seconds", "1")}
    limits = replace(QUICK, heartbeat_after_s=0.1, heartbeat_every_s=0.1)
    async with sharing(tmp_path, "a", SWAP, flags=flags, first="", limits=limits) as running:
        await until(lambda: is_known(running, "a"))
        whole = asyncio.ensure_future(ask(running, "a"))
        body = {"model": "a", "messages": [{"role": "user", "content": "x"}], "stream": True}
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                f"{running.url}/v1/chat/completions", json=body, headers=HEADERS
            ) as answer,
        ):
            # The head is there long before the model is.
            assert answer.status == 200
            assert running.status("a") == "loading"
            comments, data = await read_all(answer)
        assert len(comments) >= 3
        assert data[-1] == "data: [DONE]"
        told = await whole
        assert told.status == 200
        assert told.text.startswith("{")


async def test_a_stream_that_waited_in_vain_is_told_so_inside_it(tmp_path: Path) -> None:
    flags = {"a": ("--load-seconds", "60")}
    limits = replace(QUICK, load_wait_s=0.5, heartbeat_after_s=0.1, heartbeat_every_s=0.1)
    async with sharing(tmp_path, "a", SWAP, flags=flags, first="", limits=limits) as running:
        await until(lambda: is_known(running, "a"))
        told = await ask(running, "a", stream=True)
        assert told.status == 200  # it was out with the first comment
        assert "event: error" in told.text
        assert "was not ready within 0.5 s" in told.text
        plain = await ask(running, "a")
        assert plain.status == 503
        assert int(plain.headers["Retry-After"]) >= 1


async def test_an_instance_whose_models_all_sleep_is_ready(tmp_path: Path) -> None:
    async with sharing(tmp_path, "ab", OFFLOAD, limits=QUICK) as running:
        await running.ready("a", "b")
        for name in "ab":
            assert await operate(running, name, "sleep") == 200
        assert [running.status(name) for name in "ab"] == ["sleeping"] * 2
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{running.url}/ready") as answer,
        ):
            assert answer.status == 200
        # Nor did the question wake any.
        assert [tier(running, name) for name in "ab"] == ["cpu"] * 2

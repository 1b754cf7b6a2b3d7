"""What goes wrong in an instance whose models take turns: engines that die, hang, or get no memory."""

from __future__ import annotations

import asyncio
import errno
import signal
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from common.engines.contract import EngineState
from common.memory.engine_ways import EngineOffloads
from common.memory.offload import RunningEngine
from tests.runtime.running_instance import until
from tests.runtime.sharing_instance import (
    BALLAST,
    OFFLOAD,
    OUT_OF_MEMORY,
    QUICK,
    SWAP,
    StubSleep,
    ask,
    is_known,
    kill,
    models,
    operate,
    sharing,
    starts,
    supervisor,
    tier,
)

WATCHFUL = replace(
    QUICK.supervisor,
    health_interval_s=0.2,
    health_timeout_s=0.5,
    health_failures=2,
    busy_health_failures=1000,
)


def asleep_by(*ways: StubSleep) -> dict[str, object]:
    return {"ways": EngineOffloads(asleep=ways)}


async def ends(pid: int) -> None:
    await until(lambda: not Path(f"/proc/{pid}").exists())


# An engine that is killed.


async def test_an_engine_killed_awake_is_started_in_its_place_and_others_have_their_turns(
    tmp_path: Path,
) -> None:
    async with sharing(tmp_path, "abc", OFFLOAD, first="ab", limits=QUICK) as running:
        await running.ready("a", "b")
        first = running.pid("a")
        kill(running, "a")
        await ends(first)
        told = await asyncio.gather(ask(running, "a", stub_seconds=1.5), ask(running, "c"))
        assert [each.status for each in told] == [200, 200], told
        assert running.pid("a") != first
        # It kept its place: the one that nobody used gave way.
        assert [tier(running, name) for name in "abc"] == ["gpu", "cpu", "gpu"]
        assert starts(tmp_path, "a") == 2


async def test_an_engine_killed_asleep_is_loaded_by_the_next_request(tmp_path: Path) -> None:
    flags = {"a": BALLAST}
    ways = asleep_by(StubSleep())
    async with sharing(
        tmp_path, "a", OFFLOAD, flags=flags, limits=QUICK, installed=ways
    ) as running:
        await running.ready("a")
        assert await operate(running, "a", "sleep") == 200
        assert running.status("a") == "sleeping"
        first = running.pid("a")  # it sleeps with its process kept
        kill(running, "a")
        await until(lambda: tier(running, "a") == "disk")
        assert running.status("a") == "offloaded"
        assert (await models(running))["a"]["tier"] == "disk"
        assert supervisor(running, "a").pid is None
        assert (await ask(running, "a")).status == 200
        assert running.pid("a") != first


async def test_an_engine_killed_while_it_loads_is_started_again_for_those_who_wait(
    tmp_path: Path,
) -> None:
    flags = {"a": ("--load-seconds", "1")}
    async with sharing(tmp_path, "a", SWAP, first="", flags=flags, limits=QUICK) as running:
        await until(lambda: is_known(running, "a"))
        asked = asyncio.ensure_future(ask(running, "a"))
        await until(lambda: starts(tmp_path, "a"))
        kill(running, "a")
        assert (await asked).status == 200
        assert starts(tmp_path, "a") == 2


@pytest.mark.parametrize("mode", [OFFLOAD, SWAP], ids=["to RAM", "to disk"])
async def test_an_engine_killed_while_it_leaves_makes_its_place_free(
    tmp_path: Path, mode: dict[str, str]
) -> None:
    # It is asked to end, and does not hear.
    limits = replace(QUICK, supervisor=replace(QUICK.supervisor, stop_grace_s=60.0))
    flags = {"a": ("--ignore-term",)}
    async with sharing(
        tmp_path, "ab", mode, budget_gib=1.0, first="a", flags=flags, limits=limits
    ) as running:
        await running.ready("a")
        asked = asyncio.ensure_future(ask(running, "b"))
        await until(lambda: supervisor(running, "a").state is EngineState.STOPPING)
        kill(running, "a")
        assert (await asked).status == 200
        assert tier(running, "a") == ("cpu" if mode is OFFLOAD else "disk")


async def test_an_engine_killed_while_it_goes_to_sleep_makes_its_place_free(
    tmp_path: Path,
) -> None:
    way = StubSleep()
    way.aside_goes_on.clear()
    async with sharing(
        tmp_path, "ab", OFFLOAD, budget_gib=1.0, first="a", limits=QUICK, installed=asleep_by(way)
    ) as running:
        await running.ready("a")
        asked = asyncio.ensure_future(ask(running, "b"))
        await until(lambda: way.calls)
        kill(running, "a")
        assert (await asked).status == 200
        assert "not put to sleep (stub sleep): the engine ended" in running.said
        await until(lambda: tier(running, "a") in ("cpu", "disk"))
        way.aside_goes_on.set()
        assert (await ask(running, "a")).status == 200


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_an_engine_that_ends_or_hangs_as_it_wakes_is_started_anew(
    tmp_path: Path, number: int
) -> None:
    way = StubSleep()
    limits = replace(QUICK, mover=replace(QUICK.mover, answer_s=0.3, bring_back_s=0.3))
    async with sharing(
        tmp_path, "a", OFFLOAD, flags={"a": BALLAST}, limits=limits, installed=asleep_by(way)
    ) as running:
        await running.ready("a")
        assert await operate(running, "a", "sleep") == 200
        first = running.pid("a")
        way.back_goes_on.clear()
        asked = asyncio.ensure_future(ask(running, "a"))
        await until(lambda: "back" in way.calls)
        kill(running, "a", number)
        way.back_goes_on.set()
        assert (await asked).status == 200
        assert running.pid("a") != first
        assert tier(running, "a") == "gpu"


async def test_a_request_during_a_restart_in_place_waits_for_it(tmp_path: Path) -> None:
    flags = {"a": ("--load-seconds", "0.5")}
    async with sharing(tmp_path, "a", SWAP, flags=flags, limits=QUICK) as running:
        await running.ready("a")
        kill(running, "a")
        await until(lambda: running.status("a") == "loading")
        told = await asyncio.gather(*(ask(running, "a") for _ in range(3)))
        assert [each.status for each in told] == [200] * 3
        assert starts(tmp_path, "a") == 2


# Memory that is not there.


async def test_a_load_without_memory_gives_its_place_back_and_is_tried_again(
    tmp_path: Path,
) -> None:
    taken = tmp_path / "taken"
    taken.write_text(OUT_OF_MEMORY)
    flags = {"b": ("--fail-while", str(taken))}
    limits = replace(QUICK, load_wait_s=3.0)
    async with sharing(
        tmp_path, "ab", OFFLOAD, budget_gib=1.0, first="", flags=flags, limits=limits
    ) as running:
        await until(lambda: is_known(running, "a", "b"))
        asked = asyncio.ensure_future(ask(running, "b"))
        await until(lambda: "next try in" in running.said)
        # The place is not kept empty for it.
        assert (await ask(running, "a")).status == 200
        told = await asked
        assert told.status == 503
        assert int(told.headers["Retry-After"]) >= 1
        assert OUT_OF_MEMORY in told.text
        assert "it takes 1.00 GiB" in told.text
        assert running.status("b") == "offloaded"
        taken.unlink()
        again = asyncio.ensure_future(ask(running, "b"))
        assert (await again).status == 200, again.result().text


async def test_a_wake_without_memory_starts_it_anew_when_there_is_some(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    way = StubSleep()
    flags = {name: (*BALLAST, "--fail-while", str(taken)) for name in "ab"}
    async with sharing(
        tmp_path, "ab", OFFLOAD, flags=flags, limits=QUICK, installed=asleep_by(way)
    ) as running:
        await running.ready("a", "b")
        assert await operate(running, "a", "sleep") == 200
        way.refusal = "another process has the memory"
        taken.write_text(OUT_OF_MEMORY)
        asked = asyncio.ensure_future(ask(running, "a"))
        await until(lambda: "next try in" in running.said)
        assert "another process has the memory; it is started anew" in running.said
        assert (await ask(running, "b")).status == 200
        assert not asked.done()
        taken.unlink()
        assert (await asked).status == 200


async def test_memory_taken_while_an_engine_was_down_has_it_wait_for_its_turn(
    tmp_path: Path,
) -> None:
    taken = tmp_path / "taken"
    flags = {"a": ("--fail-while", str(taken))}
    async with sharing(tmp_path, "ab", SWAP, flags=flags, limits=QUICK) as running:
        await running.ready("a", "b")
        taken.write_text(OUT_OF_MEMORY)
        kill(running, "a")
        await until(lambda: tier(running, "a") == "disk")
        asked = asyncio.ensure_future(ask(running, "a"))
        assert (await ask(running, "b")).status == 200
        await until(lambda: "next try in" in running.said)
        taken.unlink()
        assert (await asked).status == 200


async def test_a_model_that_never_gets_its_memory_is_given_up_at_last(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text(OUT_OF_MEMORY)
    flags = {"b": ("--fail-while", str(taken))}
    backoff = replace(QUICK.supervisor.backoff, max_quick_crashes=2)
    limits = replace(QUICK, supervisor=replace(QUICK.supervisor, backoff=backoff))
    async with sharing(tmp_path, "ab", SWAP, first="a", flags=flags, limits=limits) as running:
        await running.ready("a")
        told = await ask(running, "b")
        assert told.status == 502
        assert "It failed 2 times in a row" in told.text
        assert running.status("b") == "failed"
        assert (await ask(running, "a")).status == 200
        taken.unlink()
        assert await operate(running, "b", "load") == 200
        assert (await ask(running, "b")).status == 200


async def test_a_sleep_that_frees_nothing_is_followed_by_a_stop(tmp_path: Path) -> None:
    way = StubSleep(frees=False)
    async with sharing(
        tmp_path, "ab", OFFLOAD, budget_gib=1.0, first="a", limits=QUICK, installed=asleep_by(way)
    ) as running:
        await running.ready("a")
        first = running.pid("a")
        assert (await ask(running, "b")).status == 200
        assert way.calls[:1] == ["aside"]
        await ends(first)
        assert tier(running, "a") == "cpu"  # its weights are kept all the same
        assert "stub sleep did not free its memory: 0 GiB of" in running.said
        assert (await ask(running, "a")).status == 200


async def test_without_host_ram_for_another_one_the_oldest_sleeping_model_is_stopped(
    tmp_path: Path,
) -> None:
    mode = {**OFFLOAD, "General/max_host_memory_gib": "0.0001"}  # one file of 64 KiB, and not two
    async with sharing(tmp_path, "abc", mode, budget_gib=1.0, first="a", limits=QUICK) as running:
        await running.ready("a")
        for name in "bc":
            assert (await ask(running, name)).status == 200
        assert [tier(running, name) for name in "abc"] == ["disk", "cpu", "gpu"]
        assert (await ask(running, "a")).status == 200


async def test_without_host_ram_for_any_a_model_goes_to_disk(tmp_path: Path) -> None:
    mode = {**OFFLOAD, "General/max_host_memory_gib": "0.00005"}
    async with sharing(tmp_path, "ab", mode, budget_gib=1.0, first="a", limits=QUICK) as running:
        await running.ready("a")
        assert (await ask(running, "b")).status == 200
        assert [tier(running, name) for name in "ab"] == ["disk", "gpu"]
        assert await operate(running, "b", "sleep") == 409


@dataclass
class FullDisk:
    """Cache hooks that find no room."""

    calls: list[str] = field(default_factory=list)

    async def save(self, engine: RunningEngine) -> None:
        self.calls.append("save")
        raise OSError(errno.ENOSPC, "No space left on device")

    async def restore(self, engine: RunningEngine) -> None:
        self.calls.append("restore")
        raise OSError(errno.ENOSPC, "No space left on device")

    def discard(self) -> None:
        self.calls.append("discard")


async def test_a_full_disk_costs_the_prompt_caches_only(tmp_path: Path) -> None:
    hooks = FullDisk()
    async with sharing(
        tmp_path, "ab", OFFLOAD, budget_gib=1.0, first="a", limits=QUICK, installed={"hooks": hooks}
    ) as running:
        await running.ready("a")
        assert (await ask(running, "b")).status == 200
        assert tier(running, "a") == "cpu"
        assert "a: what it had computed was not saved: [Errno 28] No space left" in running.said
        assert hooks.calls.count("save") == 1
    assert hooks.calls[-1] == "discard"


# An engine that hangs.


async def test_a_hung_engine_is_found_and_leaves_for_the_model_that_waits(
    tmp_path: Path,
) -> None:
    limits = replace(QUICK, supervisor=WATCHFUL)
    flags = {"a": ("--tokens", "1000", "--token-delay", "0.05")}
    async with sharing(
        tmp_path, "ab", OFFLOAD, budget_gib=1.0, first="a", flags=flags, limits=limits
    ) as running:
        await running.ready("a")
        stream = asyncio.ensure_future(ask(running, "a", stream=True))
        await until(lambda: running.instance.recorder.open_requests)
        first = running.pid("a")
        kill(running, "a", signal.SIGSTOP)
        told = await ask(running, "b")
        assert told.status == 200
        assert "it answered no health question" in running.said
        assert "engine" in (await stream).text
        # It is itself again when it is asked for.
        assert (await ask(running, "a", max_tokens=1)).status == 200
        assert running.pid("a") != first


async def test_a_hung_engine_that_nobody_waits_for_is_started_again_in_its_place(
    tmp_path: Path,
) -> None:
    limits = replace(QUICK, supervisor=WATCHFUL)
    async with sharing(tmp_path, "ab", OFFLOAD, limits=limits) as running:
        await running.ready("a", "b")
        first = running.pid("a")
        kill(running, "a", signal.SIGSTOP)
        told = await asyncio.gather(ask(running, "a"), ask(running, "b"))
        assert told[1].status == 200
        # The request that it had when it hung is lost with it.
        assert told[0].status in (200, 502)
        await running.ready("a")
        assert running.pid("a") != first
        assert (await ask(running, "a")).status == 200
        assert [tier(running, name) for name in "ab"] == ["gpu", "gpu"]


async def test_an_engine_that_stands_still_as_it_loads_is_started_again(tmp_path: Path) -> None:
    soon = replace(QUICK.supervisor, start_probe_s=0.3, no_progress_timeout_s=1.5)
    limits = replace(QUICK, supervisor=soon)
    async with sharing(tmp_path, "a", SWAP, first="", limits=limits) as running:
        await until(lambda: is_known(running, "a"))
        asked = asyncio.ensure_future(ask(running, "a"))
        await until(lambda: starts(tmp_path, "a"))
        kill(running, "a", signal.SIGSTOP)
        assert (await asked).status == 200
        assert starts(tmp_path, "a") == 2
        assert "it read nothing for" in running.said


# A model that crashes again and again.


async def test_a_model_that_crashes_at_every_load_is_given_up_until_an_operator_loads_it(
    tmp_path: Path,
) -> None:
    broken = tmp_path / "broken"
    broken.write_text("a tensor is missing")
    flags = {"b": ("--fail-while", str(broken))}
    async with sharing(
        tmp_path, "ab", SWAP, budget_gib=1.0, first="a", flags=flags, limits=QUICK
    ) as running:
        await running.ready("a")
        told = await ask(running, "b")
        assert told.status == 502
        assert "It failed 3 times in a row, so it is not restarted." in told.text
        assert "a tensor is missing" in told.text
        starts = supervisor(running, "b").starts
        began = time.monotonic()
        assert (await ask(running, "b")).text == told.text
        assert time.monotonic() - began < 1.0
        entry = (await models(running))["b"]
        assert entry["status"] == "failed"
        assert "a tensor is missing" in entry["failure"]
        assert '"b" could not be loaded: The engine of "b"' in running.said
        assert (await ask(running, "a")).status == 200
        assert supervisor(running, "b").starts == starts
        assert not running.stop.is_set
        broken.unlink()
        assert (await ask(running, "b")).status == 502  # nobody has said that it is mended
        assert await operate(running, "b", "load") == 200
        assert (await ask(running, "b")).status == 200
        assert "failure" not in (await models(running))["b"]


async def test_a_model_that_crashes_at_rest_again_and_again_is_not_started_by_requests(
    tmp_path: Path,
) -> None:
    flags = {"b": ("--exit-after", "0.3", "--exit-code", "3")}
    async with sharing(tmp_path, "ab", OFFLOAD, flags=flags, limits=QUICK) as running:
        await running.ready("a")
        await until(lambda: running.status("b") == "failed")
        starts = supervisor(running, "b").starts
        told = await ask(running, "b")
        assert told.status == 502
        assert "It failed 3 times in a row" in told.text
        assert "It failed 3 times in a row" in (await models(running))["b"]["failure"]
        assert (await models(running, "/admin/models"))["b"]["tier"] == "disk"
        assert (await ask(running, "a")).status == 200
        assert supervisor(running, "b").starts == starts
        assert await operate(running, "b", "load") == 200
        assert supervisor(running, "b").starts > starts

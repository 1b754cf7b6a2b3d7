"""An instance over real engine processes (the stub): what one model's fate means for the others."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from common.errors import CapacityError, RequestError
from tests.runtime.running_instance import BAD, Running, running, until


async def test_unloading_a_model_that_loads_does_not_fail_the_instance(tmp_path: Path) -> None:
    async with running(tmp_path, slow=("--load-seconds", "30")) as it:
        await until(lambda: it.instance.models[0].supervisor is not None)
        await it.instance.operations.unload("slow")
        assert it.status("slow") == "offloaded"
        await asyncio.sleep(0.05)
        assert not it.stop.is_set
        assert it.instance.failure is None


async def test_a_model_without_an_engine_cannot_be_unloaded(tmp_path: Path) -> None:
    async with running(tmp_path, m=()) as it:
        with pytest.raises(RequestError, match="still being fetched") as raised:
            await it.instance.operations.unload("m")
        assert raised.value.http_status == 409
        await it.ready("m")


async def test_an_unloaded_model_comes_back_by_request_and_by_load(tmp_path: Path) -> None:
    async with running(tmp_path, m=()) as it:
        await it.ready("m")
        await it.instance.operations.unload("m")
        assert (await it.chat("m"))[0] == 200
        await it.instance.operations.unload("m")
        await it.instance.operations.load("m")
        assert it.status("m") == "ready"


async def test_a_first_start_that_fails_ends_the_instance_and_spares_streams(
    tmp_path: Path,
) -> None:
    async with running(
        tmp_path,
        good=("--tokens", "10", "--token-delay", "0.2"),
        bad=("--never-ready", *BAD, "--exit-after", "1.5"),
    ) as it:
        await it.ready("good")
        stream = asyncio.create_task(it.chat("good", stream=True))
        assert await it.stop.wait(10)
        assert it.stop.reason is not None
        assert it.stop.reason.kind == "failed"
        assert "bad option --x" in str(it.instance.failure)
        await it.instance.drain()
        status, text = await stream
        assert status == 200
        assert text.rstrip().endswith("data: [DONE]")


async def test_an_engine_given_up_after_it_served_leaves_the_others_served(tmp_path: Path) -> None:
    async with running(tmp_path, one=(), two=()) as it:
        await it.ready("one", "two")
        await give_up(it, "one")
        assert not it.stop.is_set
        await until(lambda: "The other models are served on." in it.said)
        assert (await it.chat("two"))[0] == 200
        assert (await it.chat("one"))[0] >= 500
        await it.instance.operations.load("one")
        assert (await it.chat("one"))[0] == 200
        # With the last one gone there is nothing left to serve.
        await give_up(it, "two")
        await give_up(it, "one")
        assert await it.stop.wait(5)
        assert it.instance.failure is not None


async def give_up(it: Running, name: str) -> None:
    """Have a model's engine crash as often as it takes."""
    model = next(m for m in it.instance.models if m.name == name)
    supervisor = model.supervisor
    assert supervisor is not None
    limits = supervisor._limits.backoff
    object.__setattr__(limits, "max_quick_crashes", 1)
    os.kill(it.pid(name), signal.SIGKILL)
    await until(lambda: model.status == "failed")


async def test_a_failure_during_a_stop_does_not_change_its_reason(tmp_path: Path) -> None:
    async with running(tmp_path, m=("--never-ready", *BAD, "--exit-after", "0.6")) as it:
        it.stop.request("abort", "aborted by a user")
        await until(lambda: it.status("m") == "failed")
        assert it.instance.failure is None
        assert it.stop.reason is not None
        assert it.stop.reason.kind == "abort"


async def test_a_change_of_state_is_told_at_once(tmp_path: Path) -> None:
    async with running(tmp_path, m=()) as it:
        seen: list[str] = []
        it.instance.on_progress = lambda: seen.append(it.status("m"))
        it.instance._console.is_debug = True
        await it.ready("m")
        os.kill(it.pid("m"), signal.SIGKILL)
        await until(lambda: seen.count("ready") == 2)
        assert [s for n, s in enumerate(seen) if n == 0 or seen[n - 1] != s] == [
            "loading",
            "ready",
            "loading",
            "ready",
        ]
        await until(lambda: it.said.count("m: engine ready") == 2)
        assert "m: files " in it.said


async def test_a_request_cut_by_the_stop_is_told_so(tmp_path: Path) -> None:
    async with running(tmp_path, m=("--tokens", "400", "--token-delay", "0.1")) as it:
        await it.ready("m")
        stream = asyncio.create_task(it.chat("m", stream=True))
        await until(lambda: it.instance.recorder.open_requests)
        assert it.instance.gateway is not None
        await asyncio.sleep(0.3)
        assert not await it.instance.gateway.drain(0.1)
        await it.instance.close()
        status, text = await stream
        assert status == 200
        assert "The instance was stopped before the answer was complete." in text
        assert it.instance.recorder.snapshot().models["m"].results == {("stopped", 200): 1}


async def test_a_waiting_request_is_told_when_it_takes_too_long(tmp_path: Path) -> None:
    async with running(tmp_path, slow=("--load-seconds", "30")) as it:
        with pytest.raises(CapacityError):
            await it.instance.models[0].ensure_ready(0.05)
        await until(lambda: it.instance.models[0].supervisor is not None)
        with pytest.raises(CapacityError, match="not ready within"):
            await it.instance.models[0].ensure_ready(0.05)


async def test_what_a_starting_engine_is_doing_is_shown(tmp_path: Path) -> None:
    steps = ("--print", "noise", "--print", "step: loading the weights, 45 %", "--print", "noise")
    async with running(tmp_path, m=("--load-seconds", "30", *steps)) as it:
        model = it.instance.models[0]
        wanted = "starting the engine: loading the weights, 45 %"
        await until(lambda: it.instance.progress_of(model) == wanted)
        assert f"[m] {steps[3]}" in it.said
        assert "[m] noise" not in it.said
        os.kill(it.pid("m"), signal.SIGKILL)
        await until(lambda: "will be started again" in it.instance.progress_of(model))
        await until(lambda: it.instance.progress_of(model) == wanted)


async def test_what_an_engine_says_while_it_is_stopped_is_not_shown(tmp_path: Path) -> None:
    async with running(tmp_path, m=("--last-words", "Traceback"), n=()) as it:
        await it.ready("m", "n")
        await it.instance.operations.unload("m")
        assert "m: stopped" in it.said
        assert "[m] Traceback" not in it.said


async def test_the_last_words_of_an_engine_that_ends_by_itself_are_shown(tmp_path: Path) -> None:
    async with running(tmp_path, m=("--last-words", "Traceback")) as it:
        await it.ready("m")
        os.kill(it.pid("m"), signal.SIGTERM)
        await until(lambda: "[m] Traceback" in it.said)

"""Four real models that share memory for two: llama.cpp's own server, the real openai client."""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import httpx2
import psutil
import pytest
import requests
from openai import AsyncOpenAI

from apps.llamacpp.app import app
from common.demo.model import packaged_model
from common.runtime.checking import check_parameters
from common.runtime.console import Console
from common.runtime.instance import Instance as ServingInstance
from common.runtime.limits import InstanceLimits
from common.runtime.stopping import StopRequest
from tests.e2e.instances import KEY, ROOT, Instance, assert_all_gone, end_process, wait_for
from tests.memory.test_held_files import drop, resident_share
from tests.runtime.running_instance import until
from tests.soak.memory_clients import DONE, ID_FIELD, Tap, TappedTransport

pytestmark = [pytest.mark.engine, pytest.mark.timeout(180)]

CONTEXTS = {"small": 512, "medium": 768, "large": 1024, "extra": 1536}
BUDGET_GIB = 0.63
"""Two of these models, and not three: a test asserts it."""
TRAFFIC_S = 20.0
USERS = 8
SHOWN_TIERS = {
    "ready": {"gpu"},
    "loading": {"gpu", "cpu", "disk"},
    "sleeping": {"gpu", "cpu"},
    "offloaded": {"gpu", "cpu", "disk"},
}
"""Tiers of a model by its status; one that leaves its tier still counts there."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """A file for each model, so that it can be told whose pages are in RAM."""
    folder = tmp_path_factory.mktemp("turns")
    paths = {name: folder / f"{name}.gguf" for name in CONTEXTS}
    for path in paths.values():
        shutil.copyfile(packaged_model(), path)
        with path.open("rb") as file:
            os.fsync(file.fileno())  # only clean pages can be dropped
    yield paths
    shutil.rmtree(folder)


def parameters(files: Mapping[str, Path], mode: str) -> dict[str, Any]:
    models = [
        {
            "model": str(path),
            "model_endpoint_name": name,
            "context_size": CONTEXTS[name],
            "parallel": 2,
            "max_wait_seconds": 2,
        }
        for name, path in files.items()
    ]
    return {
        "Models/models": json.dumps(models),
        "General/host": "127.0.0.1",
        "General/api_key": KEY,
        "General/drain_seconds": 8,
        "General/engine": "llama-server",
        "General/max_cuda_memory_gib": BUDGET_GIB,
        f"General/{mode}": "true",
    }


@dataclass
class Serving:
    """An instance in this process, and the openai client's way to it."""

    instance: ServingInstance
    taps: dict[str, Tap]
    client: AsyncOpenAI
    session: aiohttp.ClientSession
    said: io.StringIO

    @property
    def url(self) -> str:
        assert self.instance.gateway is not None
        return self.instance.gateway.base_url

    async def listed(self, path: str = "/v1/models") -> dict[str, dict[str, Any]]:
        async with self.session.get(f"{self.url}{path}") as answer:
            assert answer.status == 200
            return {entry["id"]: entry for entry in (await answer.json())["data"]}


@asynccontextmanager
async def serving(files: Mapping[str, Path], mode: str, home: Path) -> AsyncIterator[Serving]:
    """Serve the models; heartbeats come early, so that short loads show them."""
    environ = {**os.environ, "CLEARML_CACHE_DIR": str(home)}
    out = io.StringIO()
    taps: dict[str, Tap] = {}
    llama = app()
    instance = ServingInstance(
        llama,
        check_parameters(llama, parameters(files, mode), environ),
        Console(out),
        StopRequest(asyncio.get_running_loop()),
        name="turns",
        task_id=None,
        environ=environ,
        limits=InstanceLimits(heartbeat_after_s=0.1, heartbeat_every_s=0.1),
    )
    http = httpx2.AsyncClient(transport=TappedTransport(taps), trust_env=False)
    try:
        await instance.start()
        assert instance.gateway is not None
        url = instance.gateway.base_url
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session,
            AsyncOpenAI(
                api_key=KEY, base_url=f"{url}/v1", max_retries=0, http_client=http
            ) as client,
        ):
            yield Serving(instance, taps, client, session, out)
    finally:
        await instance.close()


async def ask(serving: Serving, name: str, model: str, *, is_stream: bool) -> None:
    """Ask a question whose answer is known, and check all of what comes."""
    tap = serving.taps[name] = Tap()
    asked: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": "What is gravity?"}],
        "max_tokens": 16,
        "temperature": 0,
        "extra_headers": {ID_FIELD: name},
    }
    if is_stream:
        text, end = "", None
        async for chunk in await serving.client.chat.completions.create(**asked, stream=True):
            for choice in chunk.choices:
                text += choice.delta.content or ""
                end = choice.finish_reason or end
        assert end == "length", (name, text)
        assert tap.tail.endswith(DONE), (name, tap.tail)
    else:
        answer = await serving.client.chat.completions.create(**asked)
        text = answer.choices[0].message.content or ""
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 16
    assert "ravity" in text, (name, text)


async def use_at_random(serving: Serving, user: int, end: float) -> Counter[str]:
    """Ask models at random, most often those that everybody asks at the time; how often each."""
    pick = random.Random(user)
    names = list(CONTEXTS)
    count: Counter[str] = Counter()
    while time.monotonic() < end:
        favourite = names[int(time.monotonic() / 3) % len(names)]
        model = favourite if pick.random() < 0.5 else pick.choice(names)
        name = f"user-{user}-{count.total()}"
        await ask(serving, name, model, is_stream=pick.random() < 0.6)
        count[model] += 1
        await asyncio.sleep(pick.random() * 0.2)
    return count


async def watch(serving: Serving, tiers: set[str]) -> None:
    """Look at what is told of the models, and at what runs, until cancelled."""
    looks = 0
    while True:
        engines = [model.supervisor.pid for model in serving.instance.models if model.supervisor]
        running = [pid for pid in engines if pid is not None and psutil.pid_exists(pid)]
        assert len(running) <= 2
        if looks % 10 == 0:
            listed = await serving.listed()
            assert set(listed) == set(CONTEXTS)
            assert sum(entry["tier"] == "gpu" for entry in listed.values()) <= 2, listed
            for entry in listed.values():
                assert entry["tier"] in SHOWN_TIERS[entry["status"]], entry
                assert entry["tier"] in tiers, entry
        looks += 1
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("mode", "tiers"),
    [
        ("enable_automatic_cpu_offloading", {"gpu", "cpu", "disk"}),
        ("enable_disk_swapping", {"gpu", "disk"}),
    ],
)
async def test_nothing_is_lost_while_four_models_share_memory_for_two(
    files: dict[str, Path], mode: str, tiers: set[str], tmp_path: Path
) -> None:
    others = set(psutil.Process().children(recursive=True))  # servers of other tests
    async with serving(files, mode, tmp_path) as it:
        models = it.instance.models
        await until(lambda: all(model.turns for model in models))
        watching = asyncio.ensure_future(watch(it, tiers))
        end = time.monotonic() + TRAFFIC_S
        asked = await asyncio.gather(*(use_at_random(it, user, end) for user in range(USERS)))
        listed = await it.listed("/admin/models")
        assert not watching.done(), watching.exception()
        watching.cancel()
        await asyncio.wait({watching})

        # The budget is what this test is about: it must have room for two of them, and not for three.
        sizes = sorted(model.memory.bytes_by_pool["resident"] for model in models if model.answers)
        assert sum(sizes) <= BUDGET_GIB * 2**30 < 3 * sizes[0]

        counts = sum(asked, Counter())
        assert set(counts) == set(CONTEXTS)
        moves, results = Counter[str](), Counter[tuple[str, int]]()
        for totals in it.instance.recorder.snapshot().models.values():
            moves.update({kind: durations.count for kind, durations in totals.moves.items()})
            results.update(totals.results)
        assert moves.total() >= 8, (moves, it.said.getvalue())
        assert any(tap.comments for tap in it.taps.values()), "no stream had a heartbeat"
        assert results == {("ok", 200): counts.total()}
        assert {entry["status"] for entry in listed.values()} <= {"ready", "sleeping", "offloaded"}
        if "cpu" in tiers:
            check_held_files(it, listed, files)
        engines = set(psutil.Process().children(recursive=True)) - others
        assert engines
    assert_all_gone(list(engines), 5)


def check_held_files(
    it: Serving, listed: Mapping[str, Mapping[str, Any]], files: Mapping[str, Path]
) -> None:
    """The files of sleeping models are in RAM, also when the system would rather drop them."""
    assert "weights kept in host RAM" in it.said.getvalue()
    asleep = [name for name, entry in listed.items() if entry["tier"] == "cpu"]
    assert asleep, listed
    for name in asleep:
        drop(files[name])
        assert resident_share(files[name]) == 1.0, name


@contextmanager
def run_by_hand(given: Mapping[str, Any], folder: Path) -> Iterator[Instance]:
    """`clearml-deploy run llamacpp`, with its parameters as a person sets them."""
    output = folder / "console.txt"
    sets = [word for path, value in given.items() for word in ("--set", f"{path}={value}")]
    with output.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "common.cli.main", "run", "llamacpp", "--offline", *sets],
            stdout=stream,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={
                **os.environ,
                "CLEARML_CACHE_DIR": str(folder / "clearml"),
                "PYTHONUNBUFFERED": "1",
            },
            cwd=ROOT,
            start_new_session=True,
        )
    try:
        yield Instance(process, output)
    finally:
        end_process(process)


def test_models_take_turns_as_a_user_runs_them(files: dict[str, Path], tmp_path: Path) -> None:
    with run_by_hand(parameters(files, "enable_disk_swapping"), tmp_path) as instance:

        def is_ready() -> bool:
            assert instance.process.poll() is None, instance.console
            return "Serving on" in instance.console and any(
                model["status"] == "ready" for model in instance.models()
            )

        wait_for(is_ready, 60, "a model that is ready")
        for name in [*CONTEXTS, *CONTEXTS]:
            assert "ravity" in instance.chat(name)
        console = instance.console
        assert "the models share 0.63 GiB" in console
        for name in CONTEXTS:
            assert f'memory: "{name}" is loaded into memory' in console
            assert f'memory: "{name}" goes to disk: ' in console
        states = {model["id"]: model["tier"] for model in instance.models()}
        assert sorted(states.values()) == ["disk", "disk", "gpu", "gpu"]

        # Told to stop while one model answers and another one, which is away, has a request.
        family = instance.family()
        loaded = next(name for name, tier in states.items() if tier == "gpu")
        away = next(name for name, tier in states.items() if tier == "disk")
        body = {"model": loaded, "prompt": "a", "max_tokens": 60, "stream": True}
        with (
            ThreadPoolExecutor() as threads,
            requests.post(
                f"{instance.url}/v1/completions",
                json=body,
                headers=instance.headers,
                stream=True,
                timeout=60,
            ) as answer,
        ):
            lines = answer.iter_lines()
            next(lines)
            loads = console.count(f'memory: "{away}" is loaded into memory')
            waiting = threads.submit(instance.chat, away)
            wait_for(
                lambda: instance.console.count(f'memory: "{away}" is loaded into memory') > loads,
                20,
                f"a load of {away}",
            )
            instance.process.send_signal(signal.SIGTERM)
            rest = b"\n".join(lines)
            assert "ravity" in waiting.result()
        assert b"[DONE]" in rest
        assert instance.wait_end(20) == 0, instance.console
        assert "received SIGTERM" in instance.console
        assert_all_gone(family, 2)

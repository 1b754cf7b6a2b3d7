"""From "configuration is valid" to running engines: installation, late checks, companions, addresses."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import openai
import pytest

from common.engines.ports import pick_port
from common.errors import (
    ConfigurationError,
    DeployError,
    EngineMissingError,
    ModelNotFoundError,
    Problem,
)
from common.models.progress import FetchCancelledError
from common.runtime import preparation
from common.runtime.app import Companion, ModelExtras
from tests.fakes.hub_server import HubServer
from tests.runtime.running_instance import KEY, Running, running, serving, until
from tests.runtime.stub_app import StubApp
from tests.vllm.tiny_models import make_adapter, make_model

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    for name in list(os.environ):
        if name.startswith(("HF_", "HUGGINGFACE_")) or name.lower() in PROXIES:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    files = {path.name: path.read_bytes() for path in make_model(tmp_path / "made").iterdir()}
    with HubServer() as server:
        for name in ("org/one", "org/two", "org/words"):
            server.add_repo(name, files)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def gguf(folder: Path) -> str:
    path = folder / "m.gguf"
    path.write_bytes(b"GGUF" + b"\0" * 60)
    return str(path)


def contents(hub: HubServer) -> list[str]:
    """The files that were asked for, by name."""
    return [r.path.rpartition("/")[2] for r in hub.requests if "/resolve/" in r.path]


async def failure(it: Running) -> DeployError:
    assert await it.stop.wait(15)
    assert it.stop.reason is not None
    assert it.stop.reason.kind == "failed"
    assert it.instance.failure is not None
    return it.instance.failure


class Installation:
    """An installation that goes on until the test lets it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.go_on = threading.Event()
        self.cancelled = threading.Event()
        self._error = error

    def __call__(self, report: Callable[[str], None], cancel: threading.Event) -> None:
        report("installing stub 2: 1 of 3 packages")
        while not self.go_on.wait(0.01):
            if cancel.is_set():
                self.cancelled.set()
                raise FetchCancelledError("given up")
        if self._error is not None:
            raise self._error


async def test_models_are_loading_while_the_engine_is_installed(tmp_path: Path) -> None:
    installation = Installation()
    app = StubApp({}, install=installation, installed={"label": "stub 2", "notice": "Mind it."})
    async with serving(app, tmp_path, {"m": gguf(tmp_path)}) as it:
        model = it.instance.models[0]
        await until(lambda: it.instance.progress_of(model) == "installing stub 2: 1 of 3 packages")
        assert it.status("m") == "loading"
        assert it.instance.engine is None
        waiting = asyncio.create_task(it.chat("m"))
        await until(lambda: it.instance.recorder.open_requests)
        assert "Engine:" not in it.said
        installation.go_on.set()
        assert (await waiting)[0] == 200
        assert it.instance.engine is not None
        assert it.instance.engine.label == "stub 2"
    lines = it.said.splitlines()
    said = ["installing stub 2: 1 of 3 packages", "Engine: stub 2", "Mind it."]
    assert [line for line in lines if line in said] == said


async def test_an_installation_that_fails_ends_the_instance_with_its_reason(tmp_path: Path) -> None:
    error = EngineMissingError('There is no stub 2 (General/vllm_version = "2").')
    installation = Installation(error)
    installation.go_on.set()
    path = gguf(tmp_path)
    async with serving(StubApp({}, install=installation), tmp_path, {"a": path, "b": path}) as it:
        assert await failure(it) is error
        assert [model.status for model in it.instance.models] == ["failed", "failed"]
        status, text = await it.chat("b")
        assert (status, "There is no stub 2" in text) == (502, True)
    assert it.said.count("a, b: There is no stub 2") == 1


async def test_a_mistake_of_ours_during_the_installation_is_told_too(tmp_path: Path) -> None:
    installation = Installation(KeyError("oops"))
    installation.go_on.set()
    async with serving(StubApp({}, install=installation), tmp_path, {"m": gguf(tmp_path)}) as it:
        assert "KeyError: 'oops'" in str(await failure(it))


async def test_a_stop_gives_the_installation_up(tmp_path: Path) -> None:
    installation = Installation()
    async with serving(StubApp({}, install=installation), tmp_path, {"m": gguf(tmp_path)}) as it:
        await until(lambda: "installing" in it.said)
    assert installation.cancelled.is_set()
    assert it.instance.failure is None
    assert not it.stop.is_set
    assert it.instance.engine is None


async def test_a_stop_does_not_wait_for_an_installation_that_hangs(tmp_path: Path) -> None:
    let_go = threading.Event()

    def install(report: Callable[[str], None], cancel: threading.Event) -> None:
        report("hanging")
        let_go.wait(60)

    async with serving(StubApp({}, install=install), tmp_path, {"m": gguf(tmp_path)}) as it:
        await until(lambda: "hanging" in it.said)
    assert not let_go.is_set()
    let_go.set()


async def test_what_only_the_installed_engine_knows_is_told_before_any_fetch(
    tmp_path: Path, hub: HubServer
) -> None:
    problems = (Problem("--kv-cash is no option; did you mean --kv-cache?", path="cli"),)
    app = StubApp({}, wants="repository", installed={"problems": problems})
    async with serving(app, tmp_path, {"a": "org/one", "b": "org/two"}) as it:
        error = await failure(it)
    assert isinstance(error, ConfigurationError)
    assert [problem.path for problem in error.problems] == [
        "Models/models[0].cli",
        "Models/models[1].cli",
    ]
    assert hub.requests == []


async def test_what_config_json_tells_comes_before_the_weights(
    tmp_path: Path, hub: HubServer
) -> None:
    seen: list[Any] = []

    def problems(config: Mapping[str, Any]) -> list[Problem]:
        seen.append(config["architectures"])
        return [Problem("is above the model's own", path="temperature", value="9")]

    app = StubApp({}, wants="repository", config_problems=problems)
    async with serving(app, tmp_path, {"a": "org/one", "b": "org/two"}) as it:
        error = await failure(it)
    assert isinstance(error, ConfigurationError)
    assert [problem.path for problem in error.problems] == [
        "Models/models[0].temperature",
        "Models/models[1].temperature",
    ]
    assert seen == [["LlamaForCausalLM"]] * 2
    assert set(contents(hub)) == {"config.json"}


async def test_companions_are_fetched_before_the_weights_and_shared(
    tmp_path: Path, hub: HubServer
) -> None:
    adapter = make_adapter(tmp_path / "adapter")
    words = Companion("tokenizer", "org/words", "Tokenizer", "Model/tokenizer", want="tokenizer")
    lora = Companion("lora:sql", str(adapter), "LoRA Modules", "LoRA/lora_modules")
    extra = {"a": ModelExtras((words, lora), ("sql",)), "b": ModelExtras((words,))}
    app = StubApp({}, wants="repository", extra=extra)
    async with serving(app, tmp_path, {"a": "org/one", "b": "org/two"}) as it:
        await it.ready("a", "b")
        engine: Any = it.instance.engine
        plans = {plan.name: plan for plan in engine.plans}
        out = it.said
    assert set(plans["a"].companions) == {"tokenizer", "lora:sql"}
    assert plans["a"].companions["lora:sql"] == adapter
    tokenizer = plans["a"].companions["tokenizer"]
    assert plans["b"].companions == {"tokenizer": tokenizer}
    assert (tokenizer / "tokenizer.json").is_file()
    assert not (tokenizer / "model.safetensors").exists()
    assert [r.path for r in hub.requests].count("/api/models/org/words?blobs=true") == 1
    assert any(line.startswith("tokenizer: downloading org/words") for line in out.splitlines())
    assert f"[a] lora:sql at {adapter}" in out


async def test_a_model_in_an_adapters_place_is_refused_before_its_weights(
    tmp_path: Path, hub: HubServer
) -> None:
    wrong = Companion("lora:sql", "org/two", "LoRA Modules", "LoRA/lora_modules")
    app = StubApp({}, wants="repository", extra={"a": ModelExtras((wrong,), ("sql",))})
    async with serving(app, tmp_path, {"a": "org/one"}) as it:
        error = await failure(it)
    assert '"LoRA Modules" (LoRA/lora_modules): org/two is no LoRA adapter' in str(error)
    assert not [name for name in contents(hub) if name.endswith(".safetensors")]


async def test_what_comes_with_a_model_is_checked_before_its_weights(
    tmp_path: Path, hub: HubServer
) -> None:
    adapter = make_adapter(tmp_path / "adapter")
    lora = Companion("lora:sql", str(adapter), "LoRA Modules", "LoRA/lora_modules")
    app = StubApp(
        {},
        wants="repository",
        extra={"a": ModelExtras((lora,), ("sql",))},
        companion_problems=[Problem("rank 64", "Max LoRA Rank", "LoRA/max_lora_rank")],
    )
    async with serving(app, tmp_path, {"a": "org/one"}) as it:
        error = await failure(it)
    assert "rank 64" in str(error)
    assert "model.safetensors" not in contents(hub)


async def test_a_companion_that_is_not_there_is_told_with_its_option(
    tmp_path: Path, hub: HubServer
) -> None:
    missing = Companion("draft_model", "org/none", "Speculative Model", "Models/models[0].x")
    app = StubApp({}, wants="repository", extra={"a": ModelExtras((missing,))})
    async with serving(app, tmp_path, {"a": "org/one"}) as it:
        error = await failure(it)
    assert isinstance(error, ModelNotFoundError)
    assert str(error).startswith('"Speculative Model" (Models/models[0].x): ')
    assert "org/none" in str(error)
    assert "model.safetensors" not in contents(hub)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("m", "n"), '"n", an adapter of "m", is also the name of another'),
        (("sql", "sql"), '"sql", an adapter of "m", is also the name of another'),
        (("s q l",), "white space"),
        (("v1",), "route of the gateway itself"),
    ],
)
async def test_names_of_adapters_are_checked_at_once(
    names: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    app = StubApp({}, extra={"m": ModelExtras(adapters=names)})
    path = gguf(tmp_path)
    with pytest.raises(ConfigurationError, match=words):
        async with serving(app, tmp_path, {"m": path, "n": path}):
            raise AssertionError("it must not start")


async def test_adapters_are_used_with_the_openai_client(tmp_path: Path) -> None:
    path = gguf(tmp_path)
    app = StubApp({}, extra={"m": ModelExtras(adapters=("sql",))})
    async with serving(app, tmp_path, {"m": path, "n": path}) as it:
        await it.ready("m", "n")
        for base in (f"{it.url}/v1", f"{it.url}/sql/v1", f"{it.url}/m/v1"):
            async with openai.AsyncOpenAI(base_url=base, api_key=KEY, max_retries=0) as client:
                assert [entry.id for entry in (await client.models.list()).data] == [
                    "m",
                    "sql",
                    "n",
                ]
                answered = await client.chat.completions.create(
                    model="sql", messages=[{"role": "user", "content": "x"}]
                )
                assert answered.choices[0].message.content
        snapshot = it.instance.recorder.snapshot().models
        assert snapshot["m"].results == {("ok", 200): 3}
        assert "sql" not in snapshot


TCP = StubApp({}, installed={"listens_on_sockets": False})


async def test_an_engine_on_a_port_asks_for_a_key_that_only_the_gateway_has(
    tmp_path: Path,
) -> None:
    async with serving(TCP, tmp_path, {"m": gguf(tmp_path)}) as it:
        await it.ready("m")
        address = it.instance.models[0].address
        assert address.port is not None
        assert address.key is not None
        assert (await it.chat("m"))[0] == 200
        async with openai.AsyncOpenAI(
            base_url=f"{address.base_url}/v1", api_key=KEY, max_retries=0
        ) as client:
            with pytest.raises(openai.AuthenticationError):
                await client.models.list()
        assert it.instance.gateway is not None
        assert "llamacpp:" in await it.instance.gateway.engine_text("m", "/metrics")
        assert address.key not in it.said
        command = Path(f"/proc/{it.pid('m')}/cmdline").read_bytes()
        assert address.key.encode() not in command


async def test_a_restart_takes_another_port_and_key(tmp_path: Path) -> None:
    async with serving(TCP, tmp_path, {"m": gguf(tmp_path)}) as it:
        await it.ready("m")
        before = it.instance.models[0].address
        os.kill(it.pid("m"), signal.SIGKILL)
        await until(lambda: it.status("m") != "ready")
        assert (await it.chat("m"))[0] == 200
        after = it.instance.models[0].address
        assert (after.port, after.key) != (before.port, before.key)
        assert after.key != before.key


async def test_a_port_that_was_taken_in_between_is_left_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        taken = stranger.getsockname()[1]
        picks = iter([taken])
        monkeypatch.setattr(preparation, "pick_port", lambda: next(picks, None) or pick_port())
        async with serving(TCP, tmp_path, {"m": gguf(tmp_path)}) as it:
            await it.ready("m")
            assert it.instance.models[0].address.port != taken
            assert (await it.chat("m"))[0] == 200
            assert "restarting in 0 s" in it.said


async def test_a_model_without_an_engine_has_no_address(tmp_path: Path) -> None:
    async with running(tmp_path, m=()) as it:
        with pytest.raises(DeployError, match="never started"):
            _ = it.instance.models[0].address
        await it.ready("m")
        assert it.instance.models[0].address.socket_path is not None

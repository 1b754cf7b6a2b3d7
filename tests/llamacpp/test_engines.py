"""The same suite against the real native server and the real wheel; a smaller one for the third."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from apps.llamacpp.command import OURS, model_options
from apps.llamacpp.engines.discovery import find_engine
from apps.llamacpp.engines.installed import EngineKind
from apps.llamacpp.engines.wheel_params import SETTERS
from apps.llamacpp.flags import BUNDLED_CATALOGUE, load_catalogue
from common.engines.contract import EngineAddress
from tests.llamacpp.running_engine import RunningEngine, real_model, running
from tests.models.gguf_files import write_gguf

pytestmark = pytest.mark.engine

BOTH: tuple[EngineKind, ...] = ("llama-server", "xllamacpp")
ALL: tuple[EngineKind, ...] = (*BOTH, "llama_cpp.server")
QUESTION: list[Any] = [{"role": "user", "content": "Hi"}]

# Every sampling field, with values that no engine has by default.
SAMPLING = {
    "temperature": "0.25",
    "top_k": "17",
    "top_p": "0.75",
    "min_p": "0.125",
    "typical_p": "0.5",
    "repeat_penalty": "1.25",
    "repeat_last_n": "33",
    "xtc_probability": "0.5",
    "xtc_threshold": "0.25",
}


@pytest.mark.parametrize("kind", ALL)
async def test_chats_and_streams(kind: EngineKind, tmp_path: Path) -> None:
    async with running(kind, tmp_path) as starting:
        engine = await starting.ready()
        answer = await engine.client.chat.completions.create(
            model="tiny", messages=QUESTION, max_tokens=16, temperature=0
        )
        assert "Hello" in (answer.choices[0].message.content or "")
        stream = await engine.client.chat.completions.create(
            model="tiny", messages=QUESTION, max_tokens=16, temperature=0, stream=True
        )
        chunks = [chunk async for chunk in stream]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert "Hello" in text
        assert len(chunks) > 4
        assert await engine.stop() < 2


@pytest.mark.parametrize("kind", ALL)
async def test_serves_embeddings(kind: EngineKind, tmp_path: Path) -> None:
    async with running(kind, tmp_path, embedding="true") as starting:
        engine = await starting.ready()
        long = "word " * 600  # more than the default physical batch
        found = await engine.client.embeddings.create(model="tiny", input=["a cat", "a dog", long])
        assert [len(item.embedding) for item in found.data] == [576] * 3


@pytest.mark.parametrize("kind", BOTH)
async def test_shows_the_settings_it_was_given(kind: EngineKind, tmp_path: Path) -> None:
    async with running(kind, tmp_path, **SAMPLING) as starting:
        engine = await starting.ready()
        _, props = await engine.get("/props")
        shown = props["default_generation_settings"]
        params = shown["params"]
        assert [
            *(params["temperature"], params["top_k"], params["top_p"], params["min_p"]),
            *(params["typical_p"], params["repeat_penalty"], params["repeat_last_n"]),
            *(params["xtc_probability"], params["xtc_threshold"]),
        ] == [0.25, 17, 0.75, 0.125, 0.5, 1.25, 33, 0.5, 0.25]
        assert shown["n_ctx"] == 1024
        assert props["total_slots"] == 2
        assert props["model_alias"] == "tiny"
        async with engine.session.get(f"http://engine{engine.engine.metrics_path}") as response:
            assert "llamacpp:" in await response.text()
        async with engine.session.get("http://engine/") as response:
            assert response.status == 404  # no web page


async def test_both_engines_conclude_the_same_from_the_same_arguments(tmp_path: Path) -> None:
    async def props(kind: EngineKind, name: str, parameters: dict[str, str]) -> dict[str, Any]:
        folder = tmp_path / f"{name}-{kind}"
        folder.mkdir()
        async with running(kind, folder, **parameters) as starting:
            engine = await starting.ready()
            _, found = await engine.get("/props")
        for name in ("media_marker", "build_info"):
            found.pop(name, None)
        return dict(found)

    for name, parameters in (
        ("form", {**SAMPLING, "Advanced/flash_attention": "true", "Advanced/type_k": "q8_0"}),
        ("cli", {"cli": "--ctx-size 512 --seed 5 --mirostat 2 --dry-multiplier 0.5"}),
    ):
        native, wheel = [await props(kind, name, parameters) for kind in BOTH]
        assert native == wheel


@pytest.mark.parametrize("kind", BOTH)
async def test_slots_serve_side_by_side(kind: EngineKind, tmp_path: Path) -> None:
    async with running(kind, tmp_path) as starting:
        engine = await starting.ready()
        streams = [await count_up(engine) for _ in range(2)]
        iterators = [aiter(stream) for stream in streams]
        for _ in range(3):  # both move on in turn: neither waits for the other's end
            for iterator in iterators:
                await asyncio.wait_for(anext(iterator), 30)
        for stream in streams:
            await stream.close()


@pytest.mark.parametrize("kind", BOTH)
async def test_slots_share_the_trained_context_when_none_is_set(
    kind: EngineKind, tmp_path: Path
) -> None:
    async with running(kind, tmp_path, context_size="0", parallel="3") as starting:
        engine = await starting.ready()
        _, props = await engine.get("/props")
        assert props["total_slots"] == 3
        assert props["default_generation_settings"]["n_ctx"] == 8192


@pytest.mark.parametrize("kind", ALL)
async def test_ends_at_once_when_the_client_of_a_stream_is_gone(
    kind: EngineKind, tmp_path: Path
) -> None:
    async with running(kind, tmp_path) as starting:
        engine = await starting.ready()
        stream = await count_up(engine)
        await anext(aiter(stream))
        await stream.close()
        assert await engine.stop(signal.SIGTERM) < 2


async def test_wheel_ends_while_it_streams(tmp_path: Path) -> None:
    async with running("xllamacpp", tmp_path) as starting:
        engine = await starting.ready()
        stream = await count_up(engine)
        await anext(aiter(stream))
        assert await engine.stop(signal.SIGTERM) < 1
        await stream.close()
        assert not engine.socket.exists()


async def test_wheel_ends_while_it_loads(tmp_path: Path) -> None:
    async with running("xllamacpp", tmp_path) as engine:
        deadline = asyncio.get_running_loop().time() + 30
        while not any("loading model" in line for line in engine.output()):
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.005)
        assert await engine.stop(signal.SIGTERM) < 2


@pytest.mark.parametrize("kind", ALL)
async def test_unknown_architecture_is_named(kind: EngineKind, tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "m.gguf", arch="mysteryarch")
    async with running(kind, tmp_path, model=model) as engine:
        found = await engine.ended()
        assert found.is_configuration
        assert "architecture 'mysteryarch'" in found.summary


@pytest.mark.parametrize("kind", ALL)
async def test_truncated_file_is_told(kind: EngineKind, tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    with real_model().open("rb") as whole:
        model.write_bytes(whole.read(8_000_000))
    async with running(kind, tmp_path, model=model) as engine:
        found = await engine.ended()
        assert found.is_configuration
        assert "truncated" in found.summary


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(
    ("extra", "words"),
    [(("--bogus", "3"), "--bogus"), (("--ctx-size", "many"), "the value of --ctx-size")],
)
async def test_bad_argument_is_named(
    kind: EngineKind, extra: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    async with running(kind, tmp_path, extra=extra) as engine:
        found = await engine.ended()
        assert found.is_configuration
        assert words in found.summary


@pytest.mark.parametrize("kind", ALL)
async def test_busy_port_is_no_configuration_error(kind: EngineKind, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = EngineAddress(port=taken.getsockname()[1])
        async with running(kind, tmp_path, address=address) as engine:
            found = await engine.ended()
            assert not found.is_configuration
            assert "in use" in found.summary


async def test_wheel_refuses_by_name_what_it_cannot_do(tmp_path: Path) -> None:
    async with running("xllamacpp", tmp_path, extra=("--rpc", "host:1")) as engine:
        found = await engine.ended()
        assert "--rpc" in found.summary
        assert "the xllamacpp wheel cannot do --rpc" in found.summary


def test_wheel_has_every_attribute_that_its_flags_set() -> None:
    import xllamacpp

    from apps.llamacpp.engines.wheel_params import apply_items
    from common.options.cli_field import CliItem

    table = load_catalogue(BUNDLED_CATALOGUE).table
    words = {
        **{"--numa": "isolate", "--flash-attn": "on", "--split-mode": "row", "--fit": "on"},
        **{"--load-mode": "mmap+mlock", "--lazy-mode": "auto", "--rope-scaling": "yarn"},
        **{"--reasoning-format": "none", "--reasoning": "auto", "--pooling": "mean"},
        **{"--chat-template-kwargs": "{}", "--json-schema": "{}", "--prio": "2"},
        **{
            "--spec-type": "ngram-mod",
            "--override-tensor": "a=CPU",
            "--spec-draft-device": "none",
            "--mmproj-device": "none",
            "--lora-scaled": "f:0.5",
            "--prio-batch": "0",
        },
    }
    for flag in table:
        if flag.name not in SETTERS or flag.name.endswith("-file"):
            continue
        value = words.get(flag.name, "q8_0" if "-type-" in flag.name else "1")
        values = (value,) * flag.min_values
        for is_negated in {False, bool(flag.negatives)}:
            params = xllamacpp.CommonParams()
            apply_items(xllamacpp, params, (CliItem(flag, is_negated, values),))


@pytest.mark.parametrize(
    "leftover", [{"LLAMA_API_KEY": "hush"}, {"LLAMA_ARG_CTX_SIZE": "64"}, {"LLAMA_ARG_PORT": "x"}]
)
async def test_native_server_does_not_see_leftover_variables(
    leftover: dict[str, str], tmp_path: Path
) -> None:
    async with running("llama-server", tmp_path, environ=leftover) as starting:
        engine = await starting.ready()
        status, models = await engine.get("/v1/models")
        assert status == 200
        assert models["data"][0]["meta"]["n_ctx"] == 1024
        assert await engine.stop() < 2


def test_help_of_the_native_server_is_understood() -> None:
    table = find_engine("llama-server", None, os.environ).flags.table
    assert len(table) > 200
    assert {flag.min_values for flag in table} == {0, 1, 2}
    for name, option in model_options().items():
        if name not in OURS and option.flag:
            assert option.flag in table
    bundled = {flag.name: flag for flag in load_catalogue(BUNDLED_CATALOGUE).table}
    shared = [flag for flag in table if flag.name in bundled]
    assert len(shared) > 200
    assert [flag for flag in shared if flag.min_values != bundled[flag.name].min_values] == []


async def test_python_server_finishes_a_stream_when_another_begins(tmp_path: Path) -> None:
    async with running("llama_cpp.server", tmp_path) as starting:
        engine = await starting.ready()

        async def count() -> int:
            stream = await engine.client.chat.completions.create(
                model="tiny", messages=QUESTION, max_tokens=24, stream=True, temperature=0
            )
            return len([chunk async for chunk in stream])

        first, second = await asyncio.gather(count(), count())
        assert first == second
        status, _ = await engine.get("/health")
        assert status == 200


async def test_python_server_takes_any_request_id(tmp_path: Path) -> None:
    async with running("llama_cpp.server", tmp_path) as starting:
        engine = await starting.ready()
        answer = await engine.client.chat.completions.create(
            model="tiny",
            messages=QUESTION,
            max_tokens=4,
            extra_headers={"X-Request-Id": "job 7"},
        )
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 4


async def count_up(engine: RunningEngine) -> Any:
    return await engine.client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "Count from one to one thousand."}],
        max_tokens=400,
        stream=True,
        temperature=0,
        extra_body={"ignore_eos": True},
    )

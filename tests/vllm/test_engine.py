"""Real vLLMs behind the product: one instance by hand, with a chat model, an adapter and an embedder."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import requests
from openai import NotFoundError, OpenAI

from apps.vllm.environments.layout import EngineEnvironment
from tests.e2e.instances import KEY, Instance, assert_all_gone, running_instance, wait_for
from tests.vllm.conftest import TinyModels
from tests.vllm.engine_environment import ENVIRON, GENERAL, READY_S, SMALL

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]

CHAT, EMBED, LORA = "org/Tiny.v1", "embed", "sql"
QUESTION: Any = [{"role": "user", "content": "What is gravity?"}]


@pytest.fixture(scope="module")
def instance(vllm_environment: EngineEnvironment, tiny: TinyModels) -> Iterator[Instance]:
    """Two engines: one with an adapter and a draft model, one made an embedder by Model Overrides."""
    base = {"model": str(tiny.base), **SMALL, "enable_automatic_prefix_caching": True}
    overrides = json.dumps({"runner": "pooling", "convert": "embed", "max_model_len": 128})
    draft = {"speculative_model": str(tiny.draft), "num_speculative_tokens": 2}
    listed = [
        {**base, "model_endpoint_name": CHAT, "max_logprobs": 5, **draft},
        {**base, "model_endpoint_name": EMBED, "model_overrides": overrides},
    ]
    parameters = {
        **GENERAL,
        "Models/models": json.dumps(listed),
        "Advanced/enable_prompt_tokens_details": True,
        "LoRA/enable_lora": True,
        "LoRA/max_lora_rank": 8,
        "LoRA/lora_modules": f"{CHAT}:{LORA}={tiny.adapter}",
    }
    with running_instance(parameters, app="vllm", environ=ENVIRON, ready_s=READY_S) as running:
        yield running


@pytest.fixture
def client(instance: Instance) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{instance.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def complete(client: OpenAI, model: str = CHAT, prompt: str = "Hello", **more: Any) -> Any:
    return client.completions.create(
        model=model, prompt=prompt, max_tokens=8, temperature=0, **more
    )


class OverSocket(http.client.HTTPConnection):
    """HTTP over a Unix socket: the engine's own address, behind the gateway."""

    def __init__(self, path: str) -> None:
        super().__init__("engine", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


def argv_of(instance: Instance, model: str) -> list[str]:
    """The command line of a model's engine."""
    for process in instance.family():
        words = process.cmdline()
        if "--uds" in words and model in words:
            return words
    raise AssertionError(f"no engine of {model}")


def engine_metric(instance: Instance, model: str, name: str) -> float:
    """The sum of one of an engine's own counters."""
    words = argv_of(instance, model)
    connection = OverSocket(words[words.index("--uds") + 1])
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    found = re.findall(rf"^{name}\{{[^}}]*\}} (\S+)$", text, re.MULTILINE)
    assert found, text
    return sum(map(float, found))


def test_models_and_adapters_are_listed(client: OpenAI) -> None:
    listed = {model.id: model.model_dump() for model in client.models.list()}
    assert set(listed) == {CHAT, EMBED, LORA}
    assert listed[LORA]["parent"] == CHAT
    assert {model["status"] for model in listed.values()} == {"ready"}


def test_completions_are_repeatable(client: OpenAI) -> None:
    first, second = complete(client), complete(client)
    assert first.choices[0].text == second.choices[0].text
    assert first.usage.completion_tokens == 8
    assert first.model == CHAT


def test_adapter_answers_by_its_name_and_differs(client: OpenAI) -> None:
    base, adapted = complete(client), complete(client, LORA)
    assert adapted.model == LORA
    assert adapted.choices[0].text != base.choices[0].text
    assert complete(client).choices[0].text == base.choices[0].text


def test_chat_uses_the_models_template(client: OpenAI, instance: Instance) -> None:
    answer = client.chat.completions.create(model=CHAT, messages=QUESTION, max_tokens=4)
    assert answer.choices[0].message.role == "assistant"
    # "<|user|>", one token for each byte of the text, "<|assistant|>".
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len("What is gravity?") + 2
    tokens = requests.post(
        f"{instance.url}/{CHAT}/tokenize",
        json={"messages": QUESTION},
        headers=instance.headers,
        timeout=30,
    ).json()["tokens"]
    assert (tokens[0], tokens[-1]) == (258, 259)


def test_streams_come_piece_by_piece(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=CHAT,
            messages=QUESTION,
            max_tokens=12,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
    )
    assert len([chunk for chunk in chunks if chunk.choices]) > 5
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12


def test_log_probabilities(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=CHAT, messages=QUESTION, max_tokens=4, logprobs=True, top_logprobs=3, temperature=0
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 4
    for token in logprobs.content:
        assert len(token.top_logprobs) == 3
        # The most probable one was taken.
        assert token.logprob == max(top.logprob for top in token.top_logprobs) <= 0


def test_structured_output(client: OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}, "kind": {"enum": ["a", "b"]}},
        "required": ["ok", "kind"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=CHAT,
        messages=QUESTION,
        max_tokens=100,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": True},
        },
    )
    value = json.loads(answer.choices[0].message.content or "")
    assert set(value) == {"ok", "kind"}
    chosen = complete(client, extra_body={"structured_outputs": {"choice": ["yes", "no"]}})
    assert chosen.choices[0].text in ("yes", "no")


def test_prefixes_are_cached(client: OpenAI, instance: Instance) -> None:
    long = "The same long beginning of every question that is asked here. " * 3
    name = "vllm:prefix_cache_hits_total"
    complete(client, prompt=f"{long}One")
    before = engine_metric(instance, CHAT, name)
    answer = complete(client, prompt=f"{long}Two")
    cached = answer.usage.prompt_tokens_details.cached_tokens
    assert cached >= 64
    assert engine_metric(instance, CHAT, name) == before + cached


def test_the_engines_own_tokens_are_counted(client: OpenAI, instance: Instance) -> None:
    complete(client)

    def counted() -> bool:
        answer = requests.get(f"{instance.url}/metrics", headers=instance.headers, timeout=10)
        name = "clearml_deploy_generated_tokens_total"
        found = re.search(rf'^{name}\{{model="{CHAT}"\}} (\S+)$', answer.text, re.MULTILINE)
        return found is not None and float(found.group(1)) >= 8

    wait_for(counted, 60, "tokens of the engine")


def test_a_draft_model_speculates(client: OpenAI, instance: Instance) -> None:
    name = "vllm:spec_decode_num_draft_tokens_total"
    before = engine_metric(instance, CHAT, name)
    complete(client, prompt="Speculate")
    assert engine_metric(instance, CHAT, name) > before


def test_embeddings(client: OpenAI) -> None:
    answer = client.embeddings.create(model=EMBED, input=["red", "green"])
    assert [len(item.embedding) for item in answer.data] == [64, 64]
    assert answer.data[0].embedding != answer.data[1].embedding
    with pytest.raises(NotFoundError):
        complete(client, "nobody")


def test_overrides_win_over_the_fields(instance: Instance) -> None:
    lengths = {
        model: words[words.index("--max-model-len") + 1]
        for model in (CHAT, EMBED)
        for words in [argv_of(instance, model)]
    }
    assert lengths == {CHAT: "256", EMBED: "128"}
    assert '"Model Overrides"' in instance.console


def test_no_secret_is_shown(instance: Instance) -> None:
    assert KEY not in instance.console
    for process in instance.family():
        assert KEY not in " ".join(process.cmdline())


def test_stop_lets_a_stream_end_and_leaves_no_process(instance: Instance, client: OpenAI) -> None:
    family = instance.family()
    assert any("EngineCore" in " ".join(process.cmdline()) for process in family)
    stream = client.completions.create(
        model=CHAT,
        prompt="Go on",
        max_tokens=200,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    pieces = [next(stream)]
    reader = threading.Thread(target=lambda: pieces.extend(stream))
    reader.start()
    instance.process.send_signal(signal.SIGTERM)
    reader.join(60)
    assert not reader.is_alive()
    assert pieces[-1].choices[0].finish_reason == "length"
    assert instance.wait_end(60) == 0
    assert_all_gone(family, 10)
    assert psutil.pid_exists(instance.process.pid) is False

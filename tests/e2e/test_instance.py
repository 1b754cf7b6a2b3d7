"""One instance without an agent: a real engine, a real model, the real openai client."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator

import pytest
import requests
from openai import AuthenticationError, NotFoundError, OpenAI

from common.demo.model import packaged_model
from tests.e2e.instances import KEY, Instance, assert_all_gone, running_instance, wait_for

SMALL = {"context_size": 1024, "parallel": 2}


@pytest.fixture(
    scope="module",
    params=["xllamacpp", pytest.param("llama-server", marks=pytest.mark.engine)],
)
def engine(request: pytest.FixtureRequest) -> str:
    """The same suite over the wheel and, in `make test-engines`, over the native server."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def two_models(engine: str) -> Iterator[Instance]:
    """A chat model and an embedding model in one instance."""
    file = str(packaged_model())
    listed = [
        {"model": file, "model_endpoint_name": "org/Chat.v1", **SMALL},
        {"model": file, "model_endpoint_name": "embed", "embedding": True, **SMALL},
    ]
    with running_instance(
        {"Models/models": json.dumps(listed), "General/engine": engine}
    ) as instance:
        yield instance


@pytest.fixture
def client(two_models: Instance) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{two_models.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def test_openai_client_chats(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="org/Chat.v1",
        messages=[{"role": "user", "content": "What is gravity?"}],
        temperature=0,
        max_tokens=24,
    )
    assert "ravity" in (answer.choices[0].message.content or "")
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0


def test_openai_client_streams_piece_by_piece(client: OpenAI) -> None:
    pieces = [
        chunk.choices[0].delta.content or ""
        for chunk in client.chat.completions.create(
            model="org/Chat.v1",
            messages=[{"role": "user", "content": "What is gravity?"}],
            max_tokens=24,
            stream=True,
        )
        if chunk.choices
    ]
    assert len([piece for piece in pieces if piece]) > 5


def test_openai_client_lists_models_with_their_state(client: OpenAI) -> None:
    listed = {model.id: model for model in client.models.list()}
    assert set(listed) == {"org/Chat.v1", "embed"}
    assert listed["embed"].model_dump()["status"] == "ready"


def test_openai_client_gets_embeddings(client: OpenAI) -> None:
    answer = client.embeddings.create(model="embed", input=["red", "green"])
    assert len(answer.data) == 2
    assert len(answer.data[0].embedding) == 576


def test_each_model_answers_under_its_own_path(two_models: Instance) -> None:
    with OpenAI(base_url=f"{two_models.url}/org/Chat.v1/v1", api_key=KEY) as client:
        answer = client.chat.completions.create(
            model="anything", messages=[{"role": "user", "content": "Hello"}], max_tokens=4
        )
    assert answer.choices[0].message.content


def test_wrong_key_and_unknown_model_are_told_apart(two_models: Instance, client: OpenAI) -> None:
    with OpenAI(base_url=f"{two_models.url}/v1", api_key="wrong", max_retries=0) as other:
        with pytest.raises(AuthenticationError):
            other.models.list()
    with pytest.raises(NotFoundError, match="org/Chat.v1"):
        client.chat.completions.create(model="nobody", messages=[{"role": "user", "content": "x"}])


def test_metrics_count_requests_and_the_engines_tokens(two_models: Instance) -> None:
    two_models.chat("org/Chat.v1")
    answer = requests.get(f"{two_models.url}/metrics", headers=two_models.headers, timeout=10)
    assert answer.status_code == 200
    assert 'model="org/Chat.v1"' in answer.text


def test_a_model_is_unloaded_and_comes_back_with_the_next_request(two_models: Instance) -> None:
    answer = requests.post(
        f"{two_models.url}/admin/models/org/Chat.v1/unload", headers=two_models.headers, timeout=30
    )
    assert answer.status_code < 300, answer.text
    states = {model["id"]: model["status"] for model in two_models.models()}
    assert states == {"org/Chat.v1": "offloaded", "embed": "ready"}
    assert "ravity" in two_models.chat("org/Chat.v1")


def test_the_key_is_nowhere_on_the_console_or_a_command_line(two_models: Instance) -> None:
    assert KEY not in two_models.console
    for process in two_models.family():
        assert KEY not in " ".join(process.cmdline())


def test_killed_instance_leaves_no_engine(engine: str) -> None:
    with running_instance(
        {
            "General/engine": engine,
            "Model/model": str(packaged_model()),
            "Model/context_size": "512",
        }
    ) as instance:
        family = instance.family()
        assert len(family) > 2
        instance.process.kill()
        assert_all_gone(family, 5)


def test_sigterm_lets_a_stream_finish_and_leaves_nothing(engine: str) -> None:
    parameters = {
        "General/engine": engine,
        "Model/model": str(packaged_model()),
        "Model/model_endpoint_name": "m",
    }
    with running_instance({**parameters, "Model/context_size": "2048"}) as instance:
        family = instance.family()
        body = {
            "model": "m",
            "messages": [{"role": "user", "content": "Tell a long story about a fox."}],
            "max_tokens": 150,
            "stream": True,
        }
        with requests.post(
            f"{instance.url}/v1/chat/completions",
            json=body,
            headers=instance.headers,
            stream=True,
            timeout=60,
        ) as answer:
            lines = answer.iter_lines()
            next(lines)
            instance.process.send_signal(signal.SIGTERM)
            rest = b"\n".join(lines)
        assert b"[DONE]" in rest
        assert instance.wait_end(20) == 0
        assert "received SIGTERM" in instance.console
        assert_all_gone(family, 2)


def test_a_second_signal_ends_at_once(engine: str) -> None:
    parameters = {
        "General/engine": engine,
        "Model/model": str(packaged_model()),
        "Model/model_endpoint_name": "m",
    }
    with running_instance({**parameters, "General/drain_seconds": "600"}) as instance:
        family = instance.family()
        body = {"model": "m", "prompt": "a", "max_tokens": 2000, "stream": True, "ignore_eos": True}
        with requests.post(
            f"{instance.url}/v1/completions",
            json=body,
            headers=instance.headers,
            stream=True,
            timeout=60,
        ) as answer:
            lines = answer.iter_lines()  # kept: its end would close the connection
            next(lines)
            instance.process.send_signal(signal.SIGINT)
            wait_for(lambda: "SIGINT" in instance.console, 5, "the first signal's line")
            instance.process.send_signal(signal.SIGINT)
            started = time.monotonic()
            assert instance.wait_end(10) == 130, instance.console
            assert time.monotonic() - started < 5
        assert_all_gone(family, 5)


def test_idle_instance_ends_by_itself(engine: str) -> None:
    parameters = {
        "General/engine": engine,
        "Model/model": str(packaged_model()),
        "Model/context_size": "512",
        "Idle/idle_time_limit_hours": str(6 / 3600),
    }
    with running_instance(parameters) as instance:
        family = instance.family()
        # Polls are no use of the instance: they must not keep it alive.
        while instance.process.poll() is None:
            try:
                requests.get(f"{instance.url}/health", timeout=2)
            except requests.RequestException:
                break
            time.sleep(0.3)
        assert instance.wait_end(30) == 0
        assert "no request for" in instance.console
        assert_all_gone(family, 2)

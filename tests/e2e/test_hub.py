"""Models from Hugging Face: the whole instance, the real huggingface_hub client, a small local hub."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.demo.model import packaged_model
from common.local_server import start_background, stop
from tests.e2e.instances import running_instance, wait_for
from tests.fakes.hub_server import HubServer


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


def environment(hub: HubServer, tmp_path: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": ""}


def test_a_file_of_a_repository_by_wildcard(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo(
        "org/repo", {"Q4/S-Q4_1.gguf": packaged_model().read_bytes(), "README.md": b"hello"}
    )
    hub.bytes_per_second = 60_000_000
    parameters = {"Model/model": "org/repo/Q4/S*.gguf", "Model/context_size": "512"}
    with running_instance(parameters, environ=environment(hub, tmp_path)) as instance:
        (model,) = instance.models()
        assert model["id"] == "org/repo/Q4/S.gguf" or model["id"] == "org/repo/Q4/S-.gguf"
        assert "ravity" in instance.chat(model["id"])
        assert "downloading" in instance.console
        assert "MB/s" in instance.console


@pytest.mark.parametrize(
    ("reference", "token", "words"),
    [
        ("org/gated/m.gguf", "", ["org/gated", "gated", "HF_TOKEN"]),
        ("org/gated/m.gguf", "hf_stranger", ["org/gated", "access"]),
        ("org/none/m.gguf", "", ["org/none"]),
        ("org/plain/nothere.gguf", "", ["nothere.gguf"]),
        ("org/safetensors/x.gguf", "", ["org/safetensors", "GGUF"]),
        ("org/plain@v9/m.gguf", "", ["v9"]),
    ],
)
def test_a_model_that_cannot_be_had_fails_with_the_exact_cause(
    hub: HubServer, tmp_path: Path, reference: str, token: str, words: list[str]
) -> None:
    hub.add_repo("org/gated", {"m.gguf": b"GGUF"}, gated=True)
    hub.add_repo("org/plain", {"m.gguf": b"GGUF"})
    hub.add_repo("org/safetensors", {"model.safetensors": b"x", "config.json": b"{}"})
    parameters = {"Model/model": reference, "General/hugging_face_token": token}
    env = environment(hub, tmp_path)
    with running_instance(parameters, environ=env, serving=False) as instance:
        assert instance.wait_end(60) == 1
        for word in words:
            assert word in instance.console
        if token:
            assert token not in instance.console


def test_a_stop_during_a_download_is_quick_and_leaves_no_half_file(
    hub: HubServer, tmp_path: Path
) -> None:
    hub.add_repo("org/slow", {"m.gguf": packaged_model().read_bytes()})
    server = start_background(tmp_path / "server", agent_queue=None)
    try:
        with server.client() as client:
            url = f"{hub.url}/storage/org/slow/m.gguf"
            model_id = client.call("models.create", name="slow model", uri=url, labels={})["id"]
        hub.bytes_per_second = 2_000_000
        cache = tmp_path / "cache"
        with running_instance(
            {"Model/model": model_id},
            environ=server.environment,
            offline=False,
            serving=False,
            cache=cache,
        ) as instance:
            wait_for(lambda: "downloading slow model" in instance.console, 30, "download")
            wait_for(lambda: list(cache.rglob("*.partially*")), 10, "a file that grows")
            instance.process.send_signal(signal.SIGTERM)
            assert instance.wait_end(10) == 0, instance.console
        assert not list(cache.rglob("*.partially*"))
    finally:
        stop(tmp_path / "server")

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from common.errors import (
    CapacityError,
    ConfigurationError,
    DeployError,
    ModelAccessError,
    ModelFormatError,
    ModelNotFoundError,
    ModelUnavailableError,
)
from common.models.fetch import ModelFiles, fetch, peek
from common.models.gguf import read_model
from common.models.hub import HubSettings
from common.models.progress import FetchCancelledError, ProgressEvent
from tests.fakes.hub_server import HubServer, HugeFile, etag_of
from tests.vllm.tiny_models import make_model

from .gguf_files import write_gguf

MB = 10**6


def partial_of(settings: HubSettings, repo: str, data: bytes) -> Path:
    folder = settings.cache_dir / f"models--{repo.replace('/', '--')}" / "blobs"
    return folder / f"{etag_of(data)}.incomplete"


def test_fetch_downloads_reports_and_is_readable_by_the_library(
    hub: HubServer, settings: HubSettings, tmp_path: Path
) -> None:
    from huggingface_hub import hf_hub_download

    model = write_gguf(tmp_path / "m.gguf").read_bytes()
    commit = hub.add_repo("org/repo", {"Q4/m.gguf": model, "README.md": b"hello"})
    events: list[ProgressEvent] = []
    files = fetch("org/repo/Q4/m*.gguf", progress=events.append)

    assert files.first.read_bytes() == model
    assert (files.all, files.size_bytes) == ((files.first,), len(model))
    assert files.origin == "Hugging Face"
    assert read_model(files.all)[0].architecture == "llama"
    assert events[0].done_bytes == 0
    assert (events[-1].done_bytes, events[-1].total_bytes) == (len(model), len(model))
    # What the library itself would use, without the network.
    theirs = hf_hub_download(
        "org/repo", "Q4/m.gguf", cache_dir=settings.cache_dir, local_files_only=True
    )
    assert Path(theirs) == files.first
    assert commit in theirs
    assert not list(settings.cache_dir.rglob("*.incomplete"))


def test_fetch_of_what_is_there_asks_for_the_listing_only(hub: HubServer) -> None:
    hub.add_repo("org/repo", {"m.gguf": b"x" * 1000})
    first = fetch("org/repo/m.gguf")
    hub.requests.clear()
    assert fetch("org/repo/m.gguf") == first
    assert [request.path for request in hub.requests] == ["/api/models/org/repo?blobs=true"]


def test_telemetry_is_off(hub: HubServer) -> None:
    hub.add_repo("org/repo", {"m.gguf": b"x" * 1000})
    fetch("org/repo/m.gguf")
    assert all("agent" not in request.path for request in hub.requests)
    agents = {request.headers["user-agent"] for request in hub.requests}
    assert all("; agent/" not in agent and "; torch/" not in agent for agent in agents)


def test_split_model_brings_all_parts(hub: HubServer) -> None:
    parts = {f"Q8/m-0000{number}-of-00003.gguf": os.urandom(5000) for number in (1, 2, 3)}
    hub.add_repo("org/repo", {**parts, "Q4/m.gguf": b"other"})
    for reference in ("org/repo/Q8/m-00002-of-00003.gguf", "org/repo/Q8/*.gguf", "org/repo/Q8"):
        files = fetch(reference)
        assert [path.read_bytes() for path in files.all] == list(parts.values())
        assert files.first.name == "m-00001-of-00003.gguf"
        assert files.size_bytes == 15000
    assert len(hub.gets("m-00003-of-00003")) == 1


def test_cut_connection_is_resumed_with_a_range(hub: HubServer) -> None:
    data = os.urandom(6 * MB)
    hub.add_repo("org/repo", {"m.gguf": data})
    hub.cuts["m.gguf"] = [3 * MB, 2 * MB]
    events: list[ProgressEvent] = []
    assert fetch("org/repo/m.gguf", progress=events.append).first.read_bytes() == data
    starts = [int((request.range or "bytes=0-")[6:-1]) for request in hub.gets("m.gguf")]
    assert len(starts) == 3
    assert 0 == starts[0] < starts[1] < starts[2]
    assert starts[1] >= 2 * MB
    assert [event.done_bytes for event in events] == sorted(event.done_bytes for event in events)


def test_next_process_resumes_what_an_earlier_one_received(
    hub: HubServer, settings: HubSettings
) -> None:
    data = os.urandom(3 * MB)
    hub.add_repo("org/repo", {"m.gguf": data})
    partial = partial_of(settings, "org/repo", data)
    partial.parent.mkdir(parents=True)
    partial.write_bytes(data[:MB])
    events: list[ProgressEvent] = []
    assert fetch("org/repo/m.gguf", progress=events.append).first.read_bytes() == data
    assert [request.range for request in hub.gets("m.gguf")] == [f"bytes={MB}-"]
    assert events[0].done_bytes == MB


def test_partial_file_with_other_content_is_noticed(hub: HubServer, settings: HubSettings) -> None:
    data = os.urandom(2 * MB)
    hub.add_repo("org/repo", {"m.gguf": data})
    partial = partial_of(settings, "org/repo", data)
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"z" * MB)
    assert fetch("org/repo/m.gguf").first.read_bytes() == data
    assert [request.range for request in hub.gets("m.gguf")] == [f"bytes={MB}-", None]


def test_partial_file_longer_than_the_file_is_dropped(
    hub: HubServer, settings: HubSettings
) -> None:
    data = os.urandom(MB)
    hub.add_repo("org/repo", {"m.gguf": data})
    partial = partial_of(settings, "org/repo", data)
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"z" * 2 * MB)
    assert fetch("org/repo/m.gguf").first.read_bytes() == data


def test_server_without_ranges_starts_again(hub: HubServer) -> None:
    data = os.urandom(4 * MB)
    hub.add_repo("org/repo", {"m.gguf": data})
    hub.ignores_ranges = True
    hub.cuts["m.gguf"] = [3 * MB]
    assert fetch("org/repo/m.gguf").first.read_bytes() == data
    assert [request.status for request in hub.gets("m.gguf")] == [200, 200]


def test_connection_that_always_breaks_ends_with_the_cause_and_keeps_the_bytes(
    hub: HubServer, settings: HubSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.models.hub_download._wait", lambda *_: None)
    data = os.urandom(3 * MB)
    hub.add_repo("org/repo", {"m.gguf": data})
    hub.cuts["m.gguf"] = [2 * MB] + [0] * 20
    with pytest.raises(ModelUnavailableError, match=r"broke 5 times .* of 3\.0 MB received"):
        fetch("org/repo/m.gguf")
    assert partial_of(settings, "org/repo", data).stat().st_size >= MB
    assert len(hub.gets("m.gguf")) == 6


def test_overloaded_server_is_asked_again(hub: HubServer) -> None:
    hub.add_repo("org/repo", {"m.gguf": b"x" * 1000})
    hub.fail_status = [503]
    assert fetch("org/repo/m.gguf").size_bytes == 1000
    hub.fail_status = [502] * 5
    hub.add_repo("org/other", {"m.gguf": b"x" * 1000})
    with pytest.raises(ModelUnavailableError, match="answered 502 for org/other"):
        fetch("org/other/m.gguf")


def test_cancel_keeps_what_was_received(hub: HubServer, settings: HubSettings) -> None:
    data = os.urandom(8 * MB)
    hub.add_repo("org/repo", {"m.gguf": data})
    hub.bytes_per_second = 4 * MB
    cancel = threading.Event()

    def stop(event: ProgressEvent) -> None:
        if event.done_bytes:
            cancel.set()

    with pytest.raises(FetchCancelledError):
        fetch("org/repo/m.gguf", progress=stop, cancel=cancel)
    received = partial_of(settings, "org/repo", data).stat().st_size
    assert 0 < received < len(data)
    hub.bytes_per_second = None
    hub.requests.clear()
    assert fetch("org/repo/m.gguf").first.read_bytes() == data
    assert [request.range for request in hub.gets("m.gguf")] == [f"bytes={received}-"]


@pytest.mark.parametrize(
    ("reference", "token", "kind", "words"),
    [
        ("org/none/m.gguf", None, ModelNotFoundError, "no repository org/none"),
        ("org/none/m.gguf", "hf_good", ModelNotFoundError, "the token has no access"),
        ("org/open/x.gguf", None, ModelNotFoundError, "Its GGUF models: m.gguf"),
        ("org/open@v9/m.gguf", None, ModelNotFoundError, "no revision 'v9'"),
        ("org/open/m.gguf", "hf_bad", ModelAccessError, "token is not valid"),
        ("org/gated/m.gguf", None, ModelAccessError, "is gated, and there is no token"),
        ("org/gated/m.gguf", "hf_stranger", ModelAccessError, "the token has no access to it"),
        ("org/private/m.gguf", None, ModelNotFoundError, "or it is private"),
        ("org/private/m.gguf", "hf_stranger", ModelNotFoundError, "or it is private"),
        ("org/tensors/m.gguf", None, ModelFormatError, "has no GGUF file, only safetensors"),
        ("org/tensors", None, ModelFormatError, "has no GGUF file, only safetensors"),
    ],
)
def test_refusals_name_the_exact_cause(
    hub: HubServer, reference: str, token: str | None, kind: type[DeployError], words: str
) -> None:
    model = {"m.gguf": b"x" * 1000}
    hub.add_repo("org/open", model)
    hub.add_repo("org/gated", model, gated=True)
    hub.add_repo("org/private", model, private=True)
    hub.add_repo("org/tensors", {"model.safetensors": b"x", "config.json": b"{}"})
    with pytest.raises(DeployError) as caught:
        fetch(reference, token=token)
    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert token is None or token not in str(caught.value)


def test_token_from_argument_or_environment_reaches_the_hub_and_not_the_storage(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, private in enumerate((False, True)):
        name = f"org/repo{number}"
        hub.add_repo(name, {"m.gguf": b"x" * 1000}, gated=not private, private=private)
        if private:
            monkeypatch.setenv("HF_TOKEN", "hf_good")
            fetch(f"{name}/m.gguf")
        else:
            fetch(f"{name}/m.gguf", token="hf_good")
    for request in hub.requests:
        sent = request.headers.get("authorization")
        assert sent == (None if request.path.startswith("/storage/") else "Bearer hf_good")


def test_settings_do_not_show_the_token() -> None:
    assert "secret" not in repr(HubSettings.from_environment("hf_secret"))


def test_revision_in_the_reference_or_the_settings(hub: HubServer) -> None:
    hub.add_repo("org/repo", {"m.gguf": b"x" * 1000}, branches=("v1", "refs/pr/3"))
    assert fetch("org/repo@v1/m.gguf") == fetch("org/repo/m.gguf", revision="v1")
    assert fetch("org/repo@refs%2Fpr%2F3/m.gguf").size_bytes == 1000
    with pytest.raises(ConfigurationError, match="'v1'"):
        fetch("org/repo@v1/m.gguf", revision="v2")


def test_disk_too_small_is_told_before_the_first_byte(
    hub: HubServer, settings: HubSettings
) -> None:
    hub.add_repo("org/repo", {"m.gguf": HugeFile(10**15)})
    with pytest.raises(CapacityError) as caught:
        fetch("org/repo/m.gguf")
    assert "needs 1000.0 TB" in str(caught.value)
    assert str(settings.cache_dir) in str(caught.value)
    assert "clearml-deploy cache prune" in str(caught.value)
    assert not hub.gets("m.gguf")
    assert not list(settings.cache_dir.rglob("*.incomplete"))


def test_disk_that_fills_up_meanwhile(
    hub: HubServer, settings: HubSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(MB)
    hub.add_repo("org/repo", {"m.gguf": data})
    partial = partial_of(settings, "org/repo", data)
    partial.parent.mkdir(parents=True)
    # The kernel's own full disk.
    partial.symlink_to("/dev/full")
    with pytest.raises(CapacityError, match="The disk filled up while org/repo"):
        fetch("org/repo/m.gguf")


def test_offline_mode_uses_the_cache_alone(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add_repo("org/repo", {"Q4/m.gguf": b"x" * 1000}, branches=("v1",))
    online = fetch("org/repo@v1/Q4/m.gguf")
    fetch("org/repo/Q4/m.gguf")
    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch("org/repo@v1/Q4/*.gguf") == online
    assert fetch("org/repo/Q4/m.gguf").first == online.first
    for reference in ("org/other/m.gguf", "org/repo@v2/m.gguf"):
        with pytest.raises(ModelNotFoundError, match=r"offline mode is on \(HF_HUB_OFFLINE\)"):
            fetch(reference)
    with pytest.raises(ModelNotFoundError, match="No file matches 'Q8/m.gguf'"):
        fetch("org/repo/Q8/m.gguf")
    assert hub.requests == []


def test_hub_that_is_away_is_named_unless_the_cache_has_it(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo("org/repo", {"m.gguf": b"x" * 1000})
    online = fetch("org/repo/m.gguf")
    url = hub.url
    hub.stop()
    assert fetch("org/repo/m.gguf") == online
    with pytest.raises(ModelUnavailableError, match=f"{url} cannot be reached for org/other"):
        fetch("org/other/m.gguf")


def repository(folder: Path, *more: str) -> dict[str, bytes]:
    """The files of a real model, and others beside them."""
    make_model(folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return files | {name: name.encode() for name in more}


def names_of(files: ModelFiles) -> list[str]:
    return sorted(path.relative_to(files.first).as_posix() for path in files.all)


def test_repository_brings_the_weights_once(hub: HubServer, tmp_path: Path) -> None:
    model = repository(tmp_path / "m", "tokenizer/a.json", "model.gguf", "x.bin")
    commit = hub.add_repo("org/repo", model)
    files = fetch("org/repo", want="repository")
    assert files.first.name == commit
    assert names_of(files) == sorted(set(model) - {"model.gguf", "x.bin"})
    assert fetch("org/repo", want="repository") == files


def test_repository_in_a_folder_of_another(hub: HubServer, tmp_path: Path) -> None:
    model = repository(tmp_path / "m")
    hub.add_repo("org/repo", {f"sub/{name}": data for name, data in model.items()})
    assert names_of(fetch("org/repo/sub", want="repository")) == sorted(model)
    assert list(peek("org/repo/sub")) == ["config.json"]
    with pytest.raises(ModelFormatError, match="its folder 'sub' has"):
        fetch("org/repo", want="repository")


def test_tokenizer_comes_without_the_weights(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo("org/repo", repository(tmp_path / "m", "code.py"))
    files = fetch("org/repo", want="tokenizer")
    assert names_of(files) == ["code.py", "config.json", "tokenizer.json", "tokenizer_config.json"]
    assert hub.gets("model.safetensors") == []


def test_peek_brings_only_what_it_names(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo("org/repo", repository(tmp_path / "m"))
    found = peek("org/repo", names=("config.json", "adapter_config.json"))
    assert list(found) == ["config.json"]
    assert json.loads(found["config.json"].read_text())["model_type"] == "llama"
    assert len(hub.gets("/")) == 1
    fetch("org/repo", want="repository")
    assert len(hub.gets("config.json")) == 1 + len(hub.gets("tokenizer_config.json"))


def test_peek_refuses_what_no_engine_loads_before_its_weights(hub: HubServer) -> None:
    hub.add_repo("org/gguf", {"m.gguf": b"x"})
    with pytest.raises(ModelFormatError, match="a model for llama.cpp"):
        peek("org/gguf")
    hub.add_repo("org/gated", {"config.json": b"{}"}, gated=True)
    with pytest.raises(ModelAccessError, match="org/gated is gated, and there is no token"):
        peek("org/gated")
    assert hub.gets("/") == []


def test_configuration_alone_in_the_cache_is_no_model_when_the_hub_is_away(
    hub: HubServer, tmp_path: Path
) -> None:
    hub.add_repo("org/repo", repository(tmp_path / "m"))
    peek("org/repo")
    hub.stop()
    assert list(peek("org/repo")) == ["config.json"]
    with pytest.raises(ModelUnavailableError, match="cannot be reached for org/repo"):
        fetch("org/repo", want="repository")


def test_damaged_repository_names_the_file(hub: HubServer, tmp_path: Path) -> None:
    model = repository(tmp_path / "m")
    hub.add_repo("org/short", model | {"model.safetensors": model["model.safetensors"][:-100]})
    with pytest.raises(ModelFormatError, match="model.safetensors is truncated"):
        fetch("org/short", want="repository")
    hub.add_repo("org/json", model | {"config.json": b"{"})
    with pytest.raises(ModelFormatError, match="config.json of org/json is not JSON"):
        fetch("org/json", want="repository")


def test_files_above_the_http_limit_are_left_to_the_library(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.models.hub._HTTP_LIMIT_BYTES", 100)
    hub.add_repo("org/repo", {"m.gguf": b"x" * 1000})
    events: list[ProgressEvent] = []
    files = fetch("org/repo/m.gguf", progress=events.append)
    assert files.first.read_bytes() == b"x" * 1000
    assert events[-1].done_bytes == 1000

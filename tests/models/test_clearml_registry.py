"""Models of a real local ClearML server, through the real SDK."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.local_server import RunningServer
from common.models.gguf import read_model
from tests.fakes.hub_server import HubServer
from tests.fixtures_clearml import run_sdk_script
from tests.vllm.tiny_models import make_model

from .gguf_files import write_gguf

ACTIONS = Path(__file__).with_name("clearml_actions.py")
MB = 10**6
Act = Callable[..., Any]


@pytest.fixture
def act(clearml_server: RunningServer, tmp_path: Path) -> Act:
    def run(action: str, **arguments: Any) -> Any:
        return run_sdk_script(
            clearml_server, ACTIONS, action, json.dumps(arguments), cache=tmp_path / "cache"
        )

    return run


def test_model_is_downloaded_once_with_progress_listed_and_pruned(
    act: Act, clearml_server: RunningServer, tmp_path: Path
) -> None:
    source = write_gguf(tmp_path / "source.gguf")
    url = f"{clearml_server.files_url}/models/once/m.gguf"
    model_id = act("register", name="My Model", url=url, upload={url: str(source)})["id"]

    found = act("fetch", reference=model_id)
    path = Path(found["first"])
    assert path.read_bytes() == source.read_bytes()
    assert path.is_relative_to(tmp_path / "cache")
    assert (found["origin"], found["name"]) == ("ClearML", "My Model")
    assert read_model([path])[0].architecture == "llama"
    last = found["events"][-1]
    assert (last["stage"], last["done_bytes"], last["total_bytes"]) == (
        "downloading",
        source.stat().st_size,
        source.stat().st_size,
    )
    again = act("fetch", reference=model_id)
    assert (again["first"], again["events"]) == (found["first"], [])
    size = source.stat().st_size
    assert act("cached") == [{"name": "m.gguf", "size": size, "ours": True}]
    assert act("prune_all") == ["m.gguf"]
    assert not path.exists()
    assert act("cached") == []


def test_progress_of_the_sdk_is_not_told_beside_our_own(
    act: Act, clearml_server: RunningServer, tmp_path: Path
) -> None:
    source = tmp_path / "large.gguf"
    source.write_bytes(write_gguf(tmp_path / "m.gguf").read_bytes() + bytes(12 * MB))
    url = f"{clearml_server.files_url}/models/told/m.gguf"
    model_id = act("register", name="Told", url=url, upload={url: str(source)})["id"]
    assert act("told", reference=model_id) == []


def test_configuration_of_an_agent_changes_nothing(
    act: Act, clearml_server: RunningServer, tmp_path: Path
) -> None:
    # clearml-agent gives its tasks this setting, with which the SDK would keep files elsewhere.
    config = tmp_path / "agent.conf"
    size = "\nsdk.storage.cache.size.min_free_bytes: 1MB\n"
    config.write_text(clearml_server.config_file.read_text() + size)
    source = write_gguf(tmp_path / "source.gguf")
    url = f"{clearml_server.files_url}/models/agent/m.gguf"
    model_id = act("register", name="Agent's", url=url, upload={url: str(source)})["id"]

    found = act("fetch", reference=model_id, config_file=str(config))
    assert Path(found["first"]).parent.name == "clearml-deploy"
    again = act("fetch", reference=model_id, config_file=str(config))
    assert (again["first"], again["events"]) == (found["first"], [])
    size_bytes = source.stat().st_size
    assert act("cached") == [{"name": "m.gguf", "size": size_bytes, "ours": True}]


def test_unknown_id_names_the_server_and_the_id(act: Act, clearml_server: RunningServer) -> None:
    unknown = "0123456789abcdef0123456789abcdef"
    found = act("fetch", reference=unknown)
    assert found["error"] == "ModelNotFoundError"
    assert unknown in found["message"]
    assert "attribute" not in found["message"]
    assert clearml_server.api_url in found["message"]


def test_model_at_a_local_path_is_used_where_it_is(act: Act, tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "with space" / "m.gguf")
    model_id = act("register", name="Local", url=f"file://{source}", upload={})["id"]
    found = act("fetch", reference=model_id)
    assert (found["first"], found["name"]) == (str(source), "Local")
    source.unlink()
    gone = act("fetch", reference=model_id)
    assert gone["error"] == "ModelNotFoundError"
    assert "There is no file" in gone["message"]


def test_package_is_unpacked(act: Act, clearml_server: RunningServer, tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf")
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.write(source, "m.gguf")
        archive.writestr("README.md", "hello")
    url = f"{clearml_server.files_url}/models/package/p.zip"
    upload = {url: str(tmp_path / "p.zip")}
    model_id = act("register", name="Package", url=url, upload=upload, package=True)["id"]
    found = act("fetch", reference=model_id)
    assert Path(found["first"]).name == "m.gguf"
    assert Path(found["first"]).read_bytes() == source.read_bytes()
    assert act("fetch", reference=model_id)["first"] == found["first"]


@pytest.mark.parametrize("inside", ["", "tiny/"])
def test_package_is_a_repository(
    act: Act, clearml_server: RunningServer, tmp_path: Path, inside: str
) -> None:
    model = make_model(tmp_path / "tiny")
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        for path in model.iterdir():
            archive.write(path, f"{inside}{path.name}")
    url = f"{clearml_server.files_url}/models/repository{len(inside)}/p.zip"
    upload = {url: str(tmp_path / "p.zip")}
    model_id = act("register", name="Tiny", url=url, upload=upload, package=True)["id"]
    found = act("fetch", reference=model_id, want="repository")
    assert {path.name for path in Path(found["first"]).iterdir()} == {
        path.name for path in model.iterdir()
    }
    assert found["name"] == "Tiny"
    tokenizer = act("fetch", reference=model_id, want="tokenizer")
    assert tokenizer["first"] == found["first"]
    assert act("peeked", reference=model_id) == []


def test_single_file_is_no_repository(
    act: Act, clearml_server: RunningServer, tmp_path: Path
) -> None:
    source = make_model(tmp_path / "tiny") / "model.safetensors"
    url = f"{clearml_server.files_url}/models/single/model.safetensors"
    model_id = act("register", name="Single", url=url, upload={url: str(source)})["id"]
    found = act("fetch", reference=model_id, want="repository")
    assert found["error"] == "ModelFormatError"
    assert (
        f"The ClearML model 'Single' ({model_id}) is the single file 'model.safeten"
        in (found["message"])
    )
    folder = act("register", name="Folder", url=f"file://{source.parent}", upload={})["id"]
    assert act("fetch", reference=folder, want="repository")["first"] == str(source.parent)


def test_split_model_brings_its_parts_under_their_names(
    act: Act, clearml_server: RunningServer, tmp_path: Path
) -> None:
    base = f"{clearml_server.files_url}/models/split"
    names = [f"m-0000{number}-of-00002.gguf" for number in (1, 2)]
    upload = {}
    for name in names:
        (tmp_path / name).write_bytes(os.urandom(2000))
        upload[f"{base}/{name}"] = str(tmp_path / name)
    model_id = act("register", name="Split", url=f"{base}/{names[0]}", upload=upload)["id"]
    found = act("fetch", reference=model_id)
    assert [Path(path).name for path in found["all"]] == names
    assert [Path(path).read_bytes() for path in found["all"]] == [
        (tmp_path / name).read_bytes() for name in names
    ]
    assert found["size"] == 4000


def test_file_that_is_gone_from_the_storage(act: Act, clearml_server: RunningServer) -> None:
    url = f"{clearml_server.files_url}/models/gone/m.gguf"
    model_id = act("register", name="Gone", url=url, upload={})["id"]
    found = act("fetch", reference=model_id)
    assert found["error"] == "ModelNotFoundError"
    assert f"{url} answers 404" in found["message"]


def test_storage_that_is_away_is_told_within_seconds(act: Act) -> None:
    model_id = act("register", name="Away", url="http://127.0.0.1:9/m.gguf", upload={})["id"]
    found = act("fetch", reference=model_id)
    assert found["error"] == "ModelUnavailableError"
    assert "http://127.0.0.1:9 of the ClearML model 'Away' cannot be reached" in found["message"]
    assert found["seconds"] < 10


def test_download_that_breaks_off_is_tried_again(act: Act, hub: HubServer) -> None:
    data = os.urandom(12 * MB)
    hub.add_repo("org/cut", {"m.gguf": data})
    # The SDK sends two requests per attempt, the first of them for the size.
    hub.cuts["m.gguf"] = [6 * MB, 6 * MB]
    url = f"{hub.url}/storage/org/cut/m.gguf"
    model_id = act("register", name="Cut", url=url, upload={})["id"]
    found = act("fetch", reference=model_id)
    assert Path(found["first"]).read_bytes() == data
    assert hub.cuts["m.gguf"] == []


def test_two_processes_download_once(act: Act, hub: HubServer) -> None:
    data = os.urandom(20 * MB)
    hub.add_repo("org/slow", {"alone.gguf": data, "m.gguf": data})
    url = f"{hub.url}/storage/org/slow/alone.gguf"
    act("fetch", reference=act("register", name="Alone", url=url, upload={})["id"])
    url = f"{hub.url}/storage/org/slow/m.gguf"
    model_id = act("register", name="Slow", url=url, upload={})["id"]
    hub.bytes_per_second = 10 * MB
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(act("fetch", reference=model_id)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found[0]["first"] == found[1]["first"]
    assert len(hub.gets("m.gguf")) == len(hub.gets("alone.gguf"))
    stages = {event["stage"] for result in found for event in result["events"]}
    assert stages == {"downloading", "waiting"}


def run_without_server(tmp_path: Path, **variables: str) -> Any:
    env = {name: value for name, value in os.environ.items() if not name.startswith("CLEARML")}
    env |= {"HOME": str(tmp_path), "PYTHONPATH": str(ACTIONS.parents[2]), **variables}
    arguments = json.dumps({"reference": "0123456789abcdef0123456789abcdef"})
    done = subprocess.run(
        [sys.executable, str(ACTIONS), "fetch", arguments],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1].removeprefix("SEEN "))


def test_without_a_server_the_id_is_refused_with_the_way_out(tmp_path: Path) -> None:
    found = run_without_server(tmp_path)
    assert found["error"] == "ConfigurationError"
    assert "clearml-init" in found["message"]


def test_server_that_is_away_is_told_within_seconds(tmp_path: Path) -> None:
    found = run_without_server(
        tmp_path,
        CLEARML_API_HOST="http://127.0.0.1:9",
        CLEARML_API_ACCESS_KEY="key",
        CLEARML_API_SECRET_KEY="secret",
    )
    assert found["error"] == "ControlPlaneError"
    assert "http://127.0.0.1:9 cannot be reached" in found["message"]
    assert found["seconds"] < 10

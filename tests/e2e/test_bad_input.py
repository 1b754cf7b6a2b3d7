"""Every mistake ends with words that help, before anything is downloaded, and leaves nothing."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.demo.model import packaged_model
from tests.e2e.instances import ROOT, running_instance


def failing_run(parameters: dict[str, Any], **more: Any) -> tuple[int, str]:
    """Run an instance that must end by itself; its exit code and console."""
    with running_instance(parameters, serving=False, **more) as instance:
        code = instance.wait_end(60)
        return code, instance.console


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        (
            {"Model/temprature": "1"},
            ["Model/temprature", 'did you mean "Temperature" (Model/temperature)'],
        ),
        ({"Model/temperature": "hot"}, ['"Temperature"', "'hot'", "must be a number"]),
        ({"Model/top_p": "1.5"}, ['"Top-P"', "at most 1"]),
        ({"Model/cli": "--temprature 1"}, ['"CLI"', "--temprature", "--temperature"]),
        ({"Model/cli": "--port 1 --api-key x"}, ["--port", "--api-key"]),
        ({"Model/cli": "--temp 'x"}, ['"CLI"', "quot"]),
        ({"Model/model_endpoint_name": "../../etc"}, ['"Model Endpoint Name"', "../../etc"]),
        ({"Model/model_endpoint_name": "admin/x"}, ["admin"]),
    ],
)
def test_bad_option_is_refused_by_name(parameters: dict[str, str], words: list[str]) -> None:
    code, console = failing_run({"Model/model": str(packaged_model()), **parameters})
    assert code == 2
    for word in words:
        assert word in console


def test_all_problems_come_together() -> None:
    code, console = failing_run(
        {
            "Model/temperature": "hot",
            "Model/cli": "--bogus-flag",
            "General/port": "x",
            "Nope/x": "1",
        }
    )
    assert code == 2
    for word in (
        "5 problems",
        "Model/temperature",
        "--bogus-flag",
        "General/port",
        "Nope/x",
        "Model/model",
    ):
        assert word in console


def _file(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / f"{kind}.gguf"
    whole = packaged_model()
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        with whole.open("rb") as source:
            path.write_bytes(source.read(20_000_000))
    elif kind == "other":
        path.write_bytes(b"PK\x03\x04" + bytes(1000))
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", ["missing.gguf"]),
        ("empty", ["empty"]),
        ("truncated", ["truncated"]),
        ("other", ["GGUF"]),
    ],
)
def test_bad_file_is_refused(tmp_path: Path, kind: str, words: list[str]) -> None:
    code, console = failing_run({"Model/model": str(_file(tmp_path, kind))})
    assert code == 1
    assert "FAILED" in console
    for word in words:
        assert word in console


def test_a_context_larger_than_memory_is_refused_with_a_number_that_fits() -> None:
    code, console = failing_run(
        {"Model/model": str(packaged_model()), "Model/context_size": "100000000"}
    )
    assert code == 1
    assert "Context Size" in console or "context" in console
    assert "FAILED" in console


def test_an_unknown_clearml_id_needs_a_server() -> None:
    code, console = failing_run({"Model/model": "0123456789abcdef0123456789abcdef"})
    assert code != 0
    assert "0123456789abcdef0123456789abcdef" in console


def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, console = failing_run(
            {"Model/model": str(packaged_model()), "General/port": str(port)}
        )
    assert code != 0
    assert str(port) in console


def test_no_engine_says_how_to_install_one(tmp_path: Path) -> None:
    code, console = failing_run(
        {
            "Model/model": str(packaged_model()),
            "General/engine": "llama-server",
            "General/llama_server_path": str(tmp_path / "llama-server"),
        }
    )
    assert code != 0
    assert "llama-server" in console


def test_command_shows_what_would_run_without_running_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "common.cli.main", "command", "llamacpp", "--json"]
        + [
            "--set",
            "General/engine=xllamacpp",
            "--set",
            "Model/model=/models/x.gguf",
            "--set",
            "Model/temperature=0.25",
        ]
        + ["--set", "Advanced/validation_workers=2", "--set", "General/api_key=secret-key-1"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    (model,) = result["models"]
    assert model["name"] == "x"
    assert model["argv"][model["argv"].index("--temp") + 1] == "0.25"
    assert [item["path"] for item in model["unavailable"]] == ["Advanced/validation_workers"]
    assert "secret-key-1" not in done.stdout


@pytest.mark.parametrize("engine", ["llama-server", "xllamacpp", "llama_cpp.server"])
def test_command_tells_of_each_engine_whether_or_not_it_is_installed(
    engine: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "common.cli.main", "command", "llamacpp", "--json"]
        + ["--set", f"General/engine={engine}", "--set", "Model/model=/models/x.gguf"]
        + ["--set", "Model/parallel=4", "--set", "Model/temperature=0.5"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        env={**os.environ, "CLEARML_DEPLOY_CACHE": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    (model,) = json.loads(done.stdout)["models"]
    told = {item["path"] for item in model["unavailable"]}
    serialised = {"Model/parallel", "Model/temperature"}
    assert (told >= serialised) == (engine == "llama_cpp.server")

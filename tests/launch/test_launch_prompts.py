"""Asking on a terminal for what is missing: a real one, and none."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.local_server import RunningServer
from tests.fixtures_clearml import clearml_environment
from tests.launch.conftest import ROOT, ApiOf

LAUNCH = ("launch", "llamacpp", "--repository", "https://h/r.git", "--project", "asked for")


class Terminal:
    """A process with a terminal for all that it reads and writes."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self.shown = ""
        self._master = master

    def wait_shown(self, text: str, timeout_s: float = 30) -> None:
        deadline = time.monotonic() + timeout_s
        while text not in self.shown:
            assert self._read(deadline - time.monotonic()), f"no {text!r} in {self.shown!r}"

    def type(self, text: str) -> None:
        os.write(self._master, text.encode() + b"\n")

    def wait_end(self, timeout_s: float = 30) -> int:
        deadline = time.monotonic() + timeout_s
        while self._read(deadline - time.monotonic()):
            pass
        return self.process.wait(timeout_s)

    def _read(self, timeout_s: float) -> bool:
        """Read what there is; False when it has ended, or nothing came in time."""
        if not select.select([self._master], [], [], max(timeout_s, 0))[0]:
            return False
        try:
            data = os.read(self._master, 4096)
        except OSError:  # the other end was closed
            return False
        self.shown += data.decode(errors="replace").replace("\r\n", "\n")
        return bool(data)


@contextmanager
def terminal(argv: Sequence[str], env: dict[str, str]) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, *argv], stdin=slave, stdout=slave, stderr=slave, env=env, cwd=ROOT
    )
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        process.kill()
        process.wait()
        os.close(master)


def test_the_queue_and_the_model_are_asked_for(
    clearml_server: RunningServer, api: ApiOf, queue: str, tmp_path: Path
) -> None:
    env = clearml_environment(clearml_server, tmp_path)
    with terminal(["-m", "common.cli.main", *LAUNCH, "--set", "Model/top_k=3"], env) as it:
        it.wait_shown("Queue: ")
        assert f"{queue}  (no agent)" in it.shown
        it.type("another")
        it.wait_shown("'another' is not one of")
        it.type(queue)
        it.wait_shown("Model: ")
        assert "Hugging Face" in it.shown
        it.type("a/b/c.gguf")
        assert it.wait_end() == 0, it.shown
    (task,) = api.tasks("asked for")
    assert task["id"] in it.shown
    assert task["hyperparams"]["Model"]["model"]["value"] == "a/b/c.gguf"
    assert task["hyperparams"]["Model"]["top_k"]["value"] == "3"


def test_nobody_is_asked_who_does_not_want_to_be(
    clearml_server: RunningServer, queue: str, tmp_path: Path
) -> None:
    env = clearml_environment(clearml_server, tmp_path)
    with terminal(["-m", "common.cli.main", *LAUNCH, "--no-input"], env) as it:
        assert it.wait_end() == 2
    assert "--queue NAME" in it.shown
    assert queue in it.shown
    arguments = ["-m", "common.cli.main", *LAUNCH, "--queue", queue, "--no-input"]
    with terminal(arguments, env) as it:
        assert it.wait_end() == 2
    assert '"Model" (Model/model): is required' in it.shown


def test_nobody_is_asked_without_a_terminal(
    cli: Callable[..., subprocess.CompletedProcess[str]], queue: str
) -> None:
    done = cli(*LAUNCH)
    assert done.returncode == 2
    assert '"Queue" (queue): is required: --queue NAME' in done.stderr
    assert '"Model" (Model/model): is required' in done.stderr
    assert queue in done.stderr
    assert done.stdout == ""


def test_an_exported_configuration_brings_queue_name_and_project(
    cli: Callable[..., subprocess.CompletedProcess[str]], api: ApiOf, queue: str, tmp_path: Path
) -> None:
    values = {
        "instance_name": "as exported",
        "service_project": "exported",
        "queue": queue,
        "models": [{"model": "a/b/c.gguf"}],
        "general_port": 8800,
    }
    file = tmp_path / "exported.json"
    file.write_text(json.dumps({"app": "llamacpp", "version": 1, "values": values}))
    arguments = ("launch", "llamacpp", "--repository", "https://h/r.git", "--config", str(file))
    done = cli(*arguments)
    assert done.returncode == 0, done.stderr
    (task,) = api.tasks("exported")
    assert (task["id"], task["name"]) == (done.stdout.strip(), "as exported")
    assert task["hyperparams"]["General"]["port"]["value"] == "8800"
    # The command line wins.
    done = cli(*arguments, "--name", "as said", "--set", "General/port=8801")
    task = api.task(done.stdout.strip())
    assert task["name"] == "as said"
    assert task["hyperparams"]["General"]["port"]["value"] == "8801"


ASK_A_SECRET = """
from typing import Any, ClassVar
from pydantic import SecretStr
from common.cli.prompts import ask_missing
from common.options.declaration import OptionGroup, option
from common.options.settings import AppSettings, ModelOptions
from common.options.shared import GeneralOptions

class Model(ModelOptions):
    model: str | None = option("Model", help="A model.", required=True)

class General(GeneralOptions):
    pass_word: SecretStr | None = option("Pass Word", help="Its word.", required=True, secret=True)

class Settings(AppSettings[Model, General]):
    pass

given = ask_missing(Settings, {"Models/models": [{"model": "m"}]})
assert given == {"General/pass_word": "not-for-screens"}, "something else"
print("understood")
"""


def test_a_secret_is_not_shown_while_it_is_typed() -> None:
    with terminal(["-c", ASK_A_SECRET], {**os.environ}) as it:
        it.wait_shown("Pass Word: ")
        it.type("not-for-screens")
        assert it.wait_end() == 0, it.shown
    assert "understood" in it.shown
    assert "not-for-screens" not in it.shown


@pytest.mark.parametrize("command", ["launch", "clone", "register"])
def test_help_has_examples(
    command: str, cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    shown = cli(command, "--help").stdout
    assert "Examples:" in shown
    assert f"\n    clearml-deploy {command} " in shown

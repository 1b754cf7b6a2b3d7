"""The scripts of the images, with real processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from common.cli.main import main
from tests.docker.dockerfiles import FOLDER

ENTRYPOINT = FOLDER / "entrypoint.sh"
DRAIN = FOLDER / "drain.sh"

# An instance as far as signals go: it has a fork with its own arguments, as the SDK's reporter is, and
# ends when it has been told to and its input is closed.
INSTANCE = """
import os, signal, sys

who = "instance"
def note(*_):
    os.write(1, f"{who} was told\\n".encode())
signal.signal(signal.SIGTERM, note)
ended, alive = os.pipe()
if os.fork() == 0:
    who = "fork"
    os.close(alive)
    os.write(1, b"fork %d\\n" % os.getpid())
    os.read(ended, 1)
    os._exit(0)
sys.stdin.buffer.read()
"""


@pytest.mark.parametrize("script", sorted(FOLDER.glob("*.sh")), ids=lambda path: path.name)
def test_linter_finds_nothing(script: Path) -> None:
    command = [Path(sys.executable).with_name("shellcheck"), script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert script.stat().st_mode & 0o111 == 0o111


@pytest.fixture
def entrypoint(tmp_path: Path):
    """The entry point, where programs of the names of our commands are there as well."""
    others = tmp_path / "others"
    others.mkdir()
    for name in main.list_commands(None):
        (others / name).write_text("#!/bin/sh\necho another program\n")
        (others / name).chmod(0o755)
    program = tmp_path / "clearml-deploy"
    program.write_text('#!/bin/sh\nprintf "clearml-deploy"\nprintf " <%s>" "$@"\n')
    program.chmod(0o755)

    def run(*arguments: str) -> str:
        environment = {"PATH": f"{tmp_path}:{others}:/usr/bin:/bin"}
        command = [ENTRYPOINT, *arguments]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        ).stdout

    return run


@pytest.mark.parametrize("name", main.list_commands(None))
def test_commands_of_the_program_are_its_own(name: str, entrypoint) -> None:
    given = (name, "llamacpp", "--set", "Model/model=a b")
    assert entrypoint(*given) == "clearml-deploy" + "".join(f" <{part}>" for part in given)


def test_options_are_the_program_s(entrypoint) -> None:
    assert entrypoint("--version") == "clearml-deploy <--version>"


def test_what_an_agent_says_runs_as_it_is(entrypoint) -> None:
    assert entrypoint("bash", "-c", 'echo "$0" one ; echo two') == "bash one\ntwo\n"
    assert entrypoint("/bin/sh", "-c", "echo three") == "three\n"


@pytest.mark.parametrize("app", ["llamacpp", "vllm", "legacy_model"])
@pytest.mark.parametrize("way", ["under an agent", "alone"])
def test_drain_tells_the_instance_once_and_waits_for_its_end(
    app: str, way: str, tmp_path: Path
) -> None:
    if way == "alone":
        script = tmp_path / "bin" / "clearml-deploy"
        arguments = [str(script), "run", app, "--set", "Model/model=x"]
    else:
        script = tmp_path / "apps" / app / "__main__.py"
        arguments = ["-u", "-m", f"apps.{app}"]
    script.parent.mkdir(parents=True)
    script.write_text(INSTANCE)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, *arguments]
    # Names of apps in the arguments alone do not make an instance.
    other = [sys.executable, "-c", "import sys; sys.stdin.read()", "-m", f"apps.{app}.tool", app]
    with (
        subprocess.Popen(command, cwd=tmp_path, **pipes) as instance,
        subprocess.Popen(other, stdin=subprocess.PIPE) as bystander,
    ):
        assert instance.stdout is not None
        assert instance.stdin is not None
        fork = int(instance.stdout.readline().removeprefix("fork "))
        # Nothing but these three: tests may run beside real instances.
        proc = tmp_path / "proc"
        proc.mkdir()
        for pid in (instance.pid, fork, bystander.pid):
            (proc / str(pid)).symlink_to(f"/proc/{pid}")
        with subprocess.Popen([DRAIN, proc]) as drain:
            assert instance.stdout.readline() == "instance was told\n"
            assert drain.poll() is None
            instance.stdin.close()
            assert instance.stdout.read() == ""
            instance.wait()
        assert drain.returncode == 0
        assert bystander.poll() is None
        bystander.communicate()


def test_drain_without_an_instance_ends_at_once(tmp_path: Path) -> None:
    assert subprocess.run([DRAIN, tmp_path], capture_output=True, check=True).stderr == b""

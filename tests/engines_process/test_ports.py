"""Ports and socket directories."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from common.engines.ports import (
    MAX_SOCKET_PATH_BYTES,
    SocketDirectory,
    is_listening,
    pick_port,
    remove_stale,
)
from common.errors import ConfigurationError

ROOT = Path(__file__).parents[2]


def test_picked_port_can_be_bound() -> None:
    port = pick_port()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))


def test_listener_is_told_by_its_process() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        assert is_listening(port, [])  # bound, but nobody listens yet: nothing speaks against us
        listener.listen()
        assert is_listening(port, [os.getpid()])
        assert not is_listening(port, [])
        with subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=-1) as other:
            assert not is_listening(port, [other.pid])


def test_unknown_listener_is_believed(tmp_path: Path) -> None:
    assert is_listening(8080, [1], proc=tmp_path)


def test_socket_directory_is_private_short_and_removed(tmp_path: Path) -> None:
    with SocketDirectory(tmp_path) as sockets:
        assert sockets.path.stat().st_mode & 0o777 == 0o700
        paths = [sockets.new_socket() for _ in range(3)]
        assert len(set(paths)) == 3
        for path in paths:
            assert path.suffix == ".sock"
            assert len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(path))
    assert list(tmp_path.iterdir()) == []
    sockets.close()


def test_longest_base_directory_works_and_a_longer_one_is_refused(tmp_path: Path) -> None:
    room = MAX_SOCKET_PATH_BYTES - len("/clearml-deploy-12345678/9999.sock") - len(str(tmp_path))
    fitting = tmp_path / ("x" * (room - 1))
    with SocketDirectory(fitting) as sockets, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(sockets.path / "9999.sock"))
    with pytest.raises(ConfigurationError, match="too long for Unix sockets"):
        SocketDirectory(tmp_path / ("x" * room))


def test_too_long_temporary_directory_is_stepped_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("x" * 120)))
    with SocketDirectory() as sockets:
        assert sockets.path.parent == Path("/tmp")


def test_directory_of_a_killed_process_is_removed_and_of_a_living_one_kept(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path\n"
        "from common.engines.ports import SocketDirectory\n"
        "sockets = SocketDirectory(Path(sys.argv[1]))\n"
        "sockets.new_socket().touch(); print(sockets.path, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as owner:
        assert owner.stdout is not None
        left = Path(owner.stdout.readline().strip())
        os.utime(left, (0, 0))
        remove_stale(tmp_path)
        assert left.is_dir()
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    assert left.is_dir()
    (tmp_path / "clearml-deploy-a-file").touch()
    os.utime(tmp_path / "clearml-deploy-a-file", (0, 0))
    (tmp_path / "clearml-deploy-new").mkdir()  # not locked yet by its owner
    with SocketDirectory(tmp_path) as sockets:
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
            ["clearml-deploy-a-file", "clearml-deploy-new", sockets.path.name]
        )

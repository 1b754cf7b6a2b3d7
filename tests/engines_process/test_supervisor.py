"""The supervisor with real children."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from common.engines.contract import EngineState
from common.engines.ports import pick_port
from common.errors import (
    CapacityError,
    EngineConfigurationError,
    EngineCrashError,
    EngineError,
    EngineMissingError,
)

from .conftest import QUICK, Launcher, is_alive, until

STOPPED, STARTING, READY = EngineState.STOPPED, EngineState.STARTING, EngineState.READY
STOPPING, BACKOFF, FATAL = EngineState.STOPPING, EngineState.BACKOFF, EngineState.FATAL


async def test_supervisor_starts_and_stops(launcher: Launcher) -> None:
    supervisor = launcher.supervise("--print", "hello there")
    assert supervisor.state is STOPPED
    await supervisor.ensure_ready(10)
    pid = supervisor.pid
    assert supervisor.state is READY
    assert pid is not None
    assert is_alive(pid)
    assert supervisor.ready_since is not None
    assert supervisor.load_s is not None
    assert abs(supervisor.ready_since - time.time()) < 5
    assert "hello there" in launcher.console.lines
    assert supervisor.tail() == ("hello there",)

    await supervisor.stop()
    await supervisor.wait_closed()
    assert launcher.states == [STARTING, READY, STOPPING, STOPPED]
    assert not is_alive(pid)
    assert supervisor.pid is None
    assert supervisor.ready_since is None
    assert supervisor.failure is None
    assert supervisor.restarts == 0
    assert supervisor.address.socket_path is not None
    assert not supervisor.address.socket_path.exists()


async def test_supervisor_runs_the_stub_engine(launcher: Launcher) -> None:
    """The fake that other tests trust, on a Unix socket, through load, service and crash."""
    spec = launcher.spec()
    stub = str(Path(__file__).parents[1] / "fakes" / "stub_engine.py")
    flags = ("--socket", str(spec.address.socket_path), "--load-seconds", "0.3", "--fork-child")
    command = dataclasses.replace(spec.command, argv=(sys.executable, stub, *flags))
    supervisor = launcher.supervise(spec=dataclasses.replace(spec, command=command))
    await supervisor.ensure_ready(20)
    assert supervisor.load_s is not None
    assert supervisor.load_s >= 0.3
    await supervisor.stop()
    assert supervisor.state is STOPPED


async def test_start_returns_at_once_and_is_idempotent(launcher: Launcher, tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    supervisor = launcher.supervise("--load-seconds", "0.3", "--count-starts", str(starts))
    began = time.monotonic()
    await asyncio.gather(*(supervisor.start() for _ in range(5)))
    assert time.monotonic() - began < 0.1
    await asyncio.gather(*(supervisor.ensure_ready(10) for _ in range(5)))
    await supervisor.start()
    assert starts.read_text() == "start\n"
    assert launcher.states == [STARTING, READY]


async def test_cancelled_waiter_does_not_cancel_the_start(launcher: Launcher) -> None:
    supervisor = launcher.supervise("--load-seconds", "0.4")
    waiter = asyncio.create_task(supervisor.ensure_ready())
    await until(lambda: supervisor.pid)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    await supervisor.ensure_ready(10)
    assert launcher.states == [STARTING, READY]


async def test_ensure_ready_in_vain_says_when_to_try_again(launcher: Launcher) -> None:
    supervisor = launcher.supervise("--load-seconds", "60")
    with pytest.raises(CapacityError, match=r'"acme/tiny" is loading.* within 0.2 s') as caught:
        await supervisor.ensure_ready(0.2)
    assert caught.value.retry_after_s is not None
    assert 1 <= caught.value.retry_after_s <= 60
    assert supervisor.state is STARTING


async def test_stop_releases_waiters(launcher: Launcher) -> None:
    supervisor = launcher.supervise("--load-seconds", "60")
    waiters = [asyncio.create_task(supervisor.ensure_ready()) for _ in range(2)]
    await until(lambda: supervisor.pid)
    await supervisor.stop()
    for waiter in waiters:
        with pytest.raises(CapacityError, match="was stopped"):
            await waiter


async def test_stop_escalates_and_concurrent_calls_share_it(launcher: Launcher) -> None:
    supervisor = launcher.supervise("--ignore-term")
    await supervisor.ensure_ready(10)
    began = time.monotonic()
    await asyncio.gather(supervisor.stop(0.5), supervisor.stop(0.5), supervisor.stop(30))
    assert 0.5 <= time.monotonic() - began < 2
    assert launcher.states == [STARTING, READY, STOPPING, STOPPED]


async def test_later_stop_may_shorten_the_grace(launcher: Launcher) -> None:
    supervisor = launcher.supervise("--ignore-term")
    await supervisor.ensure_ready(10)
    first = asyncio.create_task(supervisor.stop(60))
    await until(lambda: supervisor.state is STOPPING)
    began = time.monotonic()
    await supervisor.stop(0)
    await first
    assert time.monotonic() - began < 1


async def test_start_during_a_stop_comes_after_it(launcher: Launcher) -> None:
    supervisor = launcher.supervise()
    await supervisor.ensure_ready(10)
    stopping = asyncio.create_task(supervisor.stop())
    await asyncio.sleep(0)
    await supervisor.ensure_ready(10)
    await stopping
    assert launcher.states == [STARTING, READY, STOPPING, STOPPED, STARTING, READY]
    # It was told to: that looks like no crash.
    assert supervisor.restarts == 0
    assert "starting again" not in launcher.console.text


async def test_only_crashes_count_as_restarts(launcher: Launcher) -> None:
    supervisor = launcher.supervise()
    for restarts in (1, 2):
        await supervisor.ensure_ready(10)
        assert supervisor.pid is not None
        os.kill(supervisor.pid, signal.SIGKILL)
        await until(lambda: supervisor.state is not READY)
        await supervisor.ensure_ready(10)
        assert supervisor.restarts == restarts
        await supervisor.stop()
    starts = [line for line in launcher.console.lines if line.startswith("[engine] starting ")]
    assert ["again" in line for line in starts] == [False, True, False, True]
    assert "[engine] starting again (restart 2): " in starts[-1]


async def test_crash_is_followed_by_a_restart_with_backoff(
    launcher: Launcher, tmp_path: Path
) -> None:
    flags = ("--count-starts", str(tmp_path / "starts"), "--ready-from-start", "3")
    supervisor = launcher.supervise(*flags)
    await supervisor.ensure_ready(10)
    assert launcher.states == [
        *(STARTING, STOPPING, BACKOFF),
        *(STARTING, STOPPING, BACKOFF),
        *(STARTING, READY),
    ]
    assert supervisor.restarts == 2
    assert supervisor.failure is None
    assert "[engine] restarting in 0.05 s" in launcher.console.lines
    assert "[engine] restarting in 0.1 s" in launcher.console.lines
    starts = [line for line in launcher.console.lines if line.startswith("[engine] starting ")]
    assert [line.partition(":")[0] for line in starts[1:]] == [
        "[engine] starting again (restart 1)",
        "[engine] starting again (restart 2)",
    ]


async def test_crash_while_ready_is_seen_and_repaired(launcher: Launcher) -> None:
    supervisor = launcher.supervise()
    await supervisor.ensure_ready(10)
    assert supervisor.pid is not None
    os.kill(supervisor.pid, signal.SIGSEGV)
    await until(lambda: supervisor.state is not READY)
    await supervisor.ensure_ready(10)
    assert launcher.states == [STARTING, READY, STOPPING, BACKOFF, STARTING, READY]
    assert "killed by SIGSEGV" in launcher.console.text
    assert "while it served" in launcher.console.text


async def test_stop_ends_the_backoff(launcher: Launcher) -> None:
    slow = dataclasses.replace(QUICK.backoff, first_s=60.0, max_s=60.0)
    limits = dataclasses.replace(QUICK, backoff=slow)
    supervisor = launcher.supervise("--exit", "1", limits=limits)
    await supervisor.start()
    await until(lambda: supervisor.state is BACKOFF)
    assert isinstance(supervisor.failure, EngineCrashError)
    with pytest.raises(CapacityError, match="will be started again") as caught:
        await supervisor.ensure_ready(0.01)
    assert caught.value.retry_after_s == 60
    await supervisor.stop()
    assert supervisor.state is STOPPED


async def test_many_crashes_are_fatal_with_the_engines_lines(launcher: Launcher) -> None:
    supervisor = launcher.supervise("--print", "the sky fell", "--exit", "7")
    waiters = [asyncio.create_task(supervisor.ensure_ready(10)) for _ in range(2)]
    for waiter in waiters:
        with pytest.raises(EngineCrashError, match="3 times in a row") as caught:
            await waiter
        assert caught.value.exit_code == 7
        assert caught.value.tail == ("the sky fell",)
        assert "the sky fell" in str(caught.value)
    with pytest.raises(EngineCrashError):  # at once, without another start
        await supervisor.ensure_ready(10)
    assert supervisor.restarts == 2
    await supervisor.stop()
    assert supervisor.state is FATAL


async def test_configuration_error_is_fatal_without_restart(launcher: Launcher) -> None:
    supervisor = launcher.supervise("--print", "error: bad option --frob", "--exit", "1")
    with pytest.raises(EngineConfigurationError, match="bad option --frob") as caught:
        await supervisor.ensure_ready(10)
    assert caught.value.exit_code == 1
    assert launcher.states == [STARTING, STOPPING, FATAL]
    await supervisor.start()  # an explicit start tries again
    await until(lambda: launcher.states.count(FATAL) == 2)
    assert supervisor.starts == 2
    assert supervisor.restarts == 0


async def test_missing_program_is_fatal(launcher: Launcher) -> None:
    spec = launcher.spec()
    command = dataclasses.replace(spec.command, argv=("/no/such/engine",))
    supervisor = launcher.supervise(spec=dataclasses.replace(spec, command=command))
    with pytest.raises(EngineMissingError, match="No such file or directory: /no/such/engine"):
        await supervisor.ensure_ready(10)


async def test_missing_directory_is_named(launcher: Launcher, tmp_path: Path) -> None:
    spec = dataclasses.replace(launcher.spec(), cwd=tmp_path / "gone")
    supervisor = launcher.supervise(spec=spec)
    with pytest.raises(EngineMissingError, match="No such file or directory: .*/gone"):
        await supervisor.ensure_ready(10)


async def test_killed_engine_suggests_memory(launcher: Launcher) -> None:
    supervisor = launcher.supervise("--kill-self", "9")
    with pytest.raises(EngineCrashError, match="exit code 137, killed by SIGKILL") as caught:
        await supervisor.ensure_ready(10)
    assert caught.value.exit_code == 137
    assert "memory" in str(caught.value)


async def test_start_that_stands_still_times_out(launcher: Launcher) -> None:
    backoff = dataclasses.replace(QUICK.backoff, max_quick_crashes=1)
    limits = dataclasses.replace(QUICK, no_progress_timeout_s=0.4, backoff=backoff)
    supervisor = launcher.supervise("--load-seconds", "60", "--ignore-term", limits=limits)
    with pytest.raises(EngineCrashError, match="did not become ready: it read nothing for"):
        await supervisor.ensure_ready(10)


async def test_start_times_out_in_total(launcher: Launcher) -> None:
    backoff = dataclasses.replace(QUICK.backoff, max_quick_crashes=1)
    limits = dataclasses.replace(QUICK, start_timeout_s=0.4, backoff=backoff)
    supervisor = launcher.supervise("--load-seconds", "60", limits=limits)
    with pytest.raises(EngineCrashError, match="it was not ready after"):
        await supervisor.ensure_ready(10)


async def test_start_timeouts_wait_while_bytes_move(launcher: Launcher, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.write_bytes(bytes(4 << 20))
    limits = dataclasses.replace(QUICK, no_progress_timeout_s=0.4, start_timeout_s=0.6)
    supervisor = launcher.supervise("--load-seconds", "1.6", "--read", str(model), limits=limits)
    await supervisor.ensure_ready(10)
    assert supervisor.load_s is not None
    assert supervisor.load_s > 1.5
    assert launcher.states == [STARTING, READY]


async def test_hung_engine_is_restarted(launcher: Launcher, tmp_path: Path) -> None:
    mute = tmp_path / "mute"
    supervisor = launcher.supervise("--mute-when", str(mute), "--ignore-term")
    await supervisor.ensure_ready(10)
    hung = supervisor.pid
    mute.touch()
    await until(lambda: supervisor.state is not READY)
    mute.unlink()
    await supervisor.ensure_ready(10)
    assert supervisor.pid != hung
    assert launcher.states == [STARTING, READY, STOPPING, BACKOFF, STARTING, READY]
    assert "hung: it answered no health question" in launcher.console.text


async def test_stopped_process_is_hung(launcher: Launcher) -> None:
    supervisor = launcher.supervise()
    await supervisor.ensure_ready(10)
    assert supervisor.pid is not None
    os.kill(supervisor.pid, signal.SIGSTOP)
    await until(lambda: supervisor.state is STOPPING)
    await supervisor.ensure_ready(10)


async def test_busy_engine_is_not_hung(launcher: Launcher, tmp_path: Path) -> None:
    mute = tmp_path / "mute"
    supervisor = launcher.supervise("--mute-when", str(mute), "--busy-when-mute")
    await supervisor.ensure_ready(10)
    mute.touch()
    # Three failures make an idle one hung: 0.9 s.
    await asyncio.sleep(2.0)
    assert supervisor.state is READY


async def test_serving_engine_is_not_hung(launcher: Launcher, tmp_path: Path) -> None:
    mute = tmp_path / "mute"
    supervisor = launcher.supervise("--mute-when", str(mute))
    await supervisor.ensure_ready(10)
    mute.touch()
    deadline = time.monotonic() + 2.0
    while time.monotonic() < deadline:
        supervisor.note_activity()
        await asyncio.sleep(0.05)
    assert supervisor.state is READY
    await until(lambda: supervisor.state is not READY)


async def test_environment_passes_untouched_and_secrets_stay_out_of_sight(
    launcher: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1a2b,MIG-3c4d")
    monkeypatch.setenv("PYTHONPATH", "/from/the/worker")
    dump = tmp_path / "env"
    supervisor = launcher.supervise(
        *("--dump-env", str(dump), "--print-env", "API_KEY"),
        API_KEY="sk-secret-1",
        OMP_WAIT_POLICY="passive",
    )
    await supervisor.ensure_ready(10)
    env = dict(item.split("=", 1) for item in dump.read_text().split("\0"))
    assert env["CUDA_VISIBLE_DEVICES"] == "MIG-1a2b,MIG-3c4d"
    assert env["PYTHONPATH"] == "/from/the/worker"
    assert env["API_KEY"] == "sk-secret-1"
    assert env["OMP_WAIT_POLICY"] == "passive"
    assert env == {**os.environ, "API_KEY": "sk-secret-1", "OMP_WAIT_POLICY": "passive"}
    assert "API_KEY is ***" in launcher.console.lines
    assert "sk-secret-1" not in launcher.console.text
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            assert b"sk-secret-1" not in entry.read_bytes()


async def test_secret_on_the_command_line_is_masked_when_shown(launcher: Launcher) -> None:
    supervisor = launcher.supervise("--print", "sk-secret-1", API_KEY="sk-secret-1")
    await supervisor.ensure_ready(10)
    assert "sk-secret-1" not in launcher.console.text


async def test_taken_port_gets_another_one(launcher: Launcher) -> None:
    """The one who holds the port even answers: it must not be mistaken for the engine."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    stranger = await asyncio.start_server(answer, "127.0.0.1", 0)
    taken = stranger.sockets[0].getsockname()[1]
    supervisor = launcher.supervise(
        spec=launcher.spec(port=taken), address_factory=lambda: launcher.spec(port=pick_port())
    )
    await supervisor.ensure_ready(10)
    assert supervisor.address.port != taken
    assert launcher.states == [STARTING, STOPPING, BACKOFF, STARTING, READY]
    assert "[engine] restarting in 0 s" in launcher.console.lines
    stranger.close()


async def test_supervisor_ends_with_its_event_loop(launcher: Launcher) -> None:
    supervisor = launcher.supervise("--ignore-term")
    await supervisor.ensure_ready(10)
    pid = supervisor.pid
    assert pid is not None
    assert supervisor._loop is not None
    supervisor._loop.cancel()  # as asyncio.run does at its end
    await supervisor.wait_closed()
    assert not is_alive(pid)


async def test_stale_socket_file_does_not_hinder(launcher: Launcher) -> None:
    spec = launcher.spec()
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(spec.address.socket_path))
    stale.close()
    supervisor = launcher.supervise(spec=spec)
    await supervisor.ensure_ready(10)


async def test_listeners_that_fail_do_not_harm(
    launcher: Launcher, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = launcher.supervise("--print", "x")

    def fail(*_: object) -> None:
        raise RuntimeError("listener")

    supervisor._console = supervisor._on_change = fail
    await supervisor.ensure_ready(10)
    await supervisor.stop()
    assert supervisor.state is STOPPED
    assert "the listener of acme/tiny failed" in caplog.text


async def test_a_fatal_engine_is_tried_afresh_by_start(launcher: Launcher) -> None:
    supervisor = launcher.supervise("--no-such-flag-of-the-engine")
    with pytest.raises(EngineError):
        await supervisor.ensure_ready(10)
    starts = launcher.states.count(EngineState.STARTING)
    await supervisor.wait_closed()
    await supervisor.start()
    # The failure of its last life is not this one's.
    with pytest.raises(EngineError):
        await supervisor.ensure_ready(10)
    assert launcher.states.count(EngineState.STARTING) > starts

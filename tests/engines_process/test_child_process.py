"""Children, their guard, and what they leave."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from common.engines import guard
from common.engines.child_process import PIPE_BYTES, ChildProcess
from common.engines.ports import SocketDirectory

from .conftest import ENGINE, PYTHON, Console, children, is_alive, until, wait_for

ROOT = Path(__file__).parents[2]
GUARD = Path(guard.__file__)


class Starter:
    """Starts misbehaving engines and ends them."""

    def __init__(self, sockets: SocketDirectory) -> None:
        self.sockets = sockets
        self.console = Console()
        self.started: list[ChildProcess] = []

    async def engine(self, *flags: str) -> ChildProcess:
        socket = str(self.sockets.new_socket())
        child = await self.run(*PYTHON, str(ENGINE), "--socket", socket, *flags)
        return child

    async def run(self, *argv: str, **env: str) -> ChildProcess:
        child = await ChildProcess.spawn(
            "acme/tiny", argv, env={**os.environ, **env}, console=self.console
        )
        self.started.append(child)
        return child


@pytest_asyncio.fixture
async def starter() -> AsyncIterator[Starter]:
    with SocketDirectory() as sockets:
        starter = Starter(sockets)
        yield starter
        await asyncio.gather(*(child.stop(0.0) for child in starter.started))


async def read_pid(path: Path) -> int:
    await until(lambda: path.exists() and path.read_text())
    return int(path.read_text())


async def test_exit_code_and_output(starter: Starter) -> None:
    child = await starter.run("sh", "-c", "echo out; echo err >&2; exit 3")
    status = await child.wait()
    assert (status.code, status.signal, status.exit_code) == (3, None, 3)
    assert str(status) == "exit code 3"
    assert starter.console.lines == ["out", "err"]
    assert child.tail() == ("out", "err")
    assert child.tail(1) == ("err",)


@pytest.mark.parametrize(("script", "signal_number"), [("exit 137", None), ("kill -9 $$", 9)])
async def test_exit_with_137_is_told_from_a_kill(
    starter: Starter, script: str, signal_number: int | None
) -> None:
    status = await (await starter.run("sh", "-c", script)).wait()
    assert status.exit_code == 137
    assert status.signal == signal_number
    assert not status.was_stopped


async def test_missing_program(starter: Starter) -> None:
    with pytest.raises(FileNotFoundError, match="/no/such/engine"):
        await starter.run("/no/such/engine")


async def test_argument_with_nul_is_refused(starter: Starter) -> None:
    with pytest.raises(ValueError, match="NUL"):
        await starter.run("echo", "a\0b")


async def test_program_is_looked_up_in_the_engines_path(starter: Starter, tmp_path: Path) -> None:
    script = tmp_path / "my-engine"
    script.write_text("#!/bin/sh\necho found me\n")
    script.chmod(0o755)
    await (await starter.run("my-engine", PATH=f"{tmp_path}:/usr/bin:/bin")).wait()
    assert starter.console.lines == ["found me"]


async def test_engine_gets_default_signals_and_its_own_session(starter: Starter) -> None:
    child = await starter.run("sleep", "60")
    status = Path(f"/proc/{child.pid}/status").read_text().splitlines()
    masks = [line.split() for line in status if line.startswith(("SigBlk", "SigIgn"))]
    # Signals 32 and 33 belong to the C library: no program can set them, nor reset what it inherited.
    settable = sum(1 << (number - 1) for number in signal.valid_signals())
    assert [int(mask, 16) & settable for _, mask in masks] == [0, 0]
    assert os.getsid(child.pid) == os.getpgid(child.pid) == child.pid


async def test_engine_inherits_no_descriptor(starter: Starter) -> None:
    child = await starter.run("sleep", "60")
    descriptors = Path(f"/proc/{child.pid}/fd")
    # The loader opens libraries and closes them again.
    await until(lambda: sorted(path.name for path in descriptors.iterdir()) == ["0", "1", "2"])
    assert os.readlink(descriptors / "0") == "/dev/null"
    assert os.readlink(descriptors / "1") == os.readlink(descriptors / "2")


async def test_large_environment_and_many_arguments(starter: Starter) -> None:
    arguments = [f"{number:0100}" for number in range(5000)]
    big = "x" * 100_000
    child = await starter.run("sh", "-c", 'echo $# ${#BIG} "${4999}"', *arguments, BIG=big)
    await child.wait()
    assert starter.console.lines == [f"4999 100000 {arguments[-1]}"]


async def test_stop_is_graceful(starter: Starter) -> None:
    child = await starter.run("sh", "-c", "trap 'echo bye; exit 0' TERM; echo up; sleep 60 & wait")
    await until(lambda: "up" in starter.console.lines)
    status = await child.stop(5.0)
    assert (status.exit_code, status.was_stopped) == (0, True)
    assert starter.console.lines[-1] == "bye"


async def test_stop_kills_what_ignores_it(starter: Starter, tmp_path: Path) -> None:
    grandchild = tmp_path / "grandchild"
    daemon = tmp_path / "daemon"
    flags = ("--ignore-term", "--grandchild", str(grandchild), "--daemon", str(daemon))
    child = await starter.engine(*flags)
    pids = [child.pid, await read_pid(grandchild), await read_pid(daemon)]
    assert os.getsid(pids[2]) != os.getsid(child.pid)
    began = time.monotonic()
    status = await child.stop(0.3)
    assert time.monotonic() - began < 1.5
    assert status.signal == signal.SIGKILL
    assert not any(map(is_alive, pids))
    assert not is_alive(child.guard_pid)


async def test_killed_engine_leaves_no_shared_memory(starter: Starter, tmp_path: Path) -> None:
    script = """
        import pathlib, signal, sys
        from multiprocessing import resource_tracker
        from multiprocessing.shared_memory import SharedMemory

        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        block = SharedMemory(create=True, size=4096)
        tracker = resource_tracker._resource_tracker._pid
        pathlib.Path(sys.argv[1]).write_text(f"{block.name} {tracker}")
        signal.pause()
    """
    told = tmp_path / "told"
    child = await starter.run(*PYTHON, "-c", textwrap.dedent(script), str(told))
    await until(lambda: told.exists() and len(told.read_text().split()) == 2)
    name, tracker = told.read_text().split()
    block = Path("/dev/shm") / name
    assert block.exists()
    await child.stop(0.0)
    assert not block.exists()
    assert not is_alive(int(tracker))


async def test_exit_ends_what_the_engine_left(starter: Starter, tmp_path: Path) -> None:
    grandchild, daemon = tmp_path / "grandchild", tmp_path / "daemon"
    child = await starter.engine(
        *("--exit", "5", "--grandchild", str(grandchild), "--daemon", str(daemon))
    )
    pids = [await read_pid(grandchild), await read_pid(daemon)]
    await child.wait_ended()
    status = await asyncio.wait_for(child.wait(), 3.0)
    assert (status.exit_code, status.was_stopped) == (5, False)
    assert not any(map(is_alive, pids))


async def test_guard_reaps_orphans_while_the_engine_runs(starter: Starter) -> None:
    child = await starter.run("sh", "-c", "(sh -c 'sleep 0.05 &' &); echo up; sleep 60")
    await until(lambda: "up" in starter.console.lines)
    await until(lambda: children(child.guard_pid) == [child.pid])


async def test_killed_guard_takes_the_engine_along(starter: Starter) -> None:
    child = await starter.run("sh", "-c", "sleep 60 & echo $!; wait")
    await until(lambda: starter.console.lines)
    helper = int(starter.console.lines[0])
    os.kill(child.guard_pid, signal.SIGKILL)
    status = await asyncio.wait_for(child.wait(), 3.0)
    assert status.signal == signal.SIGKILL
    await until(lambda: not is_alive(child.pid) and not is_alive(helper), 2.0)


async def test_term_to_the_guard_stops_the_engine(starter: Starter) -> None:
    child = await starter.run("sh", "-c", "trap 'exit 4' TERM; echo up; sleep 60 & wait")
    await until(lambda: "up" in starter.console.lines)
    os.kill(child.guard_pid, signal.SIGINT)  # Ctrl-C is the parent's to decide
    os.kill(child.guard_pid, signal.SIGTERM)
    assert (await asyncio.wait_for(child.wait(), 5.0)).exit_code == 4


async def test_stop_after_the_end_is_harmless(starter: Starter) -> None:
    child = await starter.run("true")
    await child.wait()
    assert (await child.stop(1.0)).exit_code == 0


async def test_flood_without_newline_does_not_block(starter: Starter) -> None:
    child = await starter.engine("--flood", str(30_000_000), "--exit", "0")
    assert (await asyncio.wait_for(child.wait(), 20.0)).exit_code == 0
    assert sum(map(len, child.tail())) < 10_000
    assert "bytes of this line were dropped" in child.tail()[-1]


async def test_many_lines_keep_the_last(starter: Starter) -> None:
    child = await starter.run("sh", "-c", "seq 1 20000")
    await child.wait()
    assert len(starter.console.lines) == 20000
    assert child.tail() == tuple(str(number) for number in range(19801, 20001))


async def test_engine_does_not_wait_for_a_busy_parent(starter: Starter, tmp_path: Path) -> None:
    done = tmp_path / "done"
    bytes_ahead = PIPE_BYTES // 2
    await starter.run("sh", "-c", f"head -c {bytes_ahead} /dev/zero; touch {done}")
    wait_for(done.exists, 5.0)  # the event loop stands still meanwhile


async def test_closed_output_is_no_end(starter: Starter) -> None:
    child = await starter.engine("--close-output")
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(child.wait(), 0.4)
    assert is_alive(child.pid)
    assert (await child.stop(5.0)).exit_code == 0


async def test_cancelled_spawn_leaves_nothing(starter: Starter) -> None:
    before = set(children(os.getpid()))
    for delay_s in (0.0, 0.001, 0.003, 0.006, 0.01, 0.02):
        spawning = asyncio.create_task(starter.run("sleep", "60"))
        await asyncio.sleep(delay_s)
        if spawning.cancel():
            with pytest.raises(asyncio.CancelledError):
                await spawning
    await asyncio.gather(*(child.stop(0.0) for child in starter.started))
    await until(lambda: set(children(os.getpid())) <= before, 3.0)


PARENT = """
    import asyncio, os, sys, threading
    from common.engines.child_process import ChildProcess

    async def main():
        child = await ChildProcess.spawn(
            "acme/tiny", sys.argv[1:], env=dict(os.environ), console=lambda *_: None
        )
        print(child.pid, child.guard_pid, flush=True)
        await child.wait()

    {run}
"""
PLAIN = "asyncio.run(main())"
# A fork of the parent that lives on holds the parent's end of the control socket.
WITH_FORK = """
    import time

    def fork_and_stay():
        time.sleep(0.3)
        if os.fork() == 0:
            time.sleep(8)
            os._exit(0)

    threading.Thread(target=fork_and_stay).start()
    asyncio.run(main())
"""


@pytest.mark.parametrize("run", [PLAIN, WITH_FORK], ids=["plain", "with_fork"])
async def test_killed_parent_leaves_nothing(starter: Starter, tmp_path: Path, run: str) -> None:
    grandchild, daemon = tmp_path / "grandchild", tmp_path / "daemon"
    script = textwrap.dedent(PARENT).format(run=textwrap.dedent(run))
    engine = [*PYTHON, str(ENGINE), "--socket", str(starter.sockets.new_socket()), "--ignore-term"]
    engine += ["--grandchild", str(grandchild), "--daemon", str(daemon)]
    with subprocess.Popen(  # noqa: ASYNC220 - starts at once, and must not be ours to await
        [sys.executable, "-W", "ignore", "-c", script, *engine],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
    ) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        pids += [await read_pid(grandchild), await read_pid(daemon)]
        if run is WITH_FORK:
            await until(lambda: len(children(parent.pid)) == 2)
        forks = [pid for pid in children(parent.pid) if pid not in pids]
        assert all(map(is_alive, pids))
        parent.kill()
        parent.stdout.close()
        wait_for(lambda: not any(map(is_alive, pids)), 2.0)
        for pid in forks:
            os.kill(pid, signal.SIGKILL)


async def test_end_of_the_starting_thread_is_not_the_parents(starter: Starter) -> None:
    """The kernel's death signal comes when the thread that forked ends, too."""
    script = """
        import asyncio, os, subprocess, sys, threading, socket
        from common.engines import guard

        ours, theirs = socket.socketpair()

        def start():
            fd = str(theirs.fileno())
            command = [sys.executable, "-I", "-S", guard.__file__, fd, str(os.getpid())]
            global process
            process = subprocess.Popen(command, pass_fds=(theirs.fileno(),))
            message = b"\\0".join([b"", b"2", b"/bin/sleep", b"60"])
            ours.sendall(b"%d\\n" % len(message) + message)
            print(ours.recv(100).decode(), end="", flush=True)

        thread = threading.Thread(target=start)
        thread.start()
        thread.join()
        theirs.close()
        try:
            process.wait(0.5)
        except subprocess.TimeoutExpired:
            print("it lives on", flush=True)
        ours.sendall(b"stop 5\\n")
        print(process.wait(5), ours.recv(100).decode(), end="", flush=True)
    """
    result = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    lines = result.stdout.splitlines()
    assert lines[0].startswith("started ")
    assert lines[1:] == ["it lives on", "143 signalled 15"]


async def test_end_of_the_event_loop_ends_the_engine(starter: Starter) -> None:
    """Without a stop: `asyncio.run` cancels every task at once, and nothing is complained of."""
    script = """
        import asyncio, sys
        from common.engines.supervisor import Supervisor
        from tests.engines_process.conftest import Program
        from common.engines.contract import EngineAddress, EngineCommand, EngineSpec
        from pathlib import Path

        async def main():
            address = EngineAddress(socket_path=Path(sys.argv[1]))
            spec = EngineSpec("acme/tiny", EngineCommand(tuple(sys.argv[2:])), address, Program())
            supervisor = Supervisor(spec, console=lambda *_: None)
            await supervisor.ensure_ready(20)
            print(supervisor.pid)

        asyncio.run(main())
    """
    socket = str(starter.sockets.new_socket())
    engine = [*PYTHON, str(ENGINE), "--socket", socket, "--ignore-term"]
    result = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-X", "dev", "-c", textwrap.dedent(script), socket, *engine],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert result.stderr == ""
    assert not is_alive(int(result.stdout))


async def test_guard_is_small_and_quick(starter: Starter) -> None:
    began = time.monotonic()
    child = await starter.run("sleep", "60")
    took_s = time.monotonic() - began
    status = Path(f"/proc/{child.guard_pid}/status").read_text()
    rss_kb = int(status.split("VmRSS:")[1].split()[0])
    # Measured: 0.02 s and 10.8 MB, 4 MB of which are its own; the machine may be busy.
    assert took_s < 1.0
    assert rss_kb < 16_000


_SPAWN_AND_TELL = """
import asyncio, os, sys
from common.engines.child_process import ChildProcess
from common.runtime.event_loop import run_loop

os.register_at_fork(before=lambda: print("a hook ran", flush=True))

async def main():
    child = await ChildProcess.spawn("m", (sys.executable, "-c", ""), env={}, console=lambda *_: None)
    await child.wait()
    print("ended", flush=True)

run_loop(main())
"""


def test_a_start_runs_no_hooks_of_a_fork() -> None:
    # Logging's and the import system's take locks, each of which another thread may hold for the other.
    root = Path(__file__).parents[2]
    said = subprocess.run(
        [sys.executable, "-c", _SPAWN_AND_TELL],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert said.stdout.split("\n") == ["ended", ""], said.stderr

"""One engine as a child process: started under a guard, its output drained, ended for certain."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from common.engines.console import LineSplitter, mask

logger = logging.getLogger(__name__)

Console = Callable[[str, str], None]
"""Receives the model's name and one line of its engine's output."""

TAIL_LINES = 200
# Of each: enough to find a cause in, also where an engine logs whole prompts.
TAIL_LINE_CHARS = 4096
# Linux's default pipe is 64 KiB: an engine that prints while this program is busy would wait.
PIPE_BYTES = 1 << 20
F_SETPIPE_SZ = 1031  # <linux/fcntl.h>; the fcntl module names it where the system has it only
# How long past the agreed grace the guard may take: KILL, and the kernel's freeing of tens of GB.
GUARD_MARGIN_S = 5.0
# How long output is still read once all processes are gone.
DRAIN_S = 1.0
# What the dynamic loader and the interpreter of the guard may need; the rest is the engine's.
GUARD_ENV = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")

_GUARD = Path(__file__).with_name("guard.py")


@dataclass(frozen=True)
class ExitStatus:
    """How an engine ended: with `code`, or by `signal`.

    Attributes:
        code: Its exit code; None when a signal ended it.
        signal: The signal's number; None when it exited.
        was_stopped: We asked it to end.
    """

    code: int | None = None
    signal: int | None = None
    was_stopped: bool = False

    @property
    def exit_code(self) -> int:
        """One number, as a shell gives it: 128 + n for signal n."""
        return 128 + (self.signal or 0) if self.code is None else self.code

    def __str__(self) -> str:
        if self.code is not None:
            return f"exit code {self.code}"
        try:
            name = signal.Signals(self.signal or 0).name
        except ValueError:
            name = f"signal {self.signal}"
        return f"exit code {self.exit_code}, killed by {name}"


class _Output(asyncio.Protocol):
    """Takes the engine's output off the pipe as it comes."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._splitter = LineSplitter()
        self._on_line = on_line
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        for line in self._splitter.feed(data):
            self._on_line(line)

    def connection_lost(self, exc: Exception | None) -> None:
        for line in self._splitter.flush():
            self._on_line(line)
        if not self.ended.done():
            self.ended.set_result(None)


class ChildProcess:
    """An engine that runs under ``guard.py``; made by `spawn`.

    Belongs to the event loop that made it. Dropping it without `stop` ends the engine, since the
    guard then loses its control socket.
    """

    def __init__(self, name: str, console: Console, secrets: Collection[str]) -> None:
        self.name = name
        self.pid = 0
        self.guard_pid = 0
        self._console = console
        self._secrets = tuple(secrets)
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._was_stopped = False
        # Code and signal; this one until the guard tells, for an engine that dies with its guard.
        self._status: tuple[int | None, int | None] = (None, signal.SIGKILL)
        self._output_transport: asyncio.ReadTransport | None = None
        self._ended = asyncio.Event()
        self._watching: asyncio.Task[ExitStatus] | None = None

    @classmethod
    async def spawn(
        cls,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        console: Console,
        cwd: Path | None = None,
        secrets: Collection[str] = (),
    ) -> ChildProcess:
        """Start a program; returns once it is executing.

        Args:
            name: The model's name, given to `console` with each line.
            argv: Program (looked up in `env`'s PATH) and arguments.
            env: The whole environment of the engine.
            console: Called in the event loop with each line of stdout and stderr; must not block.
            cwd: Working directory; None keeps this process's.
            secrets: Values to mask in the output.

        Raises:
            OSError: The program cannot be executed (``FileNotFoundError`` and so on).
        """
        child = cls(name, console, secrets)
        await child._start(argv, env, cwd)
        return child

    def tail(self, count: int = TAIL_LINES) -> tuple[str, ...]:
        """The last lines of output, at most 200, oldest first."""
        return tuple(self._tail)[-count:]

    async def wait(self) -> ExitStatus:
        """Wait until the engine and everything that it started are gone and the output is read."""
        assert self._watching is not None
        return await asyncio.shield(self._watching)

    async def wait_ended(self) -> None:
        """Wait until the engine itself has ended; what it left may still be being ended."""
        await self._ended.wait()

    async def stop(self, grace_s: float) -> ExitStatus:
        """Ask the engine to end; after `grace_s` it and all its descendants are killed.

        May be called again, also at the same time: the shortest grace counts. Returns at the latest
        some seconds after the grace, even when the kernel cannot end a process.
        """
        assert self._watching is not None
        self.request_stop(grace_s)
        if not await self._ends_within(grace_s + GUARD_MARGIN_S):
            self._kill_all()
            if not await self._ends_within(GUARD_MARGIN_S):
                self._say(f"process {self.pid} cannot be ended: it waits in the kernel")
                return ExitStatus(signal=signal.SIGKILL, was_stopped=True)
        return self._watching.result()

    async def _ends_within(self, timeout_s: float) -> bool:
        assert self._watching is not None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            if self._watching.cancelled():
                # `asyncio.run` cancels all at its end, also what watches for us.
                self._watching = loop.create_task(self._watch())
            await asyncio.wait({self._watching}, timeout=max(0.0, deadline - loop.time()))
            if not self._watching.cancelled():
                return self._watching.done()

    def request_stop(self, grace_s: float) -> None:
        """Ask for `stop` without waiting; does not block and never fails."""
        self._was_stopped = True
        with contextlib.suppress(OSError):
            self._control.send(f"stop {max(grace_s, 0.0):.3f}\n".encode())

    async def _start(self, argv: Sequence[str], env: Mapping[str, str], cwd: Path | None) -> None:
        self._control, guard_end = socket.socketpair()
        self._control.setblocking(False)
        try:
            output = self._start_guard(guard_end)
        except BaseException:
            self._control.close()
            raise
        loop = asyncio.get_running_loop()
        try:
            self._output_transport, self._output = await loop.connect_read_pipe(
                lambda: _Output(self._on_line), output
            )
            await self._launch(argv, env, cwd)
        except BaseException:
            self._control.close()
            await self._guard_ended()  # it ends by that, within 1 s if the engine runs already
            (self._output_transport or output).close()
            raise
        self._watching = loop.create_task(self._watch())

    def _start_guard(self, guard_end: socket.socket) -> BinaryIO:
        """Start the guard with its end of the control socket; returns the pipe of all output."""
        output_fd, output_in_child = os.pipe()
        with contextlib.suppress(OSError):  # more than an unprivileged user's pipes may have
            fcntl.fcntl(output_fd, F_SETPIPE_SZ, PIPE_BYTES)
        output = os.fdopen(output_fd, "rb", buffering=0)
        try:
            # Not by the event loop: uvloop runs the hooks for a fork, of which logging's and the import
            # system's each take a lock; a thread that holds one and wants the other stops all of us.
            self._guard = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", str(_GUARD)),
                    *(str(guard_end.fileno()), str(os.getpid())),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output_in_child,
                stderr=output_in_child,
                pass_fds=(guard_end.fileno(),),
                start_new_session=True,
                env={key: os.environ[key] for key in GUARD_ENV if key in os.environ},
            )
        except BaseException:
            output.close()
            raise
        finally:
            guard_end.close()
            os.close(output_in_child)
        self.guard_pid = self._guard.pid
        return output

    async def _guard_ended(self) -> None:
        """Wait for the guard's end, which is near when this is called."""
        await asyncio.to_thread(self._guard.wait)

    async def _launch(self, argv: Sequence[str], env: Mapping[str, str], cwd: Path | None) -> None:
        """Tell the guard what to run; raises what came of it."""
        fields = [
            os.fsencode(cwd or ""),
            str(len(argv)).encode(),
            *(os.fsencode(arg) for arg in argv),
            *(os.fsencode(f"{key}={value}") for key, value in env.items()),
        ]
        if any(b"\0" in field for field in fields):
            raise ValueError("an argument or variable of the engine holds a NUL character")
        message = b"\0".join(fields)
        loop = asyncio.get_running_loop()
        self._received = b""
        try:
            await loop.sock_sendall(self._control, f"{len(message)}\n".encode() + message)
        except ConnectionError:
            pass  # the guard ended: the missing answer says so
        word, _, number = (await self._read_report()).partition(" ")
        if word == "started":
            self.pid = int(number)
            return
        await self._guard_ended()
        error = int(number or 0)
        missing = cwd if cwd is not None and not cwd.is_dir() else argv[0]
        raise OSError(error, os.strerror(error) if error else "its guard ended", str(missing))

    async def _read_report(self) -> str:
        """Read the guard's next line; empty at its end."""
        loop = asyncio.get_running_loop()
        while b"\n" not in self._received:
            if self._control.fileno() < 0:
                return ""
            try:
                data = await loop.sock_recv(self._control, 4096)
            except ConnectionError:
                data = b""
            if not data:
                return ""
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return line.decode()

    async def _watch(self) -> ExitStatus:
        """Follow the engine to its end; the only reader of the guard's reports."""
        while report := await self._read_report():
            word, _, value = report.partition(" ")
            self._status = (int(value), None) if word == "exited" else (None, int(value))
            self._ended.set()
        self._ended.set()
        await self._guard_ended()
        # Only now may the descriptor be closed: until here the guard could still be told to hurry.
        self._control.close()
        if self._guard.returncode and self._guard.returncode < 0:
            # The guard was killed. The engine dies with it; its group may not.
            self._kill_all()
        await asyncio.wait({self._output.ended}, timeout=DRAIN_S)
        if self._output_transport is not None:
            self._output_transport.close()
        return ExitStatus(*self._status, was_stopped=self._was_stopped)

    def _kill_all(self) -> None:
        """Kill the engine's process group and the guard, as a last resort."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        if self._guard.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self._guard.kill()

    def _on_line(self, line: str) -> None:
        line = mask(line, self._secrets)
        self._tail.append(line[:TAIL_LINE_CHARS])
        self._say(line)

    def _say(self, line: str) -> None:
        try:
            self._console(self.name, line)
        except Exception:
            logger.exception("the console refused a line of %s", self.name)

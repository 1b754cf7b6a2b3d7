"""One step of an installation: a child process that is followed, cancelled, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from apps.vllm.environments.indexes import hide_passwords
from common.engines.child_process import ChildProcess
from common.models.progress import FetchCancelledError, render_bytes

REPORT_EVERY_S = 5.0
_LOOK_EVERY_S = 0.2
_GRACE_S = 1.0
_KEPT_LINES = 400
_WIDTH = 100
# What pip and uv say of what they are at; the rest is warnings and trifles.
_TELLING = re.compile(
    r"\s*(Collecting|Download|Installing|Processing|Building|Preparing|Prepared|Resolved|Using cached)"
)


@dataclass(frozen=True)
class Ended:
    """How a step ended.

    Attributes:
        exit_code: As a shell gives it.
        output: Its last lines, without passwords.
    """

    exit_code: int
    output: tuple[str, ...]

    @property
    def is_done(self) -> bool:
        """Whether it did what it was to do."""
        return self.exit_code == 0


@dataclass
class StepRunner:
    """Runs the steps of one installation; belongs to one thread.

    Attributes:
        title: What is installed, for people.
        folder: The environment: its size is part of the progress.
        log: A file that gets all output, without passwords.
        report: Told every few seconds what is done.
        cancel: Ends it.
        started: When the installation began, by `time.monotonic`.
    """

    title: str
    folder: Path
    log: Path
    report: Callable[[str], None]
    cancel: threading.Event
    started: float = field(default_factory=time.monotonic)

    def run(self, doing: str, argv: Sequence[str], env: Mapping[str, str]) -> Ended:
        """Run one step to its end. Blocks.

        Args:
            doing: Which step this is, for people.
            argv: The program and its arguments.
            env: Its whole environment.

        Raises:
            FetchCancelledError: `cancel` was set; the process and all that it started are gone.
            OSError: The program cannot be started.
        """
        return asyncio.run(self._run(doing, argv, env))

    def say(self, doing: str, detail: str = "") -> None:
        """Report where the installation is."""
        amount = f"{render_bytes(folder_bytes(self.folder))} on disk"
        seconds = f"{time.monotonic() - self.started:.0f} s"
        shown = f": {detail[:_WIDTH]}" if detail else ""
        self.report(f"Installing {self.title}, {doing}{shown} ({amount}, {seconds})")

    async def _run(self, doing: str, argv: Sequence[str], env: Mapping[str, str]) -> Ended:
        if self.cancel.is_set():
            raise self._cancelled()
        lines: deque[str] = deque(maxlen=_KEPT_LINES)
        with self.log.open("a", encoding="utf-8") as log:

            def take(_: str, line: str) -> None:
                line = hide_passwords(line)
                lines.append(line)
                log.write(f"{line}\n")

            log.write(f"# {doing}: {' '.join(argv)}\n")
            self.say(doing)
            child = await ChildProcess.spawn(self.title, argv, env=env, console=take)
            waiting = asyncio.create_task(child.wait())
            try:
                await self._follow(doing, waiting, lines)
            except BaseException:
                await child.stop(_GRACE_S)
                raise
            return Ended(waiting.result().exit_code, tuple(lines))

    async def _follow(
        self, doing: str, waiting: asyncio.Task[object], lines: Sequence[str]
    ) -> None:
        said_at = time.monotonic()
        while not (await asyncio.wait({waiting}, timeout=_LOOK_EVERY_S))[0]:
            if self.cancel.is_set():
                raise self._cancelled()
            if time.monotonic() - said_at >= REPORT_EVERY_S:
                said_at = time.monotonic()
                told = (line.strip() for line in reversed(lines) if _TELLING.match(line))
                self.say(doing, next(told, ""))

    def _cancelled(self) -> FetchCancelledError:
        return FetchCancelledError(f"The installation of {self.title} was cancelled.")


def folder_bytes(folder: Path) -> int:
    """Count the bytes of all files below a folder. Blocks; files may come and go meanwhile."""
    total = 0
    folders = [str(folder)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
    return total

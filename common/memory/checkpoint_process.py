"""Calls the CUDA driver's checkpoint functions on another process, and tells what came of it.

``python checkpoint_process.py aside|back|probe --pid PID --lock-ms 10000 --library libcuda.so.1``

A short-lived process of its own, since a process that has loaded the driver keeps it, and since the
calls can hang. Prints one line of JSON, ``{"outcome": ..., "step": ..., "error": ..., "state": ...}``,
and exits with the number of the outcome (`EXIT_CODES`):

* ``done``;
* ``untouched``: nothing was done, the process runs as before;
* ``spoilt``: it failed half way, the process is of no more use;
* ``missing``: the library or one of its functions is not there.

Signatures, structures and states: https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__CHECKPOINT.html
(CUDA 12.8, driver 570; the restore arguments as of 13.0, where pairs of GPUs came into what was
reserved and had to be zero). What the functions do to a process, and that a failed checkpoint need not
leave it in a good state: https://github.com/NVIDIA/cuda-checkpoint. Only the standard library is used,
so that it runs isolated and starts at once.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

EXIT_CODES = {"done": 0, "untouched": 3, "spoilt": 4, "missing": 5}

RUNNING, LOCKED, CHECKPOINTED, FAILED = range(4)
_STATES = {RUNNING: "running", LOCKED: "locked", CHECKPOINTED: "checkpointed", FAILED: "failed"}
# CUresult: the operation is not possible in this driver or with what the process has allocated.
_NOT_SUPPORTED = 801

_Call = Callable[[], int]


class LockArgs(ctypes.Structure):
    """CUcheckpointLockArgs: 64 bytes. A timeout of 0 means none."""

    _fields_ = (
        ("timeoutMs", ctypes.c_uint),
        ("reserved0", ctypes.c_uint),
        ("reserved1", ctypes.c_uint64 * 7),
    )


class CheckpointArgs(ctypes.Structure):
    """CUcheckpointCheckpointArgs: 64 bytes, all zero: the copy goes to host memory."""

    _fields_ = (("reserved", ctypes.c_uint64 * 8),)


class RestoreArgs(ctypes.Structure):
    """CUcheckpointRestoreArgs: 64 bytes, all zero: onto the same GPUs."""

    _fields_ = (
        ("gpuPairs", ctypes.c_void_p),
        ("gpuPairsCount", ctypes.c_uint),
        ("reserved", ctypes.c_char * 44),
        ("reserved1", ctypes.c_uint64),
    )


class UnlockArgs(ctypes.Structure):
    """CUcheckpointUnlockArgs: 64 bytes, all zero."""

    _fields_ = (("reserved", ctypes.c_uint64 * 8),)


@dataclass(frozen=True)
class Outcome:
    """What came of an action.

    Attributes:
        outcome: ``done``, ``untouched``, ``spoilt`` or ``missing``.
        step: The call that failed; empty when none did.
        error: What went wrong, in the driver's words.
        state: What the driver says of the process at the end; empty where it was not asked.
    """

    outcome: str
    step: str = ""
    error: str = ""
    state: str = ""


class DriverError(Exception):
    """A call of the driver that failed."""

    def __init__(self, step: str, code: int, name: str) -> None:
        super().__init__(f"{name} ({code})" if name else f"CUDA error {code}")
        self.step = step
        self.code = code


class MissingError(Exception):
    """The driver's library, or one of its functions, is not there."""


class Driver:
    """The driver's checkpoint functions.

    Args:
        library: Name or path of ``libcuda``.

    Raises:
        MissingError: It cannot be loaded, or is too old.
    """

    def __init__(self, library: str) -> None:
        try:
            self._library = ctypes.CDLL(library)
        except OSError as error:
            raise MissingError(str(error)) from error
        self._init = self._function("cuInit", ctypes.c_uint)
        self._name = self._function("cuGetErrorName", ctypes.c_int, ctypes.POINTER(ctypes.c_char_p))
        pid = ctypes.c_int
        self._get_state = self._function(
            "cuCheckpointProcessGetState", pid, ctypes.POINTER(ctypes.c_int)
        )
        self._lock = self._function("cuCheckpointProcessLock", pid, ctypes.POINTER(LockArgs))
        self._checkpoint = self._function(
            "cuCheckpointProcessCheckpoint", pid, ctypes.POINTER(CheckpointArgs)
        )
        self._restore = self._function(
            "cuCheckpointProcessRestore", pid, ctypes.POINTER(RestoreArgs)
        )
        self._unlock = self._function("cuCheckpointProcessUnlock", pid, ctypes.POINTER(UnlockArgs))

    def start(self) -> None:
        """Attach to the driver; no context is made, so no GPU is taken."""
        self._check("cuInit", lambda: self._init(0))

    def state(self, pid: int) -> int:
        """The state of a process, one of the four."""
        found = ctypes.c_int(-1)
        self._check("get state", lambda: self._get_state(pid, ctypes.byref(found)))
        return found.value

    def lock(self, pid: int, timeout_ms: int) -> None:
        """Have the process's CUDA calls wait."""
        self._check("lock", lambda: self._lock(pid, ctypes.byref(LockArgs(timeoutMs=timeout_ms))))

    def checkpoint(self, pid: int) -> None:
        """Copy its device memory to the host and let go of the GPUs."""
        self._check("checkpoint", lambda: self._checkpoint(pid, ctypes.byref(CheckpointArgs())))

    def restore(self, pid: int) -> None:
        """Take the GPUs again and copy its memory back."""
        self._check("restore", lambda: self._restore(pid, ctypes.byref(RestoreArgs())))

    def unlock(self, pid: int) -> None:
        """Let its CUDA calls go on."""
        self._check("unlock", lambda: self._unlock(pid, ctypes.byref(UnlockArgs())))

    def _function(self, name: str, *arguments: type[Any]) -> Callable[..., int]:
        try:
            function = self._library[name]
        except AttributeError as error:
            raise MissingError(f"the driver has no {name}") from error
        function.argtypes = arguments
        function.restype = ctypes.c_int
        return function

    def _check(self, step: str, call: _Call) -> None:
        code = call()
        if code == 0:
            return
        name = ctypes.c_char_p()
        known = self._name(code, ctypes.byref(name)) == 0 and name.value is not None
        raise DriverError(step, code, (name.value or b"").decode() if known else "")


def put_aside(driver: Driver, pid: int, lock_ms: int) -> Outcome:
    """Lock and checkpoint a process; where that fails, unlock it again.

    Args:
        driver: The driver's functions.
        pid: The process.
        lock_ms: How long the lock may take, in milliseconds: for the work that the GPU has.
    """
    try:
        found = driver.state(pid)
        if found != RUNNING:
            error = f"its CUDA state is {_word(found)}, not running"
            return Outcome("spoilt", "get state", error, _word(found))
        driver.lock(pid, lock_ms)
    except DriverError as error:
        return _after_failure(driver, pid, error, is_certain=True)
    try:
        driver.checkpoint(pid)
    except DriverError as error:
        # Only this refusal comes before anything was done.
        return _after_failure(driver, pid, error, is_certain=error.code == _NOT_SUPPORTED)
    return Outcome("done", state=_word(CHECKPOINTED))


def bring_back(driver: Driver, pid: int) -> Outcome:
    """Restore and unlock a process."""
    try:
        found = driver.state(pid)
        if found == CHECKPOINTED:
            driver.restore(pid)
        elif found != LOCKED:
            error = f"its CUDA state is {_word(found)}, not checkpointed"
            return Outcome("spoilt", "get state", error, _word(found))
        driver.unlock(pid)
    except DriverError as error:
        return Outcome("spoilt", error.step, str(error), _state(driver, pid))
    return Outcome("done", state=_word(RUNNING))


def _after_failure(driver: Driver, pid: int, error: DriverError, *, is_certain: bool) -> Outcome:
    """Unlock what may be locked; untouched only if the process certainly is as it was."""
    if _state(driver, pid) == _word(LOCKED):
        try:
            driver.unlock(pid)
        except DriverError as second:
            words = f"{error}, and then {second}"
            return Outcome("spoilt", error.step, words, _state(driver, pid))
    state = _state(driver, pid)
    # Of a process that does not use CUDA there is no state, and nothing to spoil.
    is_untouched = is_certain and (state == _word(RUNNING) or error.step == "get state")
    return Outcome("untouched" if is_untouched else "spoilt", error.step, str(error), state)


def _state(driver: Driver, pid: int) -> str:
    try:
        return _word(driver.state(pid))
    except DriverError:
        return ""


def _word(state: int) -> str:
    return _STATES.get(state, f"unknown ({state})")


def run(arguments: argparse.Namespace) -> Outcome:
    """Do what the arguments say."""
    try:
        driver = Driver(arguments.library)
    except MissingError as error:
        return Outcome("missing", "load", str(error))
    try:
        driver.start()
    except DriverError as error:
        return Outcome("untouched", error.step, str(error))
    if arguments.action == "probe":
        return Outcome("done")
    if arguments.action == "aside":
        return put_aside(driver, arguments.pid, arguments.lock_ms)
    return bring_back(driver, arguments.pid)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do it, print the outcome, and return its number."""
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=("aside", "back", "probe"))
    parser.add_argument("--pid", type=int, default=0)
    parser.add_argument("--lock-ms", type=int, default=10_000)
    parser.add_argument("--library", default="libcuda.so.1")
    outcome = run(parser.parse_args(arguments))
    sys.stdout.write(json.dumps(asdict(outcome)) + "\n")
    sys.stdout.flush()
    return EXIT_CODES[outcome.outcome]


if __name__ == "__main__":
    sys.exit(main())

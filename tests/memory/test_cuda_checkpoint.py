"""The driver's checkpoint, through a library that speaks its ABI, on a process that waits as CUDA does."""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.engines.contract import EngineAddress
from common.memory.checkpoint_process import EXIT_CODES
from common.memory.cuda_checkpoint import (
    CheckpointLimits,
    CudaCheckpoint,
    checkpoint_obstacle,
    probe_problem,
    run_helper,
)
from common.memory.engine_ways import MachineFacts
from common.memory.offload import OffloadError, RunningEngine

SOURCE = Path(__file__).parents[1] / "fakes" / "libcuda.c"
# Works with its GPU, tells, and works again.
ENGINE = """
import ctypes, sys
work = ctypes.CDLL(sys.argv[1]).fakeWork
while True:
    work()
    sys.stdout.write("worked\\n")
    sys.stdout.flush()
    sys.stdin.readline()
"""
LOCK_MS = 1500
FAST = CheckpointLimits(lock_s=LOCK_MS / 1000, step_s=3)
GOOD = MachineFacts("x86_64", driver="570.86.15", gpus=1)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fake driver."""
    path = tmp_path_factory.mktemp("cuda") / "libcuda.so.1"
    build = ["gcc", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(path), str(SOURCE)]
    subprocess.run(build, check=True)
    return path


@dataclass
class Target:
    """A process with CUDA, and the driver's folder."""

    folder: Path
    process: asyncio.subprocess.Process
    offload: CudaCheckpoint

    @property
    def engine(self) -> RunningEngine:
        return RunningEngine(self.process.pid, EngineAddress(port=1))

    @property
    def state(self) -> str:
        """The driver's state of the process, a digit."""
        return (self.folder / f"state-{self.process.pid}").read_text().strip()

    def script(self, what: str, number: int = 1) -> None:
        """Have the driver do something."""
        (self.folder / what).write_text(str(number))

    def calls(self) -> list[str]:
        """The functions that were called, without the questions for the state."""
        lines = (self.folder / "calls").read_text().splitlines()
        return [line.split()[0] for line in lines if not line.startswith("state ")]

    def arguments(self, name: str) -> bytes:
        """The bytes that a function got."""
        lines = (self.folder / "calls").read_text().splitlines()
        found = [line.split() for line in lines if line.startswith(f"{name} ")]
        assert [line[1] for line in found] == [str(self.process.pid)]
        return bytes.fromhex(found[0][2])

    async def works(self, within_s: float = 5.0) -> bool:
        """Whether the process does its work once more."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"\n")
        try:
            return await asyncio.wait_for(self.process.stdout.readline(), within_s) == b"worked\n"
        except (asyncio.TimeoutError, TimeoutError):
            return False


@asynccontextmanager
async def target(
    library: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Target]:
    monkeypatch.setenv("CUDA_FAKE_DIR", str(folder))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", ENGINE, str(library)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"worked\n"
        yield Target(folder, process, CudaCheckpoint(str(library), FAST))
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_an_engine_waits_while_it_is_aside(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with target(library, tmp_path, monkeypatch) as found:
        assert found.offload.label == "driver checkpoint"
        await found.offload.put_aside(found.engine)
        assert found.state == "2"
        assert not await found.works(0.3)
        await found.offload.bring_back(found.engine)
        assert found.state == "0"
        assert await found.works()
        assert found.calls() == ["init", "lock", "checkpoint", "init", "restore", "unlock"]
        assert found.arguments("lock") == LOCK_MS.to_bytes(4, "little") + bytes(60)
        for name in ("checkpoint", "restore", "unlock"):
            assert found.arguments(name) == bytes(64)


async def test_a_lock_that_takes_too_long_leaves_the_engine_as_it_was(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with target(library, tmp_path, monkeypatch) as found:
        found.script("busy", 60_000)
        with pytest.raises(OffloadError, match=r"lock: CUDA_ERROR_NOT_READY \(600\)") as caught:
            await found.offload.put_aside(found.engine)
        assert caught.value.is_untouched
        assert found.calls() == ["init", "lock"]
        assert await found.works()


async def test_a_lock_waits_for_the_work_at_hand(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with target(library, tmp_path, monkeypatch) as found:
        found.script("busy", 200)
        await found.offload.put_aside(found.engine)
        assert found.state == "2"


@pytest.mark.parametrize(
    ("code", "words", "is_untouched"),
    [
        (801, r"checkpoint: CUDA_ERROR_NOT_SUPPORTED \(801\)", True),
        (2, r"checkpoint: CUDA_ERROR_OUT_OF_MEMORY \(2\)", False),
        (999, "checkpoint: CUDA error 999", False),
    ],
)
async def test_a_failed_checkpoint_is_unlocked_again(
    library: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    words: str,
    is_untouched: bool,
) -> None:
    async with target(library, tmp_path, monkeypatch) as found:
        found.script("fail-checkpoint", code)
        with pytest.raises(OffloadError, match=words) as caught:
            await found.offload.put_aside(found.engine)
        assert caught.value.is_untouched is is_untouched
        assert found.calls() == ["init", "lock", "checkpoint", "unlock"]
        assert await found.works()


async def test_a_checkpoint_that_cannot_be_undone_is_told(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with target(library, tmp_path, monkeypatch) as found:
        found.script("fail-checkpoint", 801)
        found.script("fail-unlock", 2)
        with pytest.raises(OffloadError, match=r"NOT_SUPPORTED.*and then.*OUT_OF_MEM") as caught:
            await found.offload.put_aside(found.engine)
        assert not caught.value.is_untouched


@pytest.mark.parametrize("step", ["restore", "unlock"])
async def test_memory_that_is_gone_is_told_and_a_second_try_goes_on(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    async with target(library, tmp_path, monkeypatch) as found:
        await found.offload.put_aside(found.engine)
        found.script(f"fail-{step}", 2)
        with pytest.raises(OffloadError, match=rf"{step}: CUDA_ERROR_OUT_OF_MEMORY") as caught:
            await found.offload.bring_back(found.engine)
        assert not caught.value.is_untouched
        (tmp_path / f"fail-{step}").unlink()
        await found.offload.bring_back(found.engine)
        assert await found.works()


async def test_a_state_that_does_not_fit_is_told(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with target(library, tmp_path, monkeypatch) as found:
        with pytest.raises(OffloadError, match="is running, not checkpointed"):
            await found.offload.bring_back(found.engine)
        found.script(f"state-{found.process.pid}", 3)
        with pytest.raises(OffloadError, match="is failed, not running") as caught:
            await found.offload.put_aside(found.engine)
        assert not caught.value.is_untouched
        assert found.calls() == ["init", "init"]


async def test_a_process_without_cuda_is_not_touched(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with target(library, tmp_path, monkeypatch) as found:
        other = RunningEngine(os.getpid(), EngineAddress(port=1))
        with pytest.raises(OffloadError, match="does not use CUDA") as caught:
            await found.offload.put_aside(other)
        assert caught.value.is_untouched
        assert not (tmp_path / "calls").exists()
        found.process.kill()
        await found.process.wait()
        (tmp_path / f"state-{found.process.pid}").unlink()
        with pytest.raises(OffloadError, match="get state: CUDA error 201") as caught:
            await found.offload.put_aside(found.engine)
        assert caught.value.is_untouched


@pytest.mark.parametrize("step", ["init", "checkpoint"])
async def test_a_driver_that_crashes_takes_its_own_process_only(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    async with target(library, tmp_path, monkeypatch) as found:
        found.script(f"crash-{step}")
        with pytest.raises(OffloadError, match=f"ended with -{int(signal.SIGSEGV)}") as caught:
            await found.offload.put_aside(found.engine)
        assert not caught.value.is_untouched


def helpers(library: Path) -> list[int]:
    """The processes that have this driver loaded, this one and the engine aside."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"--library" in words and str(library).encode() in words:
            found.append(int(folder.name))
    return found


async def test_a_driver_that_hangs_is_left_alone(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with target(library, tmp_path, monkeypatch) as found:
        found.script("hang-checkpoint")
        quick = CudaCheckpoint(str(library), CheckpointLimits(lock_s=0.5, step_s=0.5))
        with pytest.raises(OffloadError, match="did not answer within 1 s") as caught:
            await quick.put_aside(found.engine)
        assert not caught.value.is_untouched
        assert helpers(library) == []


async def test_a_cancelled_move_leaves_no_process(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with target(library, tmp_path, monkeypatch) as found:
        found.script("hang-lock")
        moving = asyncio.create_task(found.offload.put_aside(found.engine))
        while not helpers(library):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)
        moving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await moving
        assert helpers(library) == []


def built(folder: Path, text: str) -> Path:
    """A library of these functions."""
    source, path = folder / "source.c", folder / "libcuda.so.1"
    source.write_text(text)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(path), str(source)], check=True)
    return path


async def test_without_the_functions_it_says_so(tmp_path: Path) -> None:
    path = tmp_path / "libcuda.so.1"
    outcome = await run_helper("probe", library=str(path), limit_s=10)
    assert outcome.outcome == "missing"
    assert "cannot open shared object" in outcome.error
    old = "int cuInit(unsigned f) { return f; } int cuGetErrorName(int c, char **n) { return c + !n; }"
    assert await probe_problem(str(built(tmp_path, old))) == (
        "the CUDA driver cannot be used for it: the driver has no cuCheckpointProcessGetState"
    )


async def test_a_probe_finds_what_works(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_FAKE_DIR", str(tmp_path))
    assert await probe_problem(str(library)) == ""
    (tmp_path / "fail-init").write_text("801")
    assert "NOT_SUPPORTED" in await probe_problem(str(library))


@pytest.mark.parametrize(("fail", "code"), [("", "done"), ("lock", "untouched"), ("x", "missing")])
def test_the_exit_code_tells_as_well(library: Path, tmp_path: Path, fail: str, code: str) -> None:
    (tmp_path / "state-77").write_text("0")
    (tmp_path / f"fail-{fail}").write_text("2")
    used = tmp_path / "none.so" if code == "missing" else library
    done = subprocess.run(
        [sys.executable, "-m", "common.memory.checkpoint_process", "aside", "--pid", "77"]
        + ["--library", str(used)],
        env={**os.environ, "CUDA_FAKE_DIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        check=False,
    )
    assert done.returncode == EXIT_CODES[code]
    assert done.stdout.count(b"\n") == 1


@pytest.mark.parametrize(
    ("machine", "environ", "processes", "words"),
    [
        (MachineFacts("x86_64", driver="570.86.15"), {}, 1, None),
        (MachineFacts("AMD64", driver="610.5"), {"OTHER": "1"}, 1, None),
        (MachineFacts("x86_64", driver="565.57.01"), {}, 1, "565.57.01 cannot do it; 570"),
        (MachineFacts("x86_64", driver="99.1"), {}, 1, "99.1 cannot do it"),
        (MachineFacts("x86_64"), {}, 1, "version of the NVIDIA driver is not known"),
        (MachineFacts("aarch64", driver="595.1"), {}, 1, "this machine is aarch64"),
        (MachineFacts("x86_64", driver="570.1", is_mig=True), {}, 1, "MIG"),
        (GOOD, {"GGML_CUDA_ENABLE_UNIFIED_MEMORY": "0"}, 1, "unified memory"),
        (GOOD, {}, 3, "this engine is 3"),
        (MachineFacts("x86_64", driver="570.1", checkpoint_problem="it burns"), {}, 1, "it burns"),
    ],
)
def test_where_the_driver_can_do_it(
    machine: MachineFacts, environ: dict[str, str], processes: int, words: str | None
) -> None:
    obstacle = checkpoint_obstacle(machine, environ, processes=processes)
    if words is None:
        assert obstacle is None
    else:
        assert obstacle is not None
        assert words in obstacle


@pytest.mark.gpu
@pytest.mark.skipif(not Path("/dev/nvidiactl").exists(), reason="there is no NVIDIA GPU")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the driver does it on x86-64")
async def test_a_real_process_gives_its_memory_back_and_has_it_again() -> None:
    import pynvml

    mib = 512
    program = f"""
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
context, memory, value = ctypes.c_void_p(), ctypes.c_uint64(), ctypes.c_uint(0)
def check(code):
    assert code == 0, code
check(cuda.cuInit(0))
check(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0))
check(cuda.cuCtxSetCurrent(context))
check(cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t({mib} << 20)))
check(cuda.cuMemsetD32_v2(memory, 4711, ctypes.c_size_t({mib} << 18)))
while True:
    check(cuda.cuMemcpyDtoH_v2(ctypes.byref(value), memory, ctypes.c_size_t(4)))
    print(value.value, flush=True)
    sys.stdin.readline()
"""
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)

    def free() -> int:
        return int(pynvml.nvmlDeviceGetMemoryInfo(handle).free)

    assert await probe_problem() == ""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        assert await process.stdout.readline() == b"4711\n"
        engine, offload = RunningEngine(process.pid, EngineAddress(port=1)), CudaCheckpoint()
        before = free()
        await offload.put_aside(engine)
        assert free() - before >= mib << 20
        process.stdin.write(b"\n")
        reading = asyncio.ensure_future(process.stdout.readline())
        done, _ = await asyncio.wait({reading}, timeout=0.5)
        assert not done
        await offload.bring_back(engine)
        assert await reading == b"4711\n"
        assert free() <= before + (64 << 20)
    finally:
        process.kill()
        await process.communicate()
        pynvml.nvmlShutdown()

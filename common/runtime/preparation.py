"""From checked settings to what the supervisors run: the engine made ready, files fetched, commands written."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common.engines.contract import EngineAddress, EngineCommand, EngineSpec
from common.engines.cpu import default_threads
from common.engines.ports import SocketDirectory, pick_port
from common.runtime.app import App, InstalledEngine, ModelExtras, ModelPlan
from common.runtime.background import in_background
from common.runtime.checking import Checked, check_configs, check_engine
from common.runtime.console import Console
from common.runtime.fetching import Fetching
from common.runtime.hosted_model import HostedModel
from common.runtime.placement import Placement

STARTING = "starting the engine"
"""The progress of a model whose files are there."""


@dataclass(frozen=True)
class Prepared:
    """What a model's supervisor runs.

    Attributes:
        spec: At first.
        restart_spec: Makes what to run at a restart, where that is not the same again.
    """

    spec: EngineSpec
    restart_spec: Callable[[], EngineSpec] | None = None


class Preparation:
    """Prepares the engine and the models of one instance.

    Args:
        app: The app.
        checked: The instance's settings and the engine that was found.
        console: Gets what is done.
        environ: The worker's environment.
        on_progress: Told, from any thread, what is being done for a model.
    """

    def __init__(
        self,
        app: App,
        checked: Checked,
        console: Console,
        environ: Mapping[str, str],
        on_progress: Callable[[HostedModel, str], None],
    ) -> None:
        self._app = app
        self._checked = checked
        self._settings = checked.settings
        self._console = console
        self._environ = environ
        self._on_progress = on_progress
        self._sockets = SocketDirectory()
        self._cache_folders: list[str] = []
        self._cancel = threading.Event()
        token = self._settings.general.hugging_face_token
        self._fetching = Fetching(token.get_secret_value() if token else None, self._cancel)
        self.placement = Placement(app, self._settings, environ)

    async def install(self, models: Sequence[HostedModel]) -> InstalledEngine:
        """Make the engine that was found ready to run; all `models` wait for it.

        Raises:
            EngineMissingError: It cannot be installed.
            FetchCancelledError: `cancel` was called.
        """

        def report(line: str) -> None:
            self._console.line(line)
            for model in models:
                self._on_progress(model, line)

        engine = await in_background(
            self._app.install_engine,
            self._checked.engine,
            self._settings,
            self._environ,
            report,
            self._cancel,
        )
        for model in models:
            self._on_progress(model, "")
        self._console.line(f"Engine: {engine.label}")
        if engine.notice:
            self._console.line(engine.notice)
        return engine

    async def check(self, engine: InstalledEngine, models: Sequence[HostedModel]) -> None:
        """Refuse what the engine's own flags and the models' own configurations tell to be wrong.

        Raises:
            ConfigurationError: All that is wrong; of the models nothing but that file was fetched.
        """
        parameters = self._checked.parameters
        await in_background(check_engine, self._app, parameters, engine)
        await self.placement.check()
        if self._app.wants == "repository":
            configs = [self._fetching.config(model.options) for model in models]
            check_configs(self._app, parameters, await asyncio.gather(*configs))

    async def prepare(
        self, engine: InstalledEngine, model: HostedModel, extras: ModelExtras
    ) -> Prepared:
        """Bring a model's files and companions here, see that they fit, and write its command.

        Raises:
            DeployError: They cannot be had, or do not fit.
            FetchCancelledError: `cancel` was called.
        """
        plan = await self._fetch(engine, model, extras)
        command = engine.command(plan, self._settings)
        self._tell(plan, command)
        self._on_progress(model, STARTING)
        spec = EngineSpec(name=model.name, command=command, address=plan.address, program=engine)
        if plan.address.port is None:
            return Prepared(spec)

        def elsewhere() -> EngineSpec:
            """The same on another port, with another key."""
            moved = replace(plan, address=self._new_address(engine))
            command = engine.command(moved, self._settings)
            return replace(spec, command=command, address=moved.address)

        return Prepared(spec, elsewhere)

    def cancel(self) -> None:
        """Give up what is under way."""
        self._cancel.set()

    async def close(self) -> None:
        """Let go of files and sockets, when no engine runs any more."""
        self.cancel()
        await self._fetching.close()
        self._sockets.close()
        for folder in self._cache_folders:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _fetch(
        self, engine: InstalledEngine, model: HostedModel, extras: ModelExtras
    ) -> ModelPlan:
        def say(line: str, is_due: bool) -> None:
            if is_due:
                self._console.line(line)
            self._on_progress(model, line)

        companions = {
            companion.key: await self._fetching.companion(companion, say)
            for companion in extras.companions
        }
        plan = ModelPlan(
            name=model.name,
            options=model.options,
            path=Path(model.options.reference),
            files=(),
            address=self._new_address(engine),
            threads=default_threads(len(self._settings.models)),
            companions=companions,
            cache_folder=self._cache_folder(model),
        )
        await in_background(self._app.check_companions, plan, self._settings)
        files = await self._fetching.model(model.options, self._app.wants, say)
        plan = replace(plan, path=files.first, files=files.all)
        placed = await self.placement.place(plan, files)
        for line in placed.lines:
            self._console.line(f"{model.name}: {line}")
        return placed.plan

    def _cache_folder(self, model: HostedModel) -> Path | None:
        """A folder for what a model's engine has computed, where that is to outlast its process."""
        is_wanted = model.options.memory_policy.saves_prompt_cache
        if not (is_wanted and self._settings.memory.moves_models):
            return None
        folder = tempfile.mkdtemp(prefix="clearml-deploy-prompts-")
        self._cache_folders.append(folder)
        return Path(folder)

    def _tell(self, plan: ModelPlan, command: EngineCommand) -> None:
        for item in command.unavailable:
            self._console.line(
                f'{plan.name}: "{item.title}" ({item.path}) has no effect: {item.reason}'
            )
        for done in command.translated:
            self._console.debug(f'{plan.name}: "{done.title}" ({done.path}) is passed as {done.to}')
        self._console.debug(f"{plan.name}: files {', '.join(map(str, plan.files))}")

    def _new_address(self, engine: InstalledEngine) -> EngineAddress:
        if engine.listens_on_sockets:
            return EngineAddress(socket_path=self._sockets.new_socket())
        return EngineAddress(port=pick_port(), key=secrets.token_urlsafe(32))

"""Parameters to checked settings and a found engine: every problem there is, before any download."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from common.errors import ConfigurationError, EngineError, Problem
from common.options.loading import load_settings
from common.options.settings import ModelOptions
from common.runtime.app import AnySettings, App, InstalledEngine


@dataclass(frozen=True)
class Checked:
    """A configuration that can be run on this machine."""

    settings: AnySettings
    engine: InstalledEngine
    warnings: tuple[str, ...]


FindEngine = Callable[[AnySettings, Mapping[str, str]], InstalledEngine]


def check_parameters(
    app: App,
    parameters: Mapping[str, Any],
    environ: Mapping[str, str],
    find_engine: FindEngine | None = None,
) -> Checked:
    """Validate parameters and find the engine.

    Args:
        app: The app.
        parameters: ``Section/name`` to value.
        environ: The worker's environment, which may name an engine.
        find_engine: Instead of the app's own search, which needs an installed engine.

    Raises:
        ConfigurationError: Every problem of the options, those that only the engine's own flags can
            tell included.
        EngineError: The options are right and no engine is there.
    """
    found: list[InstalledEngine] = []
    missing: list[EngineError] = []
    find = find_engine or app.find_engine

    def check(where: str, model: ModelOptions, settings: AnySettings) -> list[Problem]:
        if not found and not missing:
            try:
                found.append(find(settings, environ))
            except EngineError as error:
                missing.append(error)
        return found[0].check(where, model, settings) if found else []

    try:
        loaded = load_settings(app.settings, parameters, check)
    except ConfigurationError as error:
        if missing:
            extra = Problem(str(missing[0]))
            raise ConfigurationError([*error.problems, extra]) from missing[0]
        raise
    if missing:
        raise missing[0]
    return Checked(loaded.settings, found[0], loaded.warnings)

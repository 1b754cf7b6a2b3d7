"""Parameters to checked settings and a found engine: every problem there is, before any download."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.errors import ConfigurationError, EngineError, Problem
from common.options.loading import load_settings
from common.options.settings import ModelOptions
from common.runtime.app import AnySettings, App, InstalledEngine
from common.runtime.endpoint_names import known_name
from common.runtime.naming import check_adapters, preliminary_names


@dataclass(frozen=True)
class Checked:
    """A configuration that can be run on this machine, as far as is known before anything is fetched.

    Attributes:
        settings: The settings.
        engine: The engine that was found; it may have to be installed yet.
        warnings: What the user should know: parameters that are ignored, or have no effect.
        parameters: What the settings were read from, for checks that come later.
    """

    settings: AnySettings
    engine: InstalledEngine
    warnings: tuple[str, ...]
    parameters: Mapping[str, Any]


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
        ConfigurationError: Every problem of the options, those that only the engine's own flags or
            this machine can tell included.
        EngineError: The options are right and no engine is there.
    """
    found: list[InstalledEngine] = []
    missing: list[EngineError | ConfigurationError] = []
    find = find_engine or app.find_engine

    def check(where: str, model: ModelOptions, settings: AnySettings) -> list[Problem]:
        if not found and not missing:
            try:
                found.append(find(settings, environ))
            except (EngineError, ConfigurationError) as error:
                missing.append(error)
        return found[0].check(where, model, settings) if found else []

    try:
        loaded = load_settings(app.settings, parameters, check)
        check_extras(app, loaded.settings)
    except ConfigurationError as error:
        if missing:
            raise ConfigurationError([*error.problems, *_problems(missing[0])]) from missing[0]
        raise
    if missing:
        raise missing[0]
    return Checked(loaded.settings, found[0], loaded.warnings, dict(parameters))


def _problems(error: EngineError | ConfigurationError) -> Sequence[Problem]:
    return error.problems if isinstance(error, ConfigurationError) else [Problem(str(error))]


def check_extras(app: App, settings: AnySettings) -> None:
    """Refuse adapters that are wrong, unless the registry has yet to tell a model's name.

    Raises:
        ConfigurationError: One belongs to no model, or its name is taken or cannot be served.
    """
    if all(known_name(model) for model in settings.models):
        names = preliminary_names(settings)
        check_adapters(names, app.extras(names, settings))


def check_engine(app: App, parameters: Mapping[str, Any], engine: InstalledEngine) -> None:
    """Check settings that were right so far against the engine that will really run.

    Raises:
        ConfigurationError: Every problem that its flags tell.
    """
    load_settings(app.settings, parameters, engine.check)


def check_configs(
    app: App, parameters: Mapping[str, Any], configs: Sequence[Mapping[str, Any] | None]
) -> None:
    """Check settings that were right so far against the models' own ``config.json``.

    Args:
        app: The app.
        parameters: What the settings were read from.
        configs: The contents, one for each model in their order; None where it has none.

    Raises:
        ConfigurationError: Every problem that they tell.
    """
    following = iter(configs)  # the models are checked in their order

    def check(where: str, model: ModelOptions, settings: AnySettings) -> list[Problem]:
        config = next(following, None)
        return [] if config is None else app.check_config(where, model, settings, config)

    load_settings(app.settings, parameters, check)
